"""Causes that show once a WebSocket is open, and in what the service sees of its clients."""

from __future__ import annotations

from typing import Final

from echo.doctor.causes.lines import (
    CONNECTION,
    EVERY,
    FILE,
    FORWARDED_FOR,
    FORWARDED_PROTO,
    HOST,
    MAPS,
    PAGE,
    SERVER,
    TRUST,
    UPGRADE,
    WS,
    caddy,
    do,
    echo,
    haproxy,
    nginx,
)
from echo.doctor.report import Cause

# Messages

CUT: Final = Cause(
    "message-cut",
    "The connection ends in the middle of a message.",
    (
        do("the server", "tail /var/log/nginx/error.log", "journalctl -u 'echo*' -n 50"),
        nginx(WS, "proxy_read_timeout 75s;", "proxy_send_timeout 75s;"),
        haproxy("`defaults`", "timeout tunnel 75s"),
    ),
)

ALTERED: Final = Cause(
    "message-altered",
    "A message does not come back as it was sent: something in between changes the bytes.",
    (do("the way to the server", "a filter, a content scanner or a broken cache"),),
)

SILENT: Final = Cause(
    "message-lost",
    "A message does not come back in time: something in between holds it, or is very slow.",
    (
        nginx(WS, "proxy_buffering off;", "proxy_request_buffering off;"),
        do("the server", "journalctl -u 'echo*' -n 50"),
    ),
)

TOO_BIG: Final = Cause(
    "message-too-big",
    "Messages of 1 MiB are refused. That may be meant.",
    (echo("/etc/echo/echo.env", "ECHO_MAX_MESSAGE_SIZE=16777216"),),
)

BROKEN: Final = Cause(
    "protocol-broken",
    "What comes through the open connection breaks the WebSocket protocol.",
    (do("the way to the server", "something that answers 101 but is no WebSocket server"),),
)

PING_LOST: Final = Cause(
    "ping-unanswered",
    "A ping is not answered; connections that look alive may be dead.",
    (do("the way to the server", "something that drops control frames"),),
)

CLOSE_LOST: Final = Cause(
    "close-lost",
    "The closing handshake does not get through: the client sees 1006 and no reason.",
    (do("the way to the server", "something that cuts the connection at a close frame"),),
)

CLOSE_ALTERED: Final = Cause(
    "close-altered",
    "The close code or its reason does not arrive as it was sent.",
    (do("the way to the server", "something that answers close frames by itself"),),
)

IDLE_CUT: Final = Cause(
    "idle-cut",
    "A socket that is silent is cut (1006): the proxy's read timeout is shorter than the pause "
    "between two pings of the service.",
    (
        nginx(f"{WS}; its default is 60s", "proxy_read_timeout 75s;", "proxy_send_timeout 75s;"),
        haproxy("`defaults`", "timeout tunnel 75s"),
        echo("or /etc/echo/echo.env: well below the proxy's", "ECHO_KEEP_ALIVE_INTERVAL=20"),
    ),
)

IDLE_CLOSED: Final = Cause(
    "idle-closed",
    "The service itself closes a socket that is silent.",
    (
        echo("/etc/echo/echo.env, if that is not meant", "ECHO_KEEP_ALIVE_TIMEOUT=30"),
        do("the server, if it was restarted meanwhile", "journalctl -u 'echo*' -n 50"),
    ),
)

# What the service sees

CLIENT_LOST: Final = Cause(
    "forwarded-for-missing",
    "The service does not learn the client's address, only the proxy's.",
    (
        nginx(EVERY, FORWARDED_FOR),
        haproxy("`defaults`", "option forwardfor"),
        TRUST,
    ),
)

CLIENT_SPOOFED: Final = Cause(
    "forwarded-for-spoofable",
    "Any client can claim any address: the X-Forwarded-For it sends is believed.",
    (
        nginx(f"{EVERY}: overwrite it, do not append ($proxy_add_x_forwarded_for)", FORWARDED_FOR),
        nginx(
            f"{FILE}, if it has set_real_ip_from: only the addresses of your own proxies",
            "set_real_ip_from 192.0.2.10;   # never 0.0.0.0/0",
        ),
        caddy("the global options", "remove `trusted_proxies`, or name your own only"),
        haproxy("the `frontend`", "http-request del-header X-Forwarded-For", "option forwardfor"),
        echo("/etc/echo/echo.env: the proxy only", "ECHO_TRUSTED_PROXIES=unix"),
    ),
)

CLIENT_WRONG: Final = Cause(
    "forwarded-for-wrong",
    "The service sees an address that is not the client's.",
    (nginx(EVERY, FORWARDED_FOR), haproxy("`defaults`", "option forwardfor")),
)

PROTO_MISSING: Final = Cause(
    "forwarded-proto-missing",
    "The proxy does not say that the client came over TLS; the service takes it for plain HTTP.",
    (
        nginx(EVERY, FORWARDED_PROTO),
        haproxy("the `frontend`", "http-request set-header X-Forwarded-Proto https if { ssl_fc }"),
        TRUST,
    ),
)

PROTO_WRONG: Final = Cause(
    "forwarded-proto-wrong",
    "The proxy tells the service another scheme than the client used.",
    (
        nginx(f"{EVERY}: the variable, no fixed word", FORWARDED_PROTO),
        haproxy("the `frontend`", "http-request set-header X-Forwarded-Proto https if { ssl_fc }"),
    ),
)

PROTO_SPOOFED: Final = Cause(
    "forwarded-proto-spoofable",
    "Any client can claim to have come over TLS: the X-Forwarded-Proto it sends is believed.",
    (
        nginx(EVERY, FORWARDED_PROTO),
        haproxy("the `frontend`", "http-request set-header X-Forwarded-Proto http if !{ ssl_fc }"),
    ),
)

HOST_LOST: Final = Cause(
    "host-lost",
    "The service sees another Host than the client asked for; rules by host or origin fail.",
    (
        nginx(EVERY, HOST),
        haproxy("the `backend`", "remove `http-request set-header Host`"),
        caddy("the `reverse_proxy` block", "header_up Host {host}"),
    ),
)

HOST_SPOOFED: Final = Cause(
    "forwarded-host-spoofable",
    "Any client can claim another host: the X-Forwarded-Host it sends is believed.",
    (
        nginx(EVERY, "proxy_set_header X-Forwarded-Host $host;"),
        haproxy("the `frontend`", "http-request set-header X-Forwarded-Host %[req.hdr(host)]"),
    ),
)

WHOAMI_LOST: Final = Cause(
    "whoami-lost",
    "The service answers some requests, and others that are alike not.",
    (do("the server", "journalctl -u 'echo*' -n 50", "tail /var/log/nginx/error.log"),),
)

# Beside the WebSocket

SSE_BUFFERED: Final = Cause(
    "sse-buffered",
    "Server-sent events are held back and arrive all at once.",
    (
        nginx(
            f"{PAGE}, or the one that serves the events",
            "proxy_buffering off;",
            "gzip off;",
        ),
        nginx("the same block: remove", "proxy_ignore_headers X-Accel-Buffering;"),
        caddy("the `reverse_proxy` block", "flush_interval -1"),
        haproxy(
            "the `backend`", "remove `compression` for text/event-stream", "option http-no-delay"
        ),
    ),
)

SSE_CUT: Final = Cause(
    "sse-cut",
    "Server-sent events stop before their end.",
    (
        nginx(f"{PAGE}, or the one that serves the events", "proxy_read_timeout 75s;"),
        haproxy("`defaults`", "timeout server 75s"),
    ),
)

H2C: Final = Cause(
    "h2c-passed",
    "The proxy passes `Upgrade: h2c` on: a client can tunnel requests past all its rules.",
    (
        nginx(f"every location of {FILE} with `Upgrade $http_upgrade`", UPGRADE, CONNECTION),
        MAPS,
        haproxy(
            "the `frontend`",
            "http-request del-header upgrade unless { req.hdr(upgrade) -i websocket }",
        ),
    ),
)

HEALTH_PUBLIC: Final = Cause(
    "health-public",
    "Anybody can ask the health endpoints, which are for the machine's own use.",
    (
        nginx(
            SERVER,
            "location ~ ^/(healthz|readyz)$ {",
            "    allow 127.0.0.1;",
            "    allow ::1;",
            "    deny all;",
            "    proxy_pass http://echo;",
            "}",
        ),
        caddy("the Caddyfile", "respond /healthz 404", "respond /readyz 404"),
        haproxy("the `frontend`", "http-request deny deny_status 404 if { path /healthz /readyz }"),
    ),
)
