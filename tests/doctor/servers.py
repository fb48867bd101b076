"""Servers that the doctor has to cope with, in this process: strangers, and hostile ones.

async with served(handler) as target:
    report = await examined(target)
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

from echo.doctor.case import Options
from echo.doctor.examination import STEPS, examine
from echo.doctor.report import Finding, Report
from echo.doctor.target import Target, parse
from echo.doctor.text import Printer

Handler = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def served(handler: Handler, *, scheme: str = "http") -> AsyncIterator[Target]:
    """A server for each of whose connections `handler` runs; errors of a gone client are none."""

    async def run(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                await handler(stream)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, run, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        separator = "://" if scheme else ""
        yield parse(f"{scheme}{separator}127.0.0.1:{port}")
        nursery.cancel_scope.cancel()


FIRST = ("address", "tcp", "tls", "server", "handshake", "answer")
"""The steps that later ones need."""


async def examined(
    target: Target,
    *names: str,
    limit: float = 10.0,
    deadline: float = 40.0,
    idle: float = 0.0,
    origin: str | None = None,
) -> Report:
    """The report, which has to come in time; of all steps, or of these and what they need."""
    steps = [each for each in STEPS if not names or each.name in {*FIRST, *names}]
    options = Options(limit=limit, deadline=deadline, idle=idle, origin=origin)
    with trio.fail_after(deadline + 10):
        return await examine(target, options, steps=steps)


def finding(report: Report, name: str) -> Finding:
    [found] = [each for each in report.findings if each.name == name]
    return found


def cause(report: Report, name: str) -> str | None:
    found = finding(report, name).cause
    return found.id if found is not None else None


def printed(report: Report) -> str:
    """The report for people."""
    out = io.StringIO()
    printer = Printer(out, colour=False, live=False)
    printer.begin(report.url)
    for each in report.findings:
        printer.step(each.name)
        printer.finding(each)
    printer.end(report)
    return out.getvalue()


async def request(stream: trio.SocketStream) -> dict[str, str]:
    """The head of a request: its headers, and its path as "path"."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.receive_some(65536)
        if not data:
            raise trio.BrokenResourceError
        head += data
    first, *lines = head.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
    found = {"path": first.split()[1]}
    for line in lines:
        name, _, value = line.partition(":")
        found[name.lower()] = value.strip()
    return found


async def respond(stream: trio.SocketStream, status: str, body: bytes = b"", *headers: str) -> None:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    await stream.send_all("\r\n".join(lines).encode() + body)


def accept_of(key: str) -> str:
    guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1((key + guid).encode()).digest()).decode()


def opening(talk: Handler, *headers: str, answers: bool = True) -> Handler:
    """A server that opens every WebSocket, in which it does `talk`, and has nothing else.

    `answers` tells whether it says so to a plain GET, or only ends the connection.
    """

    async def handler(stream: trio.SocketStream) -> None:
        asked = await request(stream)
        if asked.get("upgrade") != "websocket":
            if answers:
                await respond(stream, "404 Not Found")
            return
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_of(asked['sec-websocket-key'])}",
            *headers,
        ]
        await stream.send_all("\r\n".join([*lines, "", ""]).encode())
        await talk(stream)

    return handler
