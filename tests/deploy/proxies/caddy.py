"""Runs the real Caddy on deploy/Caddyfile, with ports and paths of the test."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.deploy.proxies.proxy import Proxy, with_sockets
from tests.servers import ROOT

FILE: Final = ROOT / "deploy" / "Caddyfile"


class Caddy(Proxy):
    @classmethod
    def shipped(cls, *, tls: bool = False) -> str:
        text = FILE.read_text()
        return text.replace("#tls ", "") if tls else text

    def prepare(self) -> Sequence[str]:
        text = self.text
        tls = re.search(r"^\s*tls ", text, re.MULTILINE)
        site = f"localhost:{self.https_port}" if tls else f":{self.http_port}"
        text = re.sub(r"^:80 \{", f"{site} {{\n\tbind 127.0.0.1", text, flags=re.MULTILINE)
        # Its port for commands and port 80, for redirects, would be the machine's.
        options = [f"admin unix/{self._admin}", f"http_port {self.http_port}"]
        text = re.sub(r"^\{", "\n\t".join(["{", *options]), text, count=1, flags=re.MULTILINE)
        text = text.replace("/etc/echo/tls/", f"{self.tls_dir}/")
        text = with_sockets(text, self.sock)
        if self.node_port is not None:
            text = text.replace("127.0.0.1:3000", f"127.0.0.1:{self.node_port}")
        self._file.write_text(text)
        return ["caddy", "run", "--adapter", "caddyfile", "--config", str(self._file)]

    @property
    def access_log(self) -> str:
        return "".join(
            line for line in self.error_log.splitlines(keepends=True) if "http.log.access" in line
        )

    def environment(self) -> Mapping[str, str]:
        # Where it keeps certificates, and the last configuration.
        homes = {name: str(self.prefix) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        return {**super().environment(), **homes}

    def listening(self) -> bool:
        return "serving initial configuration" in self.error_log

    def reload(self) -> None:
        subprocess.run(
            [
                *("caddy", "reload", "--force", "--adapter", "caddyfile"),
                *("--config", self._file, "--address", f"unix/{self._admin}"),
            ],
            check=True,
            capture_output=True,
            env=self.environment(),
            timeout=20,
        )

    @property
    def _file(self) -> Path:
        return self.prefix / "Caddyfile"

    @property
    def _admin(self) -> Path:
        return self.prefix / "admin.sock"
