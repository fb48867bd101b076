"""Hypercorn's options from a file: what is taken over, what wins, and what a slip is told."""

import logging
import ssl
from pathlib import Path

import pytest

from echo.hosting.config import OptionsError, make_config
from echo.hosting.listeners import BACKLOG
from echo.settings import Settings


def write(folder: Path, text: str) -> str:
    path = folder / "hypercorn.toml"
    path.write_text(text)
    return str(path)


def test_options_of_the_file_are_taken_over(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'accesslog = "-"\nkeep_alive_timeout = 7\nh2_max_concurrent_streams = 20\n'
        'server_names = ["example.org"]\ninclude_server_header = false\nread_timeout = 3\n'
        "verify_mode = 2\nwebsocket_ping_interval = 20\n",
    )
    config = make_config(Settings(), path)
    logging.getLogger("hypercorn.access").handlers.clear()
    assert config.accesslog == "-"
    assert config.keep_alive_timeout == 7
    assert config.h2_max_concurrent_streams == 20
    assert config.server_names == ["example.org"]
    assert config.include_server_header is False
    assert config.read_timeout == 3
    assert config.verify_mode == ssl.VerifyMode.CERT_REQUIRED


def test_what_the_settings_decide_wins_over_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'bind = ["127.0.0.1:1"]\ninsecure_bind = ["127.0.0.1:2"]\nquic_bind = "127.0.0.1:3"\n'
        'workers = 0\nworker_class = "trio"\nbacklog = 100\ngraceful_timeout = 60\n'
        "websocket_max_message_size = 1\ndebug = true\n",
    )
    settings = Settings(shutdown_timeout=2, max_message_size=4096)
    config = make_config(settings, path)
    assert (config.insecure_bind, config.quic_bind) == ([], [])
    assert config.backlog == BACKLOG
    assert config.graceful_timeout == 2
    assert config.websocket_max_message_size == 4096
    assert (config.workers, config.debug) == (1, False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("keepalive_timeout = 5", "has no option"),
        ("keepalive_timeout = 5", "did you mean keep_alive_timeout?"),
        ("xyzzy = 5", "has no option xyzzy"),
        ("[http]\nkeep_alive_timeout = 5", "has no option http"),
        ("create_sockets = 1", "has no option create_sockets"),
        ("_log = 1", "has no option _log"),
        ("ssl_enabled = true", "has no option ssl_enabled"),
        ("keep_alive_timeout = ", "is no TOML file: Invalid value"),
        ('keep_alive_timeout = "soon"', "keep_alive_timeout cannot be 'soon'"),
        ("keep_alive_timeout = true", "keep_alive_timeout cannot be True"),
        ("accesslog = 5", "accesslog cannot be 5"),
        ("include_server_header = 1", "include_server_header cannot be 1"),
        ("read_timeout = 1.5", "read_timeout cannot be 1.5"),
        ('h2_max_concurrent_streams = "20"', "h2_max_concurrent_streams cannot be '20'"),
        ("server_names = [1]", "server_names cannot be [1]"),
        ('accesslog = "/nowhere/access.log"', "No such file or directory"),
        ('logconfig = "/nowhere/log.ini"', "/nowhere/log.ini"),
        ('certfile = "/nowhere/c.pem"\nkeyfile = "/nowhere/k.pem"', "No such file or directory"),
    ],
)
def test_a_slip_is_one_line_that_names_the_file(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(OptionsError) as caught:
        make_config(Settings(), path)
    line = str(caught.value)
    assert line.startswith(path)
    assert says in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("name", "says"), [("missing.toml", "No such file or directory"), (".", "Is a directory")]
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, says: str) -> None:
    path = str(tmp_path / name)
    with pytest.raises(OptionsError) as caught:
        make_config(Settings(), path)
    assert str(caught.value) == f"Cannot read {path}: {says}"


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionsError, match="is no TOML file"):
        make_config(Settings(), str(tmp_path / "binary"))
