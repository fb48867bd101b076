"""Causes on the way to the server: its name, its port, TLS, and whether it speaks HTTP."""

from __future__ import annotations

from typing import Final

from echo.doctor.causes.lines import SERVER, caddy, do, echo, haproxy, nginx
from echo.doctor.report import Cause

NAME_UNKNOWN: Final = Cause(
    "name-unknown",
    "No address is known for this name.",
    (
        do(
            "the zone of the domain; then look it up",
            "an A record (and AAAA, if the server has IPv6)",
            "getent ahosts NAME",
        ),
    ),
)

REFUSED: Final = Cause(
    "connection-refused",
    "Nothing listens on this port.",
    (
        do("the server", "systemctl status nginx echo.socket", "ss -ltn"),
        nginx(SERVER, "listen 80;", "listen 443 ssl;"),
    ),
)

UNREACHABLE: Final = Cause(
    "unreachable",
    "The server does not answer on this port: a firewall drops the packets, or the address is "
    "another machine's.",
    (do("the firewall of the server and of its provider", "open TCP ports 80 and 443"),),
)

NO_ROUTE: Final = Cause(
    "no-route",
    "This machine has no way to that address; the server may be well.",
    (do("this machine", "ip route; ip -6 route"),),
)

ADDRESS_DEAD: Final = Cause(
    "address-dead",
    "The name has an address at which nobody answers; clients that try it first wait.",
    (
        do("the zone of the domain", "remove the record of that address"),
        nginx(f"or {SERVER}, for IPv6", "listen [::]:443 ssl;"),
    ),
)

SOCKET_MISSING: Final = Cause(
    "socket-missing",
    "There is no such unix socket, or nobody listens on it.",
    (do("the server", "systemctl enable --now echo.socket", "systemctl status echo.socket"),),
)

SOCKET_FORBIDDEN: Final = Cause(
    "socket-forbidden",
    "The unix socket may not be opened by this user.",
    (
        do("this command", "run it as root, or as a user of the group www-data"),
        do("/etc/systemd/system/echo.socket", "SocketGroup=www-data", "SocketMode=0660"),
    ),
)

# TLS

TLS_MISSING: Final = Cause(
    "tls-missing",
    "The port speaks plain HTTP, not TLS.",
    (
        nginx(
            SERVER,
            "listen 443 ssl;",
            "ssl_certificate /etc/echo/tls/fullchain.pem;",
            "ssl_certificate_key /etc/echo/tls/privkey.pem;",
        ),
        caddy("the Caddyfile", "name the site by its host name: Caddy then has TLS by itself"),
        haproxy("the `frontend`", "bind :443 ssl crt /etc/haproxy/echo.pem"),
    ),
)

TLS_UNEXPECTED: Final = Cause(
    "tls-unexpected",
    "The port speaks TLS, but the URL says plain HTTP.",
    (do("the URL", "https:// or wss:// instead of http:// or ws://"),),
)

TLS_FAILED: Final = Cause(
    "tls-failed",
    "The TLS handshake fails.",
    (
        do("the server", "journalctl -u nginx", "tail /var/log/nginx/error.log"),
        nginx(SERVER, "ssl_protocols TLSv1.2 TLSv1.3;"),
    ),
)

TLS_OLD: Final = Cause(
    "tls-old",
    "The server speaks only versions of TLS that browsers no longer accept.",
    (nginx(SERVER, "ssl_protocols TLSv1.2 TLSv1.3;"),),
)

_RENEW = (
    do("the server", "certbot renew", "systemctl reload nginx"),
    nginx(
        f"{SERVER}, if it names another file than the one that is renewed",
        "ssl_certificate /etc/echo/tls/fullchain.pem;",
    ),
)

CERTIFICATE_EXPIRED: Final = Cause(
    "certificate-expired", "The TLS certificate has expired; no browser connects.", _RENEW
)

CERTIFICATE_EXPIRES: Final = Cause(
    "certificate-expires",
    "The TLS certificate expires soon and was not renewed.",
    (
        do("the server", "systemctl status certbot.timer", "certbot renew --dry-run"),
        do(
            "/etc/letsencrypt/renewal-hooks/deploy/, so that a renewal takes effect",
            "systemctl reload nginx",
        ),
    ),
)

CERTIFICATE_EARLY: Final = Cause(
    "certificate-not-yet-valid",
    "The TLS certificate is not valid yet: a clock is wrong, here or where it was issued.",
    (do("both machines", "timedatectl"),),
)

CERTIFICATE_NAME: Final = Cause(
    "certificate-name",
    "The TLS certificate is for another name.",
    (
        do("the server", "certbot --nginx -d NAME   # every name that clients use"),
        nginx(
            f"{SERVER}; the first one answers for names that none has",
            "server_name NAME;",
            "ssl_certificate /etc/echo/tls/fullchain.pem;",
        ),
    ),
)

CERTIFICATE_CHAIN: Final = Cause(
    "certificate-chain",
    "The TLS certificate cannot be traced to an authority this machine knows: the intermediate "
    "certificate is not sent, or the authority is your own.",
    (
        nginx(
            f"{SERVER}: the file with the whole chain, not cert.pem",
            "ssl_certificate /etc/echo/tls/fullchain.pem;",
        ),
        do("this command, if the authority is your own", "--ca FILE"),
    ),
)

CERTIFICATE_SELF_SIGNED: Final = Cause(
    "certificate-self-signed",
    "The TLS certificate is signed by nobody but itself; browsers refuse it.",
    (
        do("the server", "certbot --nginx -d NAME"),
        do("this command, if that is meant", "--ca FILE, or --no-verify"),
    ),
)

# HTTP, or what should be

NO_ANSWER: Final = Cause(
    "no-answer",
    "The connection is taken but no answer comes: the service hangs, or is overloaded.",
    (
        do("the server", "systemctl status 'echo*'", "systemctl restart echo   # or 'echo@*'"),
        do(
            "/etc/systemd/system/echo.service, so that a frozen service is restarted",
            "WatchdogSec=10",
        ),
    ),
)

ENDED_EARLY: Final = Cause(
    "ended-early",
    "The server ends the connection without an answer.",
    (do("the server", "systemctl status 'echo*'", "journalctl -u 'echo*' -n 50"),),
)

NOT_HTTP: Final = Cause(
    "not-http",
    "What listens on this port does not speak HTTP.",
    (do("the server", "ss -ltnp   # who listens there"),),
)

ENDLESS: Final = Cause(
    "endless-answer",
    "The answer has no end: what listens there is no web server, or means harm.",
    (do("the server", "ss -ltnp   # who listens there"),),
)

# The doctor itself

DEADLINE: Final = Cause(
    "deadline",
    "The examination took longer than it may.",
    (do("this command", "--deadline SECONDS for a longer one"),),
)

INTERNAL: Final = Cause(
    "doctor-error",
    "The doctor itself failed here; the other findings hold.",
    (do("Echo's bug tracker", "report the line above"),),
)

BODY_CUT: Final = Cause(
    "body-cut",
    "The answer begins but does not arrive whole.",
    (
        do(
            "the server",
            "tail /var/log/nginx/error.log",
            "df -h   # a full disk cuts large answers",
        ),
        nginx(SERVER, "proxy_read_timeout 75s;", "limit_rate 0;"),
        haproxy("`defaults`", "timeout server 75s"),
        echo("the journal", "journalctl -u 'echo*' -n 50"),
    ),
)
