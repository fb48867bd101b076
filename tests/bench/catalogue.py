"""What is measured: the servers and the shapes of load. Nothing here runs anything.

A server is a command that serves WebSockets at 127.0.0.1:PORT, bare ones that echo or a hub; a
shape is a question put to each of a suite.
"""

# ruff: noqa: RUF001 (a multiplication sign is meant)

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parents[1]
PEERS = BENCH / "peers"
REQUIREMENTS = BENCH / "requirements.txt"
PACKAGE_JSON = BENCH / "package.json"
PYPROJECT = ROOT / "pyproject.toml"
LOAD_SOURCE = BENCH / "load.c"
HUB_SOURCE = BENCH / "hub.c"


@dataclass(frozen=True, slots=True)
class Server:
    name: str  # for --only
    title: str  # in the tables
    command: tuple[str, ...]  # {python}, {node} and {port} are filled in
    needs: frozenset[str]  # distributions, or "node"; missing ones make it unmeasurable
    environment: Mapping[str, str] = field(default_factory=dict)
    path: str = "/ws"  # of its WebSockets

    @property
    def is_socketio(self) -> bool:
        """Whether its hub speaks socket.io's protocol, not SignalR's."""
        return self.path.startswith("/socket.io/")


def _peer(name: str, title: str, file: str, *needs: str, path: str = "/ws") -> Server:
    program = "{node}" if "node" in needs else "{python}"
    return Server(name, title, (program, str(PEERS / file), "{port}"), frozenset(needs), path=path)


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
    _peer("node-ws", "node ws", "node_ws.js", "node"),
)

HUB = replace(PRODUCT, path="/hub")
PORTABLE_HUB = replace(PORTABLE, path="/hub")
_UVICORN = ("uvicorn", "websockets", "httptools", "uvloop")
_SOCKETIO = "/socket.io/?EIO=4&transport=websocket"
HUB_PEERS = (
    _peer(
        "aiosignalr",
        "aiosignalr on uvicorn",
        "hub_aiosignalr.py",
        *("aiosignalr", *_UVICORN),
        path="/hub",
    ),
    _peer(
        "python-socketio",
        "python-socketio on uvicorn",
        "hub_socketio.py",
        *("python-socketio", *_UVICORN),
        path=_SOCKETIO,
    ),
    _peer("socket.io", "Node socket.io", "hub_socketio.js", "node", path=_SOCKETIO),
)


class Kind(Enum):
    ECHO = "messages per second"
    OPEN = "opens per second"
    MEMORY = "KiB per idle socket"
    BROADCAST = "deliveries per second"
    INVOKE = "calls per second"
    HUB_MEMORY = "KiB per idle hub connection"

    @property
    def is_memory(self) -> bool:
        return self in (Kind.MEMORY, Kind.HUB_MEMORY)

    @property
    def is_of_hub(self) -> bool:
        return self in (Kind.BROADCAST, Kind.INVOKE, Kind.HUB_MEMORY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    name: str  # for --shapes
    title: str  # in the tables
    connections: int
    kind: Kind = Kind.ECHO
    size: int = 64  # bytes of a message
    depth: int = 1  # messages in flight on each connection, or broadcasts in all
    text: bool = False


def _shapes(idle: int) -> tuple[Shape, ...]:
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


def _hub_shapes(idle: int) -> tuple[Shape, ...]:
    broadcast = Shape(
        name="broadcast",
        title="broadcast to 1,000",
        kind=Kind.BROADCAST,
        connections=1000,
        size=100,
    )
    invoke = Shape(name="invoke", title="64 callers", kind=Kind.INVOKE, connections=64, size=100)
    return (
        broadcast,
        replace(broadcast, name="broadcastx8", title="8 in flight", depth=8),
        invoke,
        replace(invoke, name="invokex16", title="64 callers, 16 in flight", depth=16),
        Shape(
            name="hub-memory",
            title="KiB per idle connection",
            kind=Kind.HUB_MEMORY,
            connections=idle,
        ),
    )


@dataclass(frozen=True, slots=True)
class Suite:
    """Servers that can be asked the same, and what is asked."""

    title: str
    legend: str
    servers: tuple[Server, ...]
    shapes: tuple[Shape, ...]
    references: tuple[str, ...]  # servers that the ratios are given against


def suites(idle: int, *, portable: bool) -> tuple[Suite, ...]:
    """All that can be measured; `idle` is the number of sockets the memory is divided by."""
    products, hubs = [PRODUCT], [HUB]
    if portable:
        products.append(PORTABLE)
        hubs.append(PORTABLE_HUB)
    return (
        Suite(
            "Sockets",
            "Messages per second, in brackets the latency in ms: p50 / p99.",
            (*products, *PEER_SERVERS),
            _shapes(idle),
            # The fastest host that runs applications, and the ceiling.
            ("uvicorn", "picows"),
        ),
        Suite(
            "Hubs",
            "Broadcasts: deliveries per second, in brackets the ms until the last client has it; "
            "callers: calls per second, in brackets the latency in ms: p50 / p99.",
            (*hubs, *HUB_PEERS),
            _hub_shapes(idle),
            tuple(peer.name for peer in HUB_PEERS),
        ),
    )
