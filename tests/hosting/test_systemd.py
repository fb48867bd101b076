"""systemd's side is a socket of the test; descriptors, variables and datagrams are real."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from echo.hosting import systemd
from echo.hosting.listeners import ListenError, place_of
from echo.hosting.systemd import Systemd, take_listeners


def handed_over(count: str = "1", pid: int | None = None) -> dict[str, str]:
    return {
        "LISTEN_PID": str(os.getpid() if pid is None else pid),
        "LISTEN_FDS": count,
        "LISTEN_FDNAMES": "echo.socket",
        "PATH": "/bin",
    }


# Sockets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for sockets: the path of one must be short."""
    monkeypatch.chdir(tmp_path)
    return Path(".")


def test_inherited_sockets_listen_and_stay_with_this_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind("echo.sock")
        unix.listen()
        port = tcp.getsockname()[1]
        # Two descriptors in a row, as systemd hands them over; but 3 is in use here.
        low = 200
        os.dup2(unix.fileno(), low, inheritable=True)
        os.dup2(tcp.fileno(), low + 1, inheritable=True)
    monkeypatch.setattr(systemd, "_FIRST", low)
    environ = handed_over("2")
    taken = take_listeners(environ)
    try:
        assert environ == {"PATH": "/bin"}
        assert [each.fileno() for each in taken] == [low, low + 1]
        assert not any(each.get_inheritable() for each in taken)
        assert [place_of(each) for each in taken] == [
            "unix:echo.sock",
            f"http://127.0.0.1:{port}",
        ]
        with socket.create_connection(("127.0.0.1", port)):
            taken[1].accept()[0].close()
    finally:
        for each in taken:
            each.close()


def test_an_abstract_socket_is_named_as_systemd_names_it() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0echo-{os.getpid()}")
        assert place_of(listener) == f"unix:@echo-{os.getpid()}"


@pytest.mark.parametrize("environ", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "1"}])
def test_without_both_variables_nothing_was_handed_over(environ: dict[str, str]) -> None:
    assert take_listeners(environ) == []
    assert environ == {}


def test_sockets_of_another_process_are_left_alone_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environ = handed_over(pid=1)
    assert take_listeners(environ) == []
    assert environ == {"PATH": "/bin"}
    assert "LISTEN_FDS is for process 1" in caplog.text


@pytest.mark.parametrize("count", ["0", "-1", "many", "1.0", "9" * 40, "\u0661", "1025"])
def test_a_number_that_is_none_is_one_line(count: str) -> None:
    with pytest.raises(ListenError) as caught:
        take_listeners(handed_over(count))
    assert str(caught.value).startswith(f"LISTEN_FDS is {count[:20]!r}, but it must be a number")
    assert "\n" not in str(caught.value)


def test_a_descriptor_that_is_not_open_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_FIRST", 999)
    with pytest.raises(ListenError, match=r"^Descriptor 999 of LISTEN_FDS is no socket: Bad file"):
        take_listeners(handed_over())


def test_a_file_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file:
        monkeypatch.setattr(systemd, "_FIRST", file.fileno())
        with pytest.raises(ListenError, match="is no socket: Socket operation on non-socket"):
            take_listeners(handed_over())


def wrong_sockets() -> Iterator[tuple[socket.socket, str]]:
    yield socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), "use ListenStream="
    yield socket.socket(socket.AF_UNIX), "does not listen; use Accept=no"
    ours, theirs = socket.socketpair()
    theirs.close()
    yield ours, "does not listen; use Accept=no"


def test_a_socket_that_is_of_no_use_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, says in wrong_sockets():
        with given:
            monkeypatch.setattr(systemd, "_FIRST", given.fileno())
            with pytest.raises(ListenError, match=says):
                take_listeners(handed_over())


# Notifications


class Ear:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        lines: list[str] = []
        try:
            while True:
                lines += self.socket.recv(4096).decode().split("\n")
        except BlockingIOError:
            return lines

    async def wait_for(self, line: str) -> None:
        with trio.fail_after(5):
            while line not in self.heard():
                await trio.lowlevel.wait_readable(self.socket)


@pytest.fixture
def ear(folder: Path) -> Iterator[Ear]:
    ear = Ear("notify")
    yield ear
    ear.socket.close()


@pytest.mark.parametrize("address", ["notify-here", "@echo-notify"])
def test_ready_and_stopping_are_told_with_the_status(folder: Path, address: str) -> None:
    if address.startswith("@"):
        address += str(os.getpid())
    ear = Ear(address.replace("@", "\0"))
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1", "A": "b"}
    manager = Systemd.take(environ)
    assert environ == {"A": "b"}
    manager.ready()
    assert ear.heard() == ["READY=1", "STATUS=Serving, open sockets: 0"]
    manager.stopping(3)
    assert ear.heard() == ["STOPPING=1", "STATUS=Draining, open sockets: 3"]
    ear.socket.close()


async def test_the_status_is_told_when_it_has_changed(
    ear: Ear, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    sockets = 0
    manager = Systemd("notify")
    manager.ready()
    ear.heard()
    nursery.start_soon(manager.attend, lambda: sockets, lambda: None)
    await trio.sleep(10)
    assert ear.heard() == []
    sockets = 7
    await trio.sleep(2.5)
    assert ear.heard() == ["STATUS=Serving, open sockets: 7"]
    await trio.sleep(10)
    assert ear.heard() == []


@pytest.mark.parametrize(("watchdog", "every"), [("1000000", 0.5), ("60000000", 2.0)])
async def test_signs_of_life_come_at_least_twice_as_often_as_the_watchdog_asks(
    ear: Ear,
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    watchdog: str,
    every: float,
) -> None:
    manager = Systemd.take({"NOTIFY_SOCKET": "notify", "WATCHDOG_USEC": watchdog})
    nursery.start_soon(manager.attend, lambda: 0, lambda: None)
    await trio.sleep(10 * every + 0.01)
    assert ear.heard().count("WATCHDOG=1") == 10


async def test_no_sign_of_life_while_the_event_loop_is_blocked(
    ear: Ear, nursery: trio.Nursery
) -> None:
    manager = Systemd("notify", 0.1)
    nursery.start_soon(manager.attend, lambda: 0, lambda: None)
    await ear.wait_for("WATCHDOG=1")
    time.sleep(0.3)  # noqa: ASYNC251  this is the point
    assert ear.heard() == []
    await ear.wait_for("WATCHDOG=1")


async def test_no_sign_of_life_while_something_that_matters_is_frozen(
    ear: Ear, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    alive = True
    manager = Systemd("notify", 1.0)

    async def attend() -> None:
        await manager.attend(lambda: 0, lambda: None, alive=lambda: alive)

    nursery.start_soon(attend)
    await trio.sleep(0.6)
    assert "WATCHDOG=1" in ear.heard()
    alive = False
    await trio.sleep(5)
    assert ear.heard() == []


@pytest.mark.parametrize(
    "variables",
    [
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
        {},
    ],
)
async def test_a_watchdog_that_is_not_ours_is_not_fed(
    ear: Ear,
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    variables: dict[str, str],
) -> None:
    manager = Systemd.take({"NOTIFY_SOCKET": "notify", **variables})
    nursery.start_soon(manager.attend, lambda: 1, lambda: None)
    await trio.sleep(30)
    assert ear.heard() == ["STATUS=Starting, open sockets: 1"]


@pytest.mark.parametrize("address", ["nobody", "x" * 200, "@nobody", "vsock:2:1", "a\0b", "\udc80"])
def test_nobody_at_the_other_end_is_one_warning_and_no_error(
    folder: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    manager = Systemd.take({"NOTIFY_SOCKET": address})
    manager.ready()
    manager.stopping(0)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("Cannot notify systemd at NOTIFY_SOCKET: ")


async def test_without_systemd_nothing_is_sent(autojump_clock: trio.testing.MockClock) -> None:
    manager = Systemd.take({"WATCHDOG_USEC": "1000000"})
    manager.ready()
    manager.stopping(0)
    with trio.fail_after(1):
        await manager.attend(lambda: 0, lambda: None)
