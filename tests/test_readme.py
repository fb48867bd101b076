"""What the README shows is what was tested."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from echo.hubs import HubOptions
from echo.websocket import WebSocketOptions

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_chat_is_the_one_that_clients_are_tested_with() -> None:
    docstring, _, code = (ROOT / "tests/hubs/chat.py").read_text().partition("\n\n")
    assert docstring.startswith('"""The README')
    assert code in EXAMPLES


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_each_example_is_an_app(number: int) -> None:
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(EXAMPLES[number], f"README, example {number + 1}", "exec"), names)
    assert callable(names["app"])


def described(heading: str) -> dict[str, str]:
    """The options that a section's table names, and their defaults."""
    section = README.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    table = section.partition("| Option | Default |")[2]
    found: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`[a-z_`, ]+`) \| ([^|]*) \|", table, re.MULTILINE):
        shown = defaults.split(", ") if ", " in names else [defaults]
        found.update(zip(re.findall(r"[a-z_]+", names), shown, strict=True))
    return found


@pytest.mark.parametrize(
    ("heading", "options"),
    [("Options of sockets", WebSocketOptions), ("Hubs", HubOptions)],
)
def test_all_options_are_described_with_their_defaults(
    heading: str, options: type[WebSocketOptions] | type[HubOptions]
) -> None:
    shown = described(heading)
    assert set(shown) == {each.name for each in fields(options)}
    for each in fields(options):
        if type(each.default) in (int, float):
            assert float(shown[each.name]) == each.default, each.name
        elif type(each.default) is bool or each.default == ():
            assert shown[each.name] == f"`{each.default}`", each.name
        assert each.default is not MISSING
