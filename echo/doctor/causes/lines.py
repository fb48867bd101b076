"""What several causes tell the operator to write; the names are those of deploy/nginx.conf."""

from __future__ import annotations

from typing import Final

from echo.doctor.report import Fix


def nginx(where: str, *lines: str) -> Fix:
    return Fix("nginx", where, lines)


def caddy(where: str, *lines: str) -> Fix:
    return Fix("Caddy", where, lines)


def haproxy(where: str, *lines: str) -> Fix:
    return Fix("HAProxy", where, lines)


def echo(where: str, *lines: str) -> Fix:
    return Fix("Echo", where, lines)


def do(where: str, *lines: str) -> Fix:
    return Fix("", where, lines)


FILE: Final = "/etc/nginx/nginx.conf"
HTTP: Final = f"the `http` block of {FILE}"
SERVER: Final = f"the `server` block of {FILE}"
WS: Final = f"`location = /ws` of {FILE}"
PAGE: Final = f"`location /` of {FILE}"
EVERY: Final = (
    f"{HTTP}, and every location that has a proxy_set_header of its own, for it inherits none"
)

MAPS: Final = nginx(
    f"{HTTP}, once: only a WebSocket's Upgrade may pass",
    r'map "$server_protocol $http_upgrade" $websocket '
    r'{ default ""; "~*^HTTP/1\.1 websocket$" websocket; }',
    "map $websocket $connection_header { default close; websocket upgrade; }",
)

HTTP_11: Final = "proxy_http_version 1.1;"
UPGRADE: Final = "proxy_set_header Upgrade $websocket;"
CONNECTION: Final = "proxy_set_header Connection $connection_header;"
PASS: Final = "proxy_pass http://echo;"
HOST: Final = "proxy_set_header Host $http_host;"
FORWARDED_FOR: Final = "proxy_set_header X-Forwarded-For $remote_addr;"
FORWARDED_PROTO: Final = "proxy_set_header X-Forwarded-Proto $scheme;"

TRUST: Final = echo(
    "/etc/echo/echo.env, if the proxy comes by TCP and not by the unix socket",
    "ECHO_TRUSTED_PROXIES=unix,127.0.0.1",
)
"""What the proxy says of the client counts only if the service trusts the proxy."""
