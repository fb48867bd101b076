"""What is measured: the servers and the shapes of load. Nothing here runs anything.

A server is a command that echoes at ws://127.0.0.1:PORT/ws; a shape is a question put to each.
"""

# ruff: noqa: RUF001 (a multiplication sign is meant)

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parents[1]
PEERS = BENCH / "peers"
REQUIREMENTS = BENCH / "requirements.txt"
PACKAGE_JSON = BENCH / "package.json"
PYPROJECT = ROOT / "pyproject.toml"
DRIVER_SOURCE = BENCH / "load.c"

PATH = "/ws"


@dataclass(frozen=True, slots=True)
class Server:
    name: str  # for --only
    title: str  # in the tables
    command: tuple[str, ...]  # {python}, {node} and {port} are filled in
    needs: frozenset[str]  # distributions, or "node"; missing ones make it unmeasurable
    environment: Mapping[str, str] = field(default_factory=dict)


def _peer(name: str, title: str, file: str, *needs: str) -> Server:
    command = ("{python}", str(PEERS / file), "{port}")
    return Server(name, title, command, frozenset(needs))


_PRODUCT = ("{python}", "-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:{port}", "echo:app")
_HOST = frozenset({"hypercorn", "quart-trio", "trio"})

PRODUCT = Server("echo", "**echo**", _PRODUCT, _HOST)
PORTABLE = Server("echo-portable", "echo (portable path)", _PRODUCT, _HOST, {"ECHO_REACTOR": "off"})
PEER_SERVERS = (
    _peer("plain", "hypercorn + quart-trio, plain", "echo_quart_trio.py", *_HOST),
    _peer("websockets.trio", "websockets.trio", "echo_websockets_trio.py", "websockets", "trio"),
    _peer("trio-websocket", "trio-websocket", "echo_trio_websocket.py", "trio-websocket"),
    _peer("websockets", "websockets on uvloop", "echo_websockets.py", "websockets", "uvloop"),
    _peer("aiohttp", "aiohttp on uvloop", "echo_aiohttp.py", "aiohttp", "uvloop"),
    _peer(
        "uvicorn",
        "uvicorn + websockets-sansio",
        "echo_uvicorn.py",
        *("uvicorn", "websockets", "httptools", "uvloop"),
    ),
    _peer("picows", "picows on uvloop", "echo_picows.py", "picows", "uvloop"),
    Server(
        "node-ws", "node ws", ("{node}", str(PEERS / "node_ws.js"), "{port}"), frozenset({"node"})
    ),
)

# The ratios are given against these two: the fastest host that runs applications, and the ceiling.
REFERENCES = ("uvicorn", "picows")


class Kind(Enum):
    ECHO = "messages per second"
    OPEN = "opens per second"
    MEMORY = "KiB per idle socket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    name: str  # for --shapes
    title: str  # in the tables
    connections: int
    kind: Kind = Kind.ECHO
    size: int = 64  # bytes of a message
    depth: int = 1  # messages in flight on each connection
    text: bool = False


def shapes(idle: int) -> tuple[Shape, ...]:
    """All shapes; `idle` is the number of sockets the memory is divided by."""
    return (
        Shape(name="1x64", title="1 × 64 B", connections=1),
        Shape(name="1x64-text", title="1 × 64 B text", connections=1, text=True),
        Shape(name="64x64", title="64 × 64 B", connections=64),
        Shape(name="64x64-text", title="64 × 64 B text", connections=64, text=True),
        Shape(name="64x64x16", title="64 × 64 B, 16 in flight", connections=64, depth=16),
        Shape(
            name="64x64x16-text",
            title="64 × 64 B text, 16 in flight",
            connections=64,
            depth=16,
            text=True,
        ),
        Shape(name="16x16k", title="16 × 16 KiB", connections=16, size=16 * 1024),
        Shape(name="4x1m", title="4 × 1 MiB", connections=4, size=1024 * 1024),
        Shape(name="1000x64", title="1,000 × 64 B", connections=1000),
        Shape(name="1000x64-text", title="1,000 × 64 B text", connections=1000, text=True),
        Shape(name="opens", title="opens/s", kind=Kind.OPEN, connections=16),
        Shape(name="memory", title="KiB per idle socket", kind=Kind.MEMORY, connections=idle),
    )
