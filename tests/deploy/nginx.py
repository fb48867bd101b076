"""Runs the real nginx on a configuration, as any user, and leaves nothing behind.

    with Nginx(SHIPPED, sock=path) as nginx:
        get(nginx.http_port, "/")

The text is deploy/nginx.conf or another complete configuration; `rendered` changes only what would
touch the machine: ports, the user, and paths, all of which move into a directory of the test.
"""

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.deploy.proxies.proxy import Proxy, make_certificate, with_sockets
from tests.servers import ROOT

NGINX: Final = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin") or "nginx"

SHIPPED: Final = ROOT / "deploy" / "nginx.conf"


def with_tls(text: str) -> str:
    """deploy/nginx.conf with TLS switched on, as its comment says and deploy/install does it."""
    return re.sub(r"^( *)#tls ", r"\1", text, flags=re.MULTILINE)


def rendered(
    text: str,
    *,
    sock: str | Path,
    http_port: int,
    https_port: int,
    tls_dir: str | Path,
    prefix: str | Path,
    node_port: int | None = None,
) -> str:
    """`text` for a run on this machine: the service's socket, ports, certificates and all files.

    Replaces `@SOCK@`, `@PORT@`, `@TLS_PORT@`, `@TLS@` (the directory of fullchain.pem and
    privkey.pem) and `@PREFIX@`, and what deploy/nginx.conf has in their place. `node_port` stands
    for the port of the Node server behind /socket.io/. A configuration that does not say where its
    pid file and logs are gets them in `prefix`, so nothing needs to be said about them.
    """
    for name, value in {
        "SOCK": sock,
        "PORT": http_port,
        "TLS_PORT": https_port,
        "TLS": tls_dir,
        "PREFIX": prefix,
    }.items():
        text = text.replace(f"@{name}@", str(value))
    text = with_sockets(text, sock)
    text = text.replace("/etc/echo/tls/", f"{tls_dir}/")
    text = text.replace("/var/log/nginx/", f"{prefix}/")
    text = re.sub(r"^(\s*)listen \[::\]:.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\blisten 80\b", f"listen 127.0.0.1:{http_port}", text)
    text = re.sub(r"\blisten 443\b", f"listen 127.0.0.1:{https_port}", text)
    if node_port is not None:
        text = text.replace("127.0.0.1:3000", f"127.0.0.1:{node_port}")

    # The workers run as who runs the tests, so that they can open the sockets of the tests.
    text = re.sub(r"^user .*;\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^pid .*;\n", "", text, flags=re.MULTILINE)
    main = [f"pid {prefix}/nginx.pid;"]
    if os.geteuid() == 0:
        main.append(f"user {pwd.getpwuid(0).pw_name};")
    if not re.search(r"^error_log ", text, re.MULTILINE):
        main.append(f"error_log {prefix}/error.log info;")
    # nginx makes and chowns these directories, which would else be the machine's.
    http = [
        f"{kind}_temp_path {prefix}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    ]
    if not re.search(r"^\s*access_log ", text, re.MULTILINE):
        http.append(f"access_log {prefix}/access.log;")
    text = re.sub(r"^http\s*\{", lambda found: found[0] + " " + " ".join(http), text, flags=re.M)
    # Before the first line, not above it: what nginx says names the lines of `text`.
    return " ".join([*main, text])


class Nginx(Proxy):
    """An nginx that runs in the `with` block on `text`, which is rendered first.

    Args:
        program: which nginx.
    """

    def __init__(
        self,
        text: str | Path,
        *,
        sock: str | Path,
        node_port: int | None = None,
        program: str = NGINX,
    ) -> None:
        super().__init__(text, sock=sock, node_port=node_port)
        self.program = program

    @classmethod
    def shipped(cls, *, tls: bool = False) -> str:
        text = SHIPPED.read_text()
        return with_tls(text) if tls else text

    def prepare(self) -> Sequence[str]:
        return [*self.command(), "-g", "daemon off;"]

    def command(self) -> list[str]:
        file = self.prefix / "nginx.conf"
        file.write_text(
            rendered(
                self.text,
                sock=self.sock,
                http_port=self.http_port,
                https_port=self.https_port,
                tls_dir=self.tls_dir,
                prefix=self.prefix,
                node_port=self.node_port,
            )
        )
        # -e: where it says what is wrong before it has read where to say it.
        return [self.program, "-e", "stderr", "-p", str(self.prefix), "-c", str(file)]

    @property
    def access_log(self) -> str:
        # As clients spelled it: not all of it is UTF-8.
        return (self.prefix / "access.log").read_text(errors="replace")

    @property
    def error_log(self) -> str:
        log = self.prefix / "error.log"
        return super().error_log + (log.read_text(errors="replace") if log.exists() else "")

    def listening(self) -> bool:
        # It writes its pid file when it listens.
        return (self.prefix / "nginx.pid").exists() and bool(self.workers())

    def reload(self) -> None:
        """As `systemctl reload nginx` does; returns when new workers have taken over."""
        before = self.workers()
        self.process.send_signal(signal.SIGHUP)
        self.until(lambda: self.workers() and not self.workers() & before, "it does not reload")

    def workers(self) -> set[int]:
        """The ids of the worker processes that take connections; those that shut down do not."""
        found = set()
        lists = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        for pid in [int(each) for children in lists for each in children.read_text().split()]:
            with contextlib.suppress(OSError):
                # The title of one that shuts down goes on.
                if b"worker process\0" in Path(f"/proc/{pid}/cmdline").read_bytes() + b"\0":
                    found.add(pid)
        return found


def check(text: str | Path, prefix: Path, program: str = NGINX) -> str:
    """What `nginx -t` says to `text`, rendered with `prefix`, an empty directory."""
    nginx = Nginx(text, sock=prefix / "echo.sock", program=program)
    nginx.prefix = prefix
    make_certificate(nginx.tls_dir)
    command = [*nginx.command(), "-t"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stderr
