"""The laws of the architecture, read from the code itself."""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from echo.websocket.options import Overrides, WebSocketOptions

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "echo").rglob("*.py"))
}

every_module = pytest.mark.parametrize("module", MODULES)

# What a part of the service may not know. (A part is a module and all below it.)
FORBIDDEN = {
    "echo.websocket": (
        "echo.hosting",
        "echo.application",
        "echo.settings",
        "echo.cli",
        "echo.hubs",
    ),
    "echo.websocket.codec": ("trio", "quart", "quart_trio", "echo.websocket.socket", "hypercorn"),
    "echo.websocket.deflate": ("trio", "quart", "quart_trio", "echo.websocket.socket", "hypercorn"),
    "echo.websocket.handshake": ("trio", "quart", "quart_trio", "hypercorn"),
    "echo.websocket.options": ("trio", "quart", "quart_trio", "hypercorn"),
    "echo.websocket.carriers": ("echo.websocket.middleware", "quart", "quart_trio"),
    "echo.hosting": ("echo.application", "echo.cli", "echo.hubs"),
    "echo.hubs": ("echo.hosting", "echo.application", "echo.cli", "hypercorn"),
    **{
        f"echo.hubs.{part}": ("trio", "quart", "quart_trio", "hypercorn", "echo.websocket")
        for part in (
            *("messages", "protocol", "framing", "depth", "json", "messagepack"),
            *("handshake", "binding"),
        )
    },
    "echo.doctor": (
        *("echo.application", "echo.cli", "echo.hosting", "echo.hubs", "echo.settings"),
        *("echo.websocket", "quart", "hypercorn"),
    ),
    "echo.metrics": (
        *("echo.hosting", "echo.application", "echo.cli", "echo.settings", "hypercorn"),
    ),
    "echo.echohub": ("echo.hosting", "echo.application", "echo.cli", "hypercorn"),
    "echo.settings": ("echo.application", "echo.cli", "echo.hosting", "echo.websocket"),
    "echo.application": ("echo.cli", "hypercorn"),
}
KNOWS_APPLICATION = {"echo", "echo.cli", "echo.__main__"}
KNOWS_HYPERCORN = "echo.hosting.hypercorn"
PUBLIC_HYPERCORN = ("hypercorn.config", "hypercorn.trio", "hypercorn.asyncio", "hypercorn.typing")
# Raised by the public serve() and defined nowhere else.
PUBLIC_HYPERCORN_NAMES = {"hypercorn.utils.LifespanFailureError"}


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports(module: str) -> Iterator[str]:
    """Every name that is imported, wherever it stands, also for types only."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                origin = ".".join([*parts, origin] if origin else parts)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


@every_module
def test_imports_run_one_way(module: str) -> None:
    wrong = [
        f"{module} imports {name}"
        for part, forbidden in FORBIDDEN.items()
        if within(module, part)
        for name in imports(module)
        if any(within(name, each) for each in forbidden)
    ]
    assert not wrong


@every_module
def test_only_the_entries_know_the_composition_root(module: str) -> None:
    if module not in KNOWS_APPLICATION:
        assert not [name for name in imports(module) if within(name, "echo.application")]


@every_module
def test_one_package_alone_knows_hypercorns_private_names(module: str) -> None:
    if within(module, KNOWS_HYPERCORN):
        return
    private = [
        name
        for name in imports(module)
        if within(name, "hypercorn")
        and not any(
            within(name, public) and name.count(".") <= public.count(".") + 1
            for public in PUBLIC_HYPERCORN
        )
        and name not in PUBLIC_HYPERCORN_NAMES
    ]
    assert not private


@every_module
def test_a_module_has_at_most_500_lines_unless_it_earns_more(module: str) -> None:
    # The socket is one state machine; to split it would hide who changes its state.
    most = {"echo.websocket.socket": 670}.get(module, 500)
    assert len(MODULES[module].read_text().splitlines()) <= most


@every_module
def test_a_module_states_its_law_in_a_docstring(module: str) -> None:
    assert ast.get_docstring(tree(module))


@every_module
def test_no_public_async_function_takes_a_timeout(module: str) -> None:
    """Callers put `trio.fail_after()` around it; durations of policy are options."""
    wrong = [
        f"{module}.{node.name}({argument.arg})"
        for node in ast.walk(tree(module))
        if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_")
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if "timeout" in argument.arg
    ]
    assert not wrong


def test_accept_overrides_every_option() -> None:
    options = typing.get_type_hints(WebSocketOptions)
    names = {each.name for each in dataclasses.fields(WebSocketOptions)}
    assert typing.get_type_hints(Overrides) == {name: options[name] for name in names}


def test_the_forbidden_imports_would_be_found() -> None:
    assert "echo.websocket.codec.Chunk" in set(imports("echo.websocket"))
    assert within("echo.websocket.codec.Chunk", "echo.websocket.codec")
    assert not within("echo.websocketry", "echo.websocket")
