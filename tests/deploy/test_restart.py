"""What clients see when the service restarts, stops, dies or freezes: on a booted systemd.

Clients reach it through nginx. Right is: every open socket is told, and of a stream of new
connections not one is refused or answered with an error.
"""

import time

from tests.deploy.box import Box
from tests.deploy.crowd import crowd

SOCKETS = 200
QUICK = 2.0  # seconds, for each process


def until(box: Box, unit: str, state: str, limit: float = 20) -> None:
    deadline = time.monotonic() + limit
    while (now := box.state(unit)) != state:
        assert time.monotonic() < deadline, f"{unit} is {now}:\n{box.journal(unit)}"
        time.sleep(0.05)


def restart_under_load(box: Box, *command: str, processes: int = 1) -> None:
    """Every time all are told and none is refused; at best of three it is also quick."""
    slow = []
    for _ in range(3):
        with crowd(box, sockets=SOCKETS) as clients:
            begun = time.monotonic()
            box.run(*command)
        told = clients.report
        assert told.closes == {"1012": SOCKETS}
        assert told.refused() == {}
        if told.last_close - begun < QUICK * processes and told.longest < QUICK:
            return
        slow.append((told.last_close - begun, told.longest))
    raise AssertionError(f"seconds to the last close, and of the slowest dial: {slow}")


def test_a_restart_under_load_tells_every_socket_and_refuses_none(installed: Box) -> None:
    restart_under_load(installed, "systemctl", "restart", "echo")


def test_a_stop_tells_every_socket_that_it_is_final_and_stays(installed: Box) -> None:
    with crowd(installed, sockets=20) as clients:
        # The service alone would be started again by the next dial.
        installed.run("systemctl", "stop", "echo.socket")
        time.sleep(0.2)
        states = [installed.state(each) for each in ("echo.socket", "echo.service")]
        installed.run("systemctl", "start", "echo.socket")
    assert states == ["inactive", "inactive"]
    assert clients.report.closes == {"1001": 20}
    assert clients.report.dials["502"] > 0


def test_a_dial_starts_a_service_that_was_stopped(installed: Box) -> None:
    installed.run("systemctl", "stop", "echo.service")
    with crowd(installed, sockets=1):
        until(installed, "echo.service", "active")


def test_a_killed_process_comes_back_and_no_dial_is_refused(installed: Box) -> None:
    with crowd(installed, sockets=20) as clients:
        installed.run("systemctl", "kill", "--signal=KILL", "echo.service")
        time.sleep(0.5)
        until(installed, "echo.service", "active")
    assert clients.report.closes == {"1006": 20}
    assert clients.report.dials.keys() <= {"echoed", "1006"}
    assert clients.report.dials["echoed"] > 10


def test_a_frozen_process_is_found_and_replaced(installed: Box) -> None:
    box = installed
    drop_in = box.path("/run/systemd/system/echo.service.d/watchdog.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nWatchdogSec=2\n")
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "restart", "echo.service")
    try:
        with crowd(box, sockets=20) as clients:
            pid = box.show("echo.service", "MainPID")
            box.run("kill", "-STOP", pid)
            deadline = time.monotonic() + 20
            while box.show("echo.service", "MainPID") in (pid, "0"):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            until(box, "echo.service", "active")
        assert clients.report.closes == {"1006": 20}
        assert clients.report.dials.keys() <= {"echoed", "1006"}
        # Where it hung stands in the journal.
        assert "Fatal Python error: Aborted" in box.journal("echo.service")
    finally:
        drop_in.unlink()
        box.run("systemctl", "daemon-reload")
        box.run("systemctl", "restart", "echo.service")


def test_a_reload_of_nginx_keeps_open_sockets_and_refuses_none(installed: Box) -> None:
    with crowd(installed, sockets=20) as clients:
        installed.run("systemctl", "reload", "nginx")
        time.sleep(0.5)
    assert clients.report.closes == {"open": 20}
    assert clients.report.refused() == {}
