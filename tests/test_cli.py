"""The command line, as far as it goes without starting a server."""

import dataclasses
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from echo import cli
from echo.hosting import listeners, server
from echo.settings import Settings, variable


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Settings, dict[str, Any]]]]:
    """What `serve` would have served, instead of serving it."""
    calls: list[tuple[Settings, dict[str, Any]]] = []

    def record(settings: Settings, descriptors: list[int], **options: Any) -> None:
        calls.append((settings, options))
        for descriptor in descriptors:
            os.close(descriptor)

    for name in os.environ:
        if name.startswith("ECHO_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(cli, "_serve", record)
    monkeypatch.setattr(server, "leave_on_signals", lambda: None)
    monkeypatch.setattr(server, "set_up_logging", lambda settings: None)
    yield calls


Served = list[tuple[Settings, dict[str, Any]]]


def run(*arguments: str, env: dict[str, str] | None = None) -> Any:
    return CliRunner().invoke(cli.main, arguments, env=env)


def test_without_a_command_it_serves(served: Served) -> None:
    result = run("--port", "0")
    assert result.exit_code == 0, result.output
    assert served[0][0].port == 0


def test_without_arguments_it_serves_what_the_environment_says(served: Served) -> None:
    result = run(env={"ECHO_PORT": "0", "ECHO_SHUTDOWN_TIMEOUT": "2"})
    assert result.exit_code == 0, result.output
    assert served[0][0] == Settings(port=0, shutdown_timeout=2)


def test_an_option_wins_over_its_variable(served: Served) -> None:
    env = {"ECHO_PORT": "99999", "ECHO_LOG_LEVEL": "error"}
    result = run("serve", "--port", "0", "--host", "127.0.0.1", env=env)
    assert result.exit_code == 0, result.output
    assert served[0][0] == Settings(host="127.0.0.1", port=0, log_level="error")


def test_it_says_where_it_runs(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    run("--host", "127.0.0.1", "--port", "0")
    served[0][1]["announce"]()
    line = capsys.readouterr().out
    assert line.startswith("Echo runs on http://127.0.0.1:")
    assert line.endswith(". Ctrl+C ends it.\n")


def test_a_wrong_option_names_what_is_allowed(served: Served) -> None:
    result = run("--port", "70000")
    assert result.exit_code == 2
    assert "'70000' is not a TCP port, a whole number from 0 to 65535" in result.output
    assert not served


def test_a_wrong_variable_is_one_line_and_exit_code_2(served: Served) -> None:
    result = run(env={"ECHO_SEND_TIMEOUT": "soon"})
    assert result.exit_code == 2
    assert result.output.startswith("ECHO_SEND_TIMEOUT is 'soon', but it must be seconds from")
    assert result.output.count("\n") == 1
    assert not served


def test_a_busy_port_is_one_line_that_says_how_to_choose_another(served: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run("--host", "127.0.0.1", "--port", str(port))
    assert result.exit_code == 1
    assert result.output.startswith(f"Port {port} is already in use; choose another with --port")
    assert result.output.count("\n") == 1
    assert not served


def test_a_name_that_does_not_exist_is_one_line(served: Served) -> None:
    result = run("--host", "nowhere.invalid")
    assert result.exit_code == 1
    assert result.output.startswith("Cannot listen on 'nowhere.invalid': ")
    assert result.output.count("\n") == 1


def test_a_mistyped_variable_is_warned_about(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "echo"):
        run(env={"ECHO_PORT": "0", "ECHO_PROT": "5001"})
    assert caplog.messages == [
        "ECHO_PROT is not a setting and has no effect; did you mean ECHO_PORT?"
    ]


def test_the_help_names_every_setting_and_option() -> None:
    text = run("serve", "--help").output
    for each in dataclasses.fields(Settings):
        assert text.count(f"{variable(each.name)} ") + text.count(f"{variable(each.name)};") >= 1
    for name in ("--config", "SIGUSR1", "LISTEN_FDS"):
        assert name in text


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("localhost", "http://localhost:80"),
        ("0.0.0.0", "http://localhost:80"),
        ("::", "http://localhost:80"),
        ("::1", "http://[::1]:80"),
        ("192.0.2.1", "http://192.0.2.1:80"),
    ],
)
def test_the_url_is_one_a_browser_can_open(host: str, url: str) -> None:
    assert listeners.url_of(host, 80) == url


def test_localhost_listens_on_every_address_of_the_name_with_one_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def two(host: str, port: int, **_: object) -> list[Any]:
        # 127.0.0.2 stands for ::1, which not every machine has.
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port))
            for address in ("127.0.0.1", "127.0.0.2", "127.0.0.1")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    opened = listeners.open_listeners("localhost", 0)
    try:
        addresses = [each.getsockname() for each in opened]
        assert [address for address, _ in addresses] == ["127.0.0.1", "127.0.0.2"]
        assert len({port for _, port in addresses}) == 1
        for address in addresses:
            with socket.socket() as client:
                client.connect(address)
    finally:
        for each in opened:
            each.close()


def test_an_address_family_the_machine_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(host: str, port: int, **_: object) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port))
            for address in ("192.0.2.1", "127.0.0.1")  # the first is not ours
        ]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    opened = listeners.open_listeners("localhost", 0)
    assert [each.getsockname()[0] for each in opened] == ["127.0.0.1"]
    opened[0].close()


def test_a_listener_that_fails_leaves_none_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:

        def two(host: str, port: int, **_: object) -> list[Any]:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port))
                for address in ("127.0.0.1", "127.0.0.2")
            ]

        monkeypatch.setattr(socket, "getaddrinfo", two)
        port = other.getsockname()[1]
        with pytest.raises(listeners.ListenError):
            listeners.open_listeners("localhost", port)
        socket.create_server(("127.0.0.1", port)).close()


# Further options of Hypercorn


def test_a_file_of_options_is_handed_to_hypercorn(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "hypercorn.toml"
    path.write_text("keep_alive_timeout = 75\nbacklog = 100\n")
    result = run("--port", "0", "--config", str(path))
    assert result.exit_code == 0, result.output
    config = served[0][1]["config"]
    assert config.keep_alive_timeout == 75
    assert config.backlog == listeners.BACKLOG


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file or directory"),
        ("keep_alive_timeout", "is no TOML file"),
        ("keepalive = 5", "Hypercorn has no option keepalive"),
    ],
)
def test_a_file_of_no_use_is_one_line_and_exit_code_2(
    served: Served, tmp_path: Path, text: str | None, says: str
) -> None:
    path = tmp_path / "hypercorn.toml"
    if text is not None:
        path.write_text(text)
    result = run("serve", "--port", "0", "--config", str(path))
    assert result.exit_code == 2
    assert says in result.output
    assert result.output.count("\n") == 1
    assert not served


# systemd


def test_the_variables_of_systemd_are_taken_out_of_the_environment(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "LISTEN_PID": "1",
        "LISTEN_FDS": "1",
        "NOTIFY_SOCKET": "@nobody",
        "WATCHDOG_USEC": "1000000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    left: list[str] = []

    def look(*_: object, **__: object) -> None:
        left.extend(name for name in variables if name in os.environ)

    monkeypatch.setattr(cli, "_serve", look)
    result = run("--port", "0", env=variables)
    assert result.exit_code == 0, result.output
    assert left == []
