"""What all reverse proxies of these tests have in common: ports, a certificate, a process.

A proxy runs in its `with` block, from a directory of its own that is gone afterwards. What is
particular to one, its configuration and its command, is in a class of its own.
"""

import contextlib
import os
import signal
import ssl
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import trio
import trustme

from tests.servers import environment, free_port

# Seconds for a start or a reload, on a machine that is busy.
PATIENCE: Final = 20


class Proxy(ABC):
    """A running proxy, with the service's socket behind it.

    Args:
        text: the configuration, or the file that holds it.
        sock: the unix socket of the service; need not exist. Beside it are those of its processes:
            with echo.sock, echo-1.sock and so on.
        node_port: the port of a Node server behind /socket.io/.

    Raises:
        AssertionError: it does not start; the message is what it said.
    """

    def __init__(self, text: str | Path, *, sock: str | Path, node_port: int | None = None) -> None:
        self.text = text.read_text() if isinstance(text, Path) else text
        self.sock = sock
        self.node_port = node_port
        self.http_port = free_port()
        self.https_port = free_port()

    @classmethod
    @abstractmethod
    def shipped(cls, *, tls: bool = False) -> str:
        """The configuration in deploy/, with the lines for TLS switched on if `tls`."""

    @abstractmethod
    def prepare(self) -> Sequence[str]:
        """Write the configuration into `prefix`; the command that runs it in the foreground."""

    @abstractmethod
    def listening(self) -> bool:
        """Whether it takes connections, and signals."""

    @abstractmethod
    def reload(self) -> None:
        """As its unit does on `systemctl reload`; returns when the new configuration serves."""

    @property
    @abstractmethod
    def access_log(self) -> str:
        """One line for each request."""

    @property
    def error_log(self) -> str:
        """What it said on standard output and standard error."""
        return self.output.read_text(errors="replace")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.http_port}/ws"

    @property
    def tls_url(self) -> str:
        """With the name that is in the certificate."""
        return f"https://localhost:{self.https_port}"

    @cached_property
    def client_context(self) -> ssl.SSLContext:
        """For a TLS client that trusts the proxy's certificate."""
        return ssl.create_default_context(cafile=str(self.authority_file))

    @property
    def authority_file(self) -> Path:
        """The authority's certificate, for a client that wants a file."""
        return self.tls_dir / "authority.pem"

    @property
    def tls_dir(self) -> Path:
        """Where fullchain.pem and privkey.pem are."""
        return self.prefix / "tls"

    @property
    def output(self) -> Path:
        return self.prefix / "output"

    def environment(self) -> Mapping[str, str]:
        return environment()

    def until(self, condition: Callable[[], object], complaint: str) -> None:
        """Wait for `condition`, or fail with the complaint and the log."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{complaint}:\n{self.error_log}")
            time.sleep(0.02)

    async def wait_until(self, condition: Callable[[], object], complaint: str) -> None:
        """The same beside other tasks."""
        await trio.to_thread.run_sync(self.until, condition, complaint)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            # Short: the path of a unix socket has 107 bytes.
            self.prefix = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proxy-")))
            make_certificate(self.tls_dir)
            command = self.prepare()
            self.start(command, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start(self, command: Sequence[str], stack: contextlib.ExitStack) -> None:
        output = stack.enter_context(self.output.open("wb"))
        self.process = stack.enter_context(
            subprocess.Popen(
                command,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A group of its own: workers are found even if their master is gone.
                start_new_session=True,
            )
        )
        stack.callback(self._end)
        self.until(self.listening, "it does not start")

    def _end(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def with_sockets(text: str, sock: str | Path) -> str:
    """`text` with the service's socket, and those of its processes beside it, where `sock` is."""
    text = text.replace("/run/echo.sock", str(sock))
    return text.replace("/run/echo-", str(sock).removesuffix(".sock") + "-")


def make_certificate(folder: Path) -> None:
    """fullchain.pem and privkey.pem for localhost, and who vouches for them, in `folder`."""
    folder.mkdir()
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    (folder / "fullchain.pem").write_bytes(
        b"".join(each.bytes() for each in certificate.cert_chain_pems)
    )
    certificate.private_key_pem.write_to_path(str(folder / "privkey.pem"))
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
