"""What becomes of open sockets, and of dials, while the service or the proxy changes state."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic

import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection

from tests.deploy.proxies.caddy import Caddy
from tests.deploy.proxies.client import dial, echoes
from tests.deploy.proxies.conftest import Kind
from tests.deploy.proxies.proxy import Proxy
from tests.deploy.proxies.service import Socket


async def storm(proxy: Proxy, count: int) -> int:
    """Dial all at once; how many of them echo."""
    served = 0

    async def one() -> None:
        nonlocal served
        async with dial(proxy) as socket:
            if await echoes(socket):
                served += 1

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return served


async def test_300_dials_into_a_frozen_service_are_all_served_when_it_thaws(kind: Kind) -> None:
    with ExitStack() as stack:
        socket = stack.enter_context(Socket())
        process = stack.enter_context(socket.service())
        proxy = stack.enter_context(kind(kind.shipped(), sock=socket.path))
        os.kill(process.pid, signal.SIGSTOP)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:

                async def thaw() -> None:
                    # Each has a connection of its own that waits in the queue of the socket.
                    await proxy.wait_until(
                        lambda: connections_to(socket.path) >= 300, "not all have got there"
                    )
                    os.kill(process.pid, signal.SIGCONT)

                nursery.start_soon(thaw)
                assert await storm(proxy, 300) == 300


def connections_to(path: Path) -> int:
    """Connections to a unix socket that nobody has accepted yet, and such that somebody has."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    # Without the listening socket itself.
    return sum(line.endswith(f" {path}") for line in lines) - 1


async def ends(socket: WebSocketConnection) -> int:
    """The close code."""
    with pytest.raises(ConnectionClosed) as ended:
        await socket.get_message()
    code: int = ended.value.reason.code if ended.value.reason else 1006
    return code


@pytest.fixture(scope="module")
def pinging() -> Iterator[Socket]:
    """A service whose pings are to its proxy's timeout, 1.75 s, as 30 s are to 75 s."""
    env = {"ECHO_KEEP_ALIVE_INTERVAL": "0.7", "ECHO_KEEP_ALIVE_TIMEOUT": "0.7"}
    with Socket() as socket, socket.service(env):
        yield socket


@pytest.fixture(scope="module")
def silent() -> Iterator[Socket]:
    """A service that sends no pings."""
    with Socket() as socket, socket.service({"ECHO_KEEP_ALIVE_INTERVAL": "off"}):
        yield socket


async def test_an_idle_socket_outlives_the_read_timeout_by_the_services_pings(
    kind: Kind, pinging: Socket, silent: Socket
) -> None:
    text = kind.shipped().replace("75s", "1750ms")
    with kind(text, sock=pinging.path) as lively, kind(text, sock=silent.path) as deadly:
        with trio.fail_after(20):
            async with dial(lively) as idle, dial(deadly) as dying:
                begun = monotonic()
                if kind is Caddy:  # has no such timeout
                    await trio.sleep(2.5)
                    assert await echoes(dying)
                else:
                    assert await ends(dying) == 1006
                    assert monotonic() - begun > 1.5
                    await trio.sleep(0.7)
                assert await echoes(idle)


async def test_a_restart_ends_sockets_with_1012_and_costs_no_dial(kind: Kind) -> None:
    with ExitStack() as stack:
        socket = stack.enter_context(Socket())
        old = stack.enter_context(socket.service())
        proxy = stack.enter_context(kind(kind.shipped(), sock=socket.path))
        codes: list[int] = []
        dialled = served = 0
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:

                async def hold(*, task_status: trio.TaskStatus[None]) -> None:
                    async with dial(proxy) as held:
                        task_status.started()
                        codes.append(await ends(held))

                async def dial_on() -> None:
                    nonlocal dialled
                    while not restarted.is_set():
                        dialled += 1
                        nursery.start_soon(dial_once)
                        await trio.sleep(0.02)

                async def dial_once() -> None:
                    nonlocal served
                    try:
                        async with dial(proxy) as fresh:
                            with suppress(ConnectionClosed):  # with 1012: it came just before
                                await echoes(fresh)
                    except* ConnectionRejected as refused:
                        # It passes on what a process says that was just asked to end.
                        assert kind is Caddy
                        assert "503" in str(refused.exceptions[0])
                    served += 1

                restarted = trio.Event()
                for _ in range(20):
                    await nursery.start(hold)
                nursery.start_soon(dial_on)
                await trio.sleep(0.1)
                old.send_signal(signal.SIGUSR1)
                await trio.to_thread.run_sync(old.wait, 20)
                new = socket.service()
                await trio.to_thread.run_sync(stack.enter_context, new)
                restarted.set()
        assert codes == [1012] * 20
        assert served == dialled


async def test_a_reload_keeps_open_sockets(plain: Proxy) -> None:
    with trio.fail_after(30):
        async with dial(plain) as socket:
            assert await echoes(socket)
            await trio.to_thread.run_sync(plain.reload)
            if isinstance(plain, Caddy):
                # It says goodbye to both sides; to the service without a mask, which is an error
                # that may come back before its own goodbye to the client.
                assert await ends(socket) in (1001, 1002)
            else:
                assert await echoes(socket)
        async with dial(plain) as socket:
            assert await echoes(socket)
