"""The ways to start the service, as a person or systemd does, and what its end looks like."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from trio_websocket import open_websocket_url

from tests.servers import Server, environment, free_port, run_to_end, running

HYPERCORN_GRACE = 3.0  # its default, in seconds
GRACE = 2.0  # ours in these tests
ENV = {"ECHO_SHUTDOWN_TIMEOUT": str(GRACE)}

TRIO = ("-m", "hypercorn", "-k", "trio", "-b", "{bind}")
ASYNCIO = ("-m", "hypercorn", "-b", "{bind}")
ECHO = ("-m", "echo", "--host", "127.0.0.1", "--port", "{port}")

STARTS = [
    pytest.param((*TRIO, "echo:app"), HYPERCORN_GRACE, id="hypercorn -k trio"),
    pytest.param((*TRIO, "-w", "2", "echo:app"), HYPERCORN_GRACE, id="hypercorn -k trio -w 2"),
    pytest.param((*ASYNCIO, "echo:app"), HYPERCORN_GRACE, id="hypercorn"),
    pytest.param((*ASYNCIO, "-w", "2", "echo:app"), HYPERCORN_GRACE, id="hypercorn -w 2"),
    pytest.param(ECHO, GRACE, id="python -m echo"),
    pytest.param((*ECHO, "--workers", "2"), GRACE, id="python -m echo --workers 2"),
]


async def echoes(url: str, message: str) -> str | bytes:
    with trio.fail_after(5):
        async with open_websocket_url(url) as client:
            await client.send_message(message)
            answer: str | bytes = await client.get_message()
            return answer


@contextmanager
def idle_clients(server: Server, count: int) -> Iterator[None]:
    """Clients in a process of their own that hold sockets open and do nothing else."""
    code = (
        "import sys, trio\n"
        "from trio_websocket import open_websocket_url\n"
        "async def hold(url, task_status):\n"
        "    async with open_websocket_url(url) as client:\n"
        "        await client.send_message('hello')\n"
        "        await client.get_message()\n"
        "        task_status.started()\n"
        "        await trio.sleep_forever()\n"
        "async def main(url, count):\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        for _ in range(int(count)):\n"
        "            await nursery.start(lambda task_status: hold(url, task_status))\n"
        "        print('open', flush=True)\n"
        "trio.run(main, *sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, server.ws_url, str(count)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"open\n"
            yield
        finally:
            process.kill()


def workers_of(server: Server) -> list[int]:
    # Each thread has a list of its own, and Trio starts processes from threads.
    lists = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    return [int(each) for children in lists for each in children.read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def wait_until_gone(pids: list[int], limit: float) -> None:
    deadline = time.monotonic() + limit
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "still running"
        time.sleep(0.02)


def assert_quiet(server: Server) -> None:
    for word in ("Traceback", "Warning", "Exception", "never awaited"):
        assert word not in server.stderr, server.stderr


@pytest.mark.parametrize(("command", "grace"), STARTS)
def test_each_way_to_start_serves_the_page_and_the_echo_and_ends_on_sigterm(
    command: tuple[str, ...], grace: float
) -> None:
    with running(*command, env=ENV) as server:
        assert server.get("/") == 200
        assert trio.run(echoes, server.ws_url, "héllo") == "héllo"
        code, seconds = server.end()
        assert (code, seconds < grace + 1) == (0, True)
        assert_quiet(server)


@pytest.mark.parametrize(("command", "grace"), STARTS)
def test_open_sockets_hold_the_end_up_no_longer_than_the_grace_period(
    command: tuple[str, ...], grace: float
) -> None:
    with running(*command, env=ENV) as server, idle_clients(server, 5):
        code, seconds = server.end()
        assert (code, seconds < grace + 1) == (0, True)
        assert_quiet(server)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_it_and_a_second_one_does_no_harm(workers: str) -> None:
    with running(*ECHO, "--workers", workers, env=ENV) as server, idle_clients(server, 1):
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        code, seconds = server.end(signal.SIGINT)
        assert (code, seconds < GRACE + 1) == (0, True)
        assert_quiet(server)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_says_once_where_it_runs_when_it_does(workers: str) -> None:
    with running(*ECHO, "--workers", workers, env=ENV) as server:
        deadline = time.monotonic() + 5
        while not server.stdout and time.monotonic() < deadline:
            time.sleep(0.02)  # with two workers, one may answer before the other is ready
        line = server.stdout
        assert re.fullmatch(
            rf"Echo runs on {server.url}(\W|in 2 processes)+Ctrl\+C ends it\.\n", line
        )
        assert "Running on" not in server.stderr


def test_the_asyncio_worker_says_in_one_line_how_to_be_faster() -> None:
    with running(*ASYNCIO, "echo:app") as server:
        assert server.stderr.count("hypercorn -k trio echo:app") == 1
    with running(*TRIO, "echo:app") as server:
        assert "hypercorn -k trio echo:app" not in server.stderr


def test_uvloop_hosts_it_too() -> None:
    pytest.importorskip("uvloop")
    with running("-m", "hypercorn", "-k", "uvloop", "-b", "{bind}", "echo:app") as server:
        assert trio.run(echoes, server.ws_url, "hello") == "hello"
        assert server.end()[0] == 0
        assert_quiet(server)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("-m", "echo"), id="python -m echo"),
        pytest.param(("-m", "echo", "--workers", "2"), id="python -m echo --workers 2"),
    ],
)
def test_a_wrong_setting_is_one_line(command: tuple[str, ...]) -> None:
    ended = run_to_end(*command, env={"ECHO_SEND_TIMEOUT": "soon"})
    assert ended.returncode == 2
    assert ended.stderr.startswith("ECHO_SEND_TIMEOUT is 'soon', but it must be ")
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_busy_port_is_one_line(workers: str) -> None:
    with running(*ECHO) as server:
        port = str(server.port)
        ended = run_to_end(
            "-m", "echo", "--host", "127.0.0.1", "--port", port, "--workers", workers
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Port {port} is already in use; choose another with --port")
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_a_worker_that_dies_ends_the_service_with_an_error() -> None:
    with running(*ECHO, "--workers", "2", env=ENV) as server:
        victim, other = workers_of(server)
        os.kill(victim, signal.SIGKILL)
        assert server.process.wait(GRACE + 2) == 1
        assert f"Worker {victim} ended by itself with code -9" in server.stderr
        assert not is_running(other)


def test_workers_end_when_their_supervisor_is_killed() -> None:
    with running(*ECHO, "--workers", "2", env=ENV) as server:
        workers = workers_of(server)
        assert len(workers) == 2
        server.process.kill()
        wait_until_gone(workers, GRACE + 2)
        assert_quiet(server)


def test_sigterm_while_it_starts_ends_it_without_a_word() -> None:
    # At any moment from the first line of ours on; before, the interpreter's own default holds.
    for delay in (0.3, 0.5, 0.7):
        with running(*ECHO, env=ENV, answers=False) as server:
            time.sleep(delay)
            code, _ = server.end()
            assert code in {0, -signal.SIGTERM}
            assert_quiet(server)


# An application that neither listens to the end nor lets itself be cancelled, as a write to a
# client that does not read is in Hypercorn.
STUBBORN = """
import sys, trio
from echo.hosting import listeners, server
from echo.settings import Settings

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    if scope["path"] == "/stuck":
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

settings = Settings(host="127.0.0.1", port=int(sys.argv[1]), shutdown_timeout=0.5)
server.set_up_logging(settings)
sockets = listeners.open_listeners(settings.host, settings.port)
server.run(
    lambda: server.serve(app, settings, [each.detach() for each in sockets], announce=lambda: None)
)
"""


def test_what_cannot_be_cancelled_is_ended_by_force_a_second_after_the_grace_period() -> None:
    with running("-c", STUBBORN, "{port}") as server:
        server.get("/stuck")
        code, seconds = server.end()
        assert (code, 1.4 < seconds < 2.5) == (1, True)
        assert "ending by force" in server.stderr


FAILING = """
import sys
from echo import application, cli

def create_app(settings, lifecycle):
    raise OSError("no such backplane")

application.create_app = create_app
cli.main(["--port", sys.argv[1]])
"""


def test_an_application_that_cannot_start_ends_with_a_reason_and_code_1() -> None:
    ended = run_to_end("-c", FAILING, str(free_port()))
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "Lifespan failure in startup. 'OSError: no such backplane'"
    )
    assert "Echo runs on" not in ended.stdout
