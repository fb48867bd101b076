"""Clients that other people wrote, against the process: whatever they send comes back.

HTTP/2 has its tests in the contract of the socket layer.
"""

import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trustme
import websockets.sync.client
from trio_websocket import open_websocket_url

from tests.missing import needs
from tests.servers import Server, environment, running

HYPERCORN = ("-m", "hypercorn", "-k", "trio", "-b", "{bind}", "echo:app")
ECHO = ("-m", "echo", "--host", "127.0.0.1", "--port", "{port}")

MESSAGES: list[str | bytes] = ["", b"", "héllo ☃", b"\x00\xff", "x" * 70_000, b"y" * 1_000_000]

STARTS = [
    pytest.param((HYPERCORN, "on"), id="hypercorn -k trio"),
    pytest.param((HYPERCORN, "off"), id="hypercorn -k trio, portable path"),
    pytest.param((ECHO, "on"), id="python -m echo"),
]


@pytest.fixture(scope="module", params=STARTS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    command, reactor = request.param
    env = {"ECHO_REACTOR": reactor, "ECHO_COMPRESSION": "on"}
    with running(*command, env=env) as server:
        yield server
        assert "Traceback" not in server.stderr


async def exchange(
    send: Callable[[str | bytes], Awaitable[None]],
    receive: Callable[[], Awaitable[str | bytes]],
) -> None:
    for message in MESSAGES:
        await send(message)
        assert await receive() == message


def test_trio_websocket_gets_its_messages_back(server: Server) -> None:
    async def talk() -> None:
        with trio.fail_after(20):
            async with open_websocket_url(server.ws_url) as client:
                await exchange(client.send_message, client.get_message)
                await client.aclose(1000, "done")
                assert client.closed is not None
                assert (client.closed.code, client.closed.reason) == (1000, "done")

    trio.run(talk)


@pytest.mark.parametrize("compression", ["deflate", None])
def test_websockets_gets_its_messages_back(server: Server, compression: str | None) -> None:
    with websockets.sync.client.connect(server.ws_url, compression=compression) as client:
        extensions = [each.name for each in client.protocol.extensions]
        assert extensions == (["permessage-deflate"] if compression else [])
        for message in MESSAGES:
            client.send(message)
            assert client.recv(timeout=10) == message
        client.send(["frag", "ments"])
        assert client.recv(timeout=10) == "fragments"
        client.close(4000, "done")
        assert (client.close_code, client.close_reason) == (4000, "done")


NODE = """
const socket = new WebSocket(process.argv[1]);
socket.binaryType = "arraybuffer";
const got = [];
socket.onopen = () => { socket.send("héllo"); socket.send(new Uint8Array([0, 255])); };
socket.onerror = (event) => { console.log(String(event.message)); process.exit(1); };
socket.onmessage = (event) => {
  got.push(typeof event.data === "string" ? event.data : [...new Uint8Array(event.data)]);
  if (got.length === 2) socket.close(4000, "done");
};
socket.onclose = (event) => console.log(JSON.stringify([got, event.code, event.reason]));
"""


@needs("node", "nodejs")
def test_node_gets_its_messages_back(server: Server) -> None:
    node = shutil.which("node")
    assert node is not None
    flags = ["--experimental-websocket"]  # Node 20 and 21; built in from 22 on
    known = subprocess.run([node, *flags, "-e", ""], capture_output=True, timeout=30)
    if known.returncode:
        pytest.skip("this Node.js has no WebSocket: it came with version 20.10")
    ended = subprocess.run(
        [node, *flags, "-e", NODE, server.ws_url],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(),
    )
    assert ended.stdout == '[["héllo",[0,255]],4000,"done"]\n', ended.stderr


def test_tls_carries_it(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(key))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    tls = ("--certfile", str(chain), "--keyfile", str(key))
    with running(*HYPERCORN, *tls, answers=False) as server:

        async def talk() -> None:
            url = server.ws_url.replace("ws://", "wss://")
            with trio.fail_after(20):
                while True:
                    try:
                        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
                        break
                    except OSError:
                        await trio.sleep(0.05)
                await stream.aclose()
                async with open_websocket_url(url, ssl_context=context) as client:
                    await exchange(client.send_message, client.get_message)

        trio.run(talk)
        code, seconds = server.end()
        assert (code, seconds < 4) == (0, True)
        assert "Traceback" not in server.stderr
