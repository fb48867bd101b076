"""The settings: what the environment may say, and what is answered to a slip."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from echo.settings import Address, Settings, SettingsError, rule_of, unknown_variables, variable


def test_what_may_hold_a_password_is_not_shown() -> None:
    url = "redis://:secret@host"
    with pytest.raises(SettingsError) as error:
        Settings.from_environ({"ECHO_BACKPLANE": f"x{url}"})
    assert str(error.value) == "ECHO_BACKPLANE must be a URL as redis://host:6379, or empty"
    settings = Settings.from_environ({"ECHO_BACKPLANE": url})
    assert settings.backplane == url
    assert "secret" not in repr(settings)


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environ({}) == Settings()
    assert Settings() == Settings(
        host="localhost",
        port=5000,
        workers=1,
        log_level="info",
        shutdown_timeout=5,
        shutdown_code=1001,
        shutdown_spread=0,
        keep_alive_interval=30,
        keep_alive_timeout=30,
        receive_buffer_size=262144,
        max_message_size=16777216,
        send_buffer_size=65536,
        send_timeout=30,
        close_timeout=5,
        allowed_origins=(),
        trusted_proxies=("unix",),
        compression=False,
        reactor=True,
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("host", "0.0.0.0", "0.0.0.0"),
        ("host", " ::1 ", "::1"),
        ("port", "0", 0),
        ("port", "65535", 65535),
        ("workers", "4", 4),
        ("log_level", "DEBUG", "debug"),
        ("shutdown_timeout", "0", 0.0),
        ("shutdown_timeout", "2.5", 2.5),
        ("shutdown_code", "1012", 1012),
        ("shutdown_spread", "1.5", 1.5),
        ("keep_alive_interval", "0.25", 0.25),
        ("keep_alive_interval", "off", None),
        ("keep_alive_timeout", "OFF", None),
        ("receive_buffer_size", "1024", 1024),
        ("max_message_size", "1", 1),
        ("send_buffer_size", "131072", 131072),
        ("send_timeout", "60", 60.0),
        ("close_timeout", "1", 1.0),
        ("allowed_origins", "", ()),
        (
            "allowed_origins",
            "https://Example.org, http://localhost:5000,",
            ("https://example.org", "http://localhost:5000"),
        ),
        ("trusted_proxies", "none", ()),
        (
            "trusted_proxies",
            "Unix, 10.0.0.0/8, 192.0.2.1, 2001:DB8::/32,",
            ("unix", "10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"),
        ),
        ("compression", "on", True),
        ("reactor", "off", False),
        ("metrics", "ALL", "all"),
        ("metrics", "127.0.0.1:9100-9103", Address("127.0.0.1", range(9100, 9104))),
        ("metrics", "[::1]:0", Address("::1", range(1))),
    ],
)
def test_a_variable_sets_its_field(name: str, text: str, value: Any) -> None:
    settings = Settings.from_environ({variable(name): text})
    assert settings == dataclasses.replace(Settings(), **{name: value})
    assert type(getattr(settings, name)) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("host", "two words"),
        ("port", "-1"),
        ("port", "65536"),
        ("port", "5_000"),
        ("port", "\u0665\u0660\u0660\u0660"),
        ("port", "5000.0"),
        ("port", "http"),
        ("workers", "0"),
        ("log_level", "loud"),
        ("shutdown_timeout", "-1"),
        ("shutdown_timeout", "nan"),
        ("shutdown_timeout", "inf"),
        ("shutdown_timeout", "1e3"),
        ("shutdown_timeout", "off"),
        ("shutdown_timeout", "3600.5"),
        ("shutdown_code", "1000"),
        ("keep_alive_interval", "0"),
        ("keep_alive_timeout", "30s"),
        ("receive_buffer_size", "0"),
        ("max_message_size", "9" * 5000),
        ("send_timeout", "0"),
        ("allowed_origins", "example.org"),
        ("allowed_origins", "https://example.org/"),
        ("allowed_origins", "https://example.org,*"),
        ("shutdown_spread", "off"),
        ("trusted_proxies", "10.0.0.1/8"),
        ("trusted_proxies", "proxy.example"),
        ("trusted_proxies", "none, unix"),
        ("trusted_proxies", "*"),
        ("trusted_proxies", ","),
        ("compression", "yes"),
        ("reactor", "1"),
        ("metrics", "localhost:9100"),
        ("metrics", "127.0.0.1"),
        ("metrics", "127.0.0.1:9103-9100"),
        ("metrics", "127.0.0.1:65536"),
        ("metrics", "127.0.0.1:1-60000"),
        ("metrics", "::1:9100"),
        ("port", "50\n00"),
    ],
)
def test_a_wrong_value_is_one_line_with_variable_value_and_what_is_allowed(
    name: str, text: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({variable(name): text})
    line = str(caught.value)
    assert line.startswith(variable(name) + " is ")
    assert repr(text)[:70] in line
    assert rule_of(name).allowed in line
    assert "\n" not in line and len(line) < 250


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_environ({"ECHO_PORT": "", "ECHO_COMPRESSION": ""}) == Settings()


def test_variables_of_others_do_not_matter() -> None:
    assert Settings.from_environ({"PORT": "x", "HOST": "y"}) == Settings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_every_default_is_a_value_that_its_rule_allows() -> None:
    for each in dataclasses.fields(Settings):
        default = each.default
        if isinstance(default, bool):
            text = "on" if default else "off"
        elif isinstance(default, tuple):
            text = ",".join(default)
        else:
            text = str(default)
        assert rule_of(each.name).parse(text) == default, each.name


def test_a_mistyped_variable_is_reported_with_the_nearest_name() -> None:
    environ = {"ECHO_PROT": "1", "ECHO_PORT": "1", "ECHO_XYZZY": "1", "PATH": "/bin"}
    assert unknown_variables(environ) == [
        "ECHO_PROT is not a setting and has no effect; did you mean ECHO_PORT?",
        "ECHO_XYZZY is not a setting and has no effect",
    ]


def test_the_module_needs_the_standard_library_only() -> None:
    # Loaded from its file: the package's own __init__ may import what it likes.
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('settings', sys.argv[1])\n"
        "module = sys.modules['settings'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "heavy = {'trio', 'quart', 'asyncio', 'hypercorn', 'click'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    path = sys.modules[Settings.__module__].__file__
    assert path is not None
    subprocess.run([sys.executable, "-c", code, path], check=True)
