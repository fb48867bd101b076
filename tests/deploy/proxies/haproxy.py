"""Runs the real HAProxy on deploy/haproxy.cfg, with ports and paths of the test."""

import re
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.deploy.proxies.proxy import Proxy, with_sockets
from tests.servers import ROOT

FILE: Final = ROOT / "deploy" / "haproxy.cfg"


class HAProxy(Proxy):
    @classmethod
    def shipped(cls, *, tls: bool = False) -> str:
        text = FILE.read_text()
        return text.replace("#tls ", "") if tls else text

    def prepare(self) -> Sequence[str]:
        text = re.sub(r"^ *bind \[::\].*\n", "", self.text, flags=re.MULTILINE)
        text = text.replace("bind :80", f"bind 127.0.0.1:{self.http_port}")
        text = text.replace("bind :443", f"bind 127.0.0.1:{self.https_port}")
        text = text.replace("/etc/echo/tls/", f"{self.tls_dir}/")
        text = with_sockets(text, self.sock)
        text = text.replace("log /dev/log", "log stdout format raw")
        if self.node_port is not None:
            text = text.replace("127.0.0.1:3000", f"127.0.0.1:{self.node_port}")
        # It runs as who runs the tests, so that it can open their sockets.
        text = re.sub(r"^ *(user|group) .*\n", "", text, flags=re.MULTILINE)
        file = self.prefix / "haproxy.cfg"
        file.write_text(text)
        (self.tls_dir / "fullchain.pem.key").symlink_to("privkey.pem")
        return ["haproxy", "-W", "-S", str(self._master), "-f", str(file)]

    @property
    def access_log(self) -> str:
        lines = self.error_log.splitlines(keepends=True)
        return "".join(line for line in lines if re.match(r"[0-9a-f.:]+ \d{3} ", line))

    def listening(self) -> bool:
        # A signal is lost before the master turns, and it says that it has loaded before it does.
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(1)
            try:
                stream.connect(str(self._master))
                stream.sendall(b"show proc\n")
                return b"worker" in stream.recv(4096)
            except OSError:
                return False

    def reload(self) -> None:
        before = self._loaded()
        self.process.send_signal(signal.SIGUSR2)
        self.until(lambda: self._loaded() > before, "it does not reload")

    def _loaded(self) -> int:
        """How many workers have begun to serve."""
        return self.error_log.count("Loading success")

    @property
    def _master(self) -> Path:
        return self.prefix / "master.sock"
