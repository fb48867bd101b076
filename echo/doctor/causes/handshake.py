"""Causes of a request that is refused: the page's, and the WebSocket's opening handshake."""

from __future__ import annotations

from typing import Final

from echo.doctor.causes.lines import (
    CONNECTION,
    FILE,
    HTTP,
    HTTP_11,
    MAPS,
    PASS,
    SERVER,
    UPGRADE,
    WS,
    caddy,
    do,
    echo,
    haproxy,
    nginx,
)
from echo.doctor.report import Cause

# Any request

UPSTREAM_DOWN: Final = Cause(
    "upstream-down",
    "The proxy runs but does not reach the service behind it.",
    (
        do(
            "the server",
            "systemctl enable --now echo.socket",
            "systemctl status 'echo*'",
            "tail /var/log/nginx/error.log   # no such file, refused, or permission denied",
        ),
        nginx(f"the `upstream echo` block of {FILE}", "server unix:/run/echo.sock;"),
        caddy("the Caddyfile", "reverse_proxy unix//run/echo.sock"),
        haproxy("the `backend`", "server echo unix@/run/echo.sock"),
    ),
)

UPSTREAM_FROZEN: Final = Cause(
    "upstream-frozen",
    "The proxy reached the service, which did not answer in time: it hangs or is overloaded.",
    (
        do("the server", "systemctl status 'echo*'", "systemctl restart echo   # or 'echo@*'"),
        do(
            "/etc/systemd/system/echo.service, so that a frozen service is restarted",
            "WatchdogSec=10",
            "Restart=always",
        ),
        nginx(f"{WS}, if it is shorter", "proxy_read_timeout 75s;"),
        haproxy("`defaults`, if it is shorter", "timeout server 75s"),
    ),
)

UNAVAILABLE: Final = Cause(
    "unavailable",
    "The server says that it cannot serve now.",
    (
        do("the server", "systemctl status 'echo*'", "journalctl -u 'echo*' -n 50"),
        haproxy("the `backend`: no server of it is up", "server echo unix@/run/echo.sock"),
    ),
)

DRAINING: Final = Cause(
    "draining",
    "The service is shutting down and takes nobody in; a new one should follow at once.",
    (do("the server", "systemctl status 'echo*'", "journalctl -u 'echo*' -n 50"),),
)

SERVICE_ERROR: Final = Cause(
    "service-error",
    "The service failed with an error of its own.",
    (do("the server", "journalctl -u 'echo*' -n 50"),),
)

LIMITED: Final = Cause(
    "dial-limited",
    "A limit of the proxy refuses connections that a busy page or a reconnect needs.",
    (
        nginx(HTTP, "limit_req_status 429;", "limit_conn_status 429;"),
        nginx(
            f"{WS}; clients behind one address (an office, a carrier) count as one",
            "limit_req zone=dials burst=2000 nodelay;",
            "limit_conn sockets 1000;",
        ),
        haproxy("the `frontend`", "raise the limit of the stick-table rule, and maxconn"),
    ),
)

PASSWORD: Final = Cause(
    "password",
    "The proxy asks for a password, which a WebSocket of a browser cannot be made to send.",
    (nginx(WS, "auth_basic off;"),),
)

REDIRECTED_TO_TLS: Final = Cause(
    "redirected-to-https",
    "This port only redirects to HTTPS, and a WebSocket does not follow redirects.",
    (do("the URL that clients use", "wss:// instead of ws://; examine the https:// URL"),),
)

REDIRECTED: Final = Cause(
    "redirected",
    "The WebSocket's path is redirected, and a WebSocket does not follow redirects.",
    (
        do("the URL that clients use", "the place that the redirect names"),
        nginx(
            f"{FILE}: a `location /ws/` with the slash redirects what comes without it",
            "location = /ws { ... }",
        ),
    ),
)

# The page

PAGE_MISSING: Final = Cause(
    "page-missing",
    "The page is not there: the proxy does not pass / to the service.",
    (
        nginx(SERVER, "location / {", f"    {PASS}", "}"),
        caddy("the Caddyfile: not only for /ws", "reverse_proxy unix//run/echo.sock"),
        haproxy("the `frontend`: not only for /ws", "default_backend echo"),
    ),
)

DEFAULT_SITE: Final = Cause(
    "default-site",
    "The default site of the web server answers, not Echo's.",
    (
        do("the server", "rm /etc/nginx/sites-enabled/default", "systemctl reload nginx"),
        nginx(SERVER, "server_name NAME;   # or listen ... default_server"),
    ),
)

# The handshake

UPGRADE_LOST: Final = Cause(
    "upgrade-lost",
    "The proxy drops the Upgrade header, so the service sees an ordinary request.",
    (
        nginx(WS, HTTP_11, UPGRADE, CONNECTION),
        MAPS,
        haproxy("the `frontend`", "remove `http-request del-header upgrade` or `option httpclose`"),
        caddy("the `reverse_proxy` block", "remove `header_up -Upgrade`"),
    ),
)

CONNECTION_LOST: Final = Cause(
    "connection-lost",
    "The proxy passes the Upgrade header on but not `Connection: Upgrade` with it.",
    (
        nginx(WS, CONNECTION, UPGRADE, HTTP_11),
        MAPS,
        haproxy("the `frontend`", "remove `option httpclose` and rules that set Connection"),
        caddy("the `reverse_proxy` block", "remove `header_up Connection ...`"),
    ),
)

UPSTREAM_HTTP10: Final = Cause(
    "upstream-http10",
    "The proxy speaks HTTP/1.0 to the service, and WebSockets need HTTP/1.1.",
    (nginx(f"{WS}: 1.0 is nginx' default before 1.29", HTTP_11),),
)

HEADERS_LOST: Final = Cause(
    "handshake-headers-lost",
    "The proxy drops a Sec-WebSocket header of the handshake.",
    (
        nginx(
            f"{WS}: remove what sets a Sec-WebSocket header, and",
            "proxy_pass_request_headers on;",
        ),
    ),
)

BAD_REQUEST: Final = Cause(
    "bad-request",
    "The handshake is refused as a bad request; mostly a proxy has dropped the headers Upgrade "
    "and Connection.",
    (nginx(WS, HTTP_11, UPGRADE, CONNECTION), MAPS),
)

NOT_ROUTED: Final = Cause(
    "path-not-routed",
    "The proxy knows no such path: it has no location for the WebSocket.",
    (
        nginx(
            SERVER,
            "location = /ws {",
            *(f"    {line}" for line in (PASS, HTTP_11, UPGRADE, CONNECTION)),
            "}",
        ),
        MAPS,
        caddy("the Caddyfile", "reverse_proxy /ws unix//run/echo.sock"),
        haproxy("the `frontend`", "use_backend echo if { path /ws }"),
        do("this command, if the WebSocket is elsewhere", "--path /the/path"),
    ),
)

PATH_UNKNOWN: Final = Cause(
    "path-unknown",
    "The service behind the proxy knows no such path: the proxy changes it, or passes it to "
    "another service.",
    (
        nginx(f"{WS}: without a path after the name, so that the request's own is kept", PASS),
        caddy("the Caddyfile", "`handle` instead of `handle_path`"),
        haproxy("the `backend`", "remove `http-request set-path` and `replace-path`"),
        do("this command, if the WebSocket is elsewhere", "--path /the/path"),
    ),
)

SERVES_PAGE: Final = Cause(
    "path-serves-page",
    "The path answers with a page: the request never gets to the WebSocket.",
    (
        nginx(
            f"{WS}: an exact location wins over `try_files` and over `location /`",
            PASS,
            HTTP_11,
            UPGRADE,
            CONNECTION,
        ),
        MAPS,
        do("this command, if the WebSocket is elsewhere", "--path /the/path"),
    ),
)

SWITCHED_OFF: Final = Cause(
    "websockets-refused",
    "The proxy refuses WebSockets here on purpose.",
    (nginx(f"{WS}: remove `return 426`, and", PASS, HTTP_11, UPGRADE, CONNECTION), MAPS),
)

VERSION_REFUSED: Final = Cause(
    "version-refused",
    "The server does not accept WebSocket version 13, the only one there is.",
    (nginx(f"{WS}: remove", "proxy_set_header Sec-WebSocket-Version ...;"),),
)

FORBIDDEN: Final = Cause(
    "forbidden",
    "The server forbids this request, without an Origin and with the page's own.",
    (
        do("this command, if only pages from elsewhere may connect", "--origin https://the.page"),
        nginx(f"{WS}: look for `deny`, `if`, `allow`, `satisfy`", "allow all;"),
        do("the server", "tail /var/log/nginx/error.log   # access forbidden by rule"),
    ),
)

UNEXPECTED: Final = Cause(
    "unexpected-status",
    "The handshake is answered with a status that no proxy or service should use here.",
    (do("the server", "tail /var/log/nginx/error.log", "journalctl -u 'echo*' -n 50"),),
)

ORIGIN_REFUSED: Final = Cause(
    "origin-refused",
    "The page's own origin may not open a WebSocket, so the page cannot work.",
    (
        echo("/etc/echo/echo.env", "ECHO_ALLOWED_ORIGINS=ORIGIN"),
        nginx(
            f"{WS}, if nginx has the rule: $scheme and $host as the browser sees them",
            'if ($http_origin !~* "^$|^ORIGIN$") { return 403; }',
        ),
    ),
)

# The answer to the handshake

ACCEPT_WRONG: Final = Cause(
    "accept-wrong",
    "The handshake's answer is not the one to our key: something in between answers by itself, "
    "or from a cache.",
    (nginx(WS, "proxy_cache off;"), do("the way to the server", "a cache or filter in between")),
)

ANSWER_WRONG: Final = Cause(
    "answer-wrong",
    "The answer 101 lacks `Upgrade: websocket` or `Connection: Upgrade`; clients must fail it.",
    (nginx(f"{WS}: remove", "proxy_hide_header Upgrade;", "proxy_hide_header Connection;"),),
)

UNASKED: Final = Cause(
    "answer-unasked",
    "The answer takes a subprotocol or an extension that was not offered; clients must fail it.",
    (nginx(f"{WS}: remove", "add_header Sec-WebSocket-Protocol ...;"),),
)

SUBPROTOCOL_LOST: Final = Cause(
    "subprotocol-lost",
    "The offered subprotocol is not answered; a browser fails such a connection.",
    (
        nginx(
            f"{WS}: remove",
            'proxy_set_header Sec-WebSocket-Protocol "";',
            "proxy_hide_header Sec-WebSocket-Protocol;",
        ),
    ),
)

BURST: Final = Cause(
    "burst-refused",
    "Several sockets at once are not all served: a queue on the way is too short.",
    (
        do("/etc/systemd/system/echo.socket", "Backlog=4096"),
        nginx(f"the `upstream echo` block of {FILE}", "server unix:/run/echo.sock max_fails=0;"),
        nginx(f"the `events` block of {FILE}", "worker_connections 20480;"),
        haproxy("`global` and `defaults`", "maxconn 20000"),
    ),
)
