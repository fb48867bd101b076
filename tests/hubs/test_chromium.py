"""Microsoft's JavaScript client in a real browser: the same cases, and what only browsers do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.hubs.clients import (
    COMBINATIONS,
    FILES,
    FOLDER,
    NUMBERS,
    Results,
    chat,
    check,
    check_resumed,
    host,
    matrix,
)
from tests.hubs.node import client_folder
from tests.hubs.proxy import Proxy
from tests.servers import Server, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = [
    "--no-sandbox",  # root in a container has no namespaces to build a sandbox of
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TRANSPORTS = ("WebSockets", "ServerSentEvents", "LongPolling")
PATIENCE = 120_000  # milliseconds that the browser may take for what it usually does at once


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(tls_port: int) -> Iterator[Server]:
    with host("--tls-port", str(tls_port)) as server:
        yield server


@pytest.fixture(scope="module")
def tls_url(server: Server, tls_port: int) -> str:
    return f"https://127.0.0.1:{tls_port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if executable is None:
        pytest.skip(f"no Chromium: none of {', '.join(CHROMIUM_NAMES)} is on the PATH")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable, args=CHROMIUM_FLAGS, timeout=PATIENCE
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """A page of the host with the client loaded."""
    with browser.new_context() as context:
        yield open_page(context, server.url)


def open_page(context: BrowserContext, url: str, files: Sequence[Path] = FILES) -> Page:
    """A page of the host, with the client and the cases loaded."""
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(url)
    modules = client_folder() / "node_modules" / "@microsoft"
    for script in (
        modules / "signalr" / "dist" / "browser" / "signalr.js",
        modules / "signalr-protocol-msgpack" / "dist" / "browser" / "signalr-protocol-msgpack.js",
        FOLDER / "harness.js",
        *files,
    ):
        page.add_script_tag(path=script)
    return page


def begin_cases(page: Page, **setting: Any) -> None:
    page.evaluate(
        """(setting) => {
            window.results = runTests(setting, { signalR, msgpack: signalR.protocols.msgpack });
        }""",
        {**setting, "place": "browser"},
    )


def results_of(page: Page) -> Results:
    results: Results = page.evaluate("results")
    return results


@pytest.fixture(scope="module")
def results(browser: Browser, server: Server) -> dict[tuple[str, str], Results]:
    """What came of the cases; each setting has a page, and all run at the same time."""
    with ExitStack() as stack:
        pages = {}
        for transport, protocol in COMBINATIONS:
            context = stack.enter_context(browser.new_context())
            page = pages[transport, protocol] = open_page(context, server.url)
            # Over HTTP/1.1 a browser opens six connections to a host, and waiting ones fill them.
            at_once = 4 if transport == "WebSockets" else 1
            kind = {"transport": transport, "protocol": protocol, "atOnce": at_once}
            begin_cases(page, url=server.url, **kind)
        return {each: results_of(page) for each, page in pages.items()}


@pytest.mark.parametrize(("transport", "protocol", "case"), matrix("browser"))
def test_client(
    results: dict[tuple[str, str], Results], transport: str, protocol: str, case: str
) -> None:
    check(results[transport, protocol], case)


# What only browsers do


def test_streams_over_tls_and_http2(browser: Browser, tls_url: str) -> None:
    """All transports share one connection."""
    with browser.new_context(ignore_https_errors=True) as context:
        pages = [open_page(context, tls_url, [FOLDER / "streams.js"]) for _ in range(3)]
        for page, transport in zip(pages, TRANSPORTS, strict=True):
            assert page.evaluate("performance.getEntries()[0].nextHopProtocol") == "h2"
            begin_cases(page, url=tls_url, transport=transport, protocol="json", atOnce=4)
        seen = [results_of(page) for page in pages]
    for results in seen:
        assert results
        assert {name: failure for name, failure in results.items() if failure} == {}


def test_a_websocket_over_http2_closes_cleanly(browser: Browser, tls_url: str) -> None:
    with browser.new_context(ignore_https_errors=True) as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(tls_url)
        end = page.evaluate(
            """(url) => new Promise((resolve) => {
                const socket = new WebSocket(url);
                socket.onopen = () => socket.send("hello");
                socket.onmessage = () => socket.close(3000, "enough");
                socket.onclose = ({ code, reason, wasClean }) => resolve([code, reason, wasClean]);
            })""",
            f"{tls_url}/echo".replace("http", "ws", 1),
        )
    assert end == [3000, "enough", True]


def test_without_websockets_the_client_falls_back(page: Page, server: Server) -> None:
    names = page.evaluate(
        """async (url) => {
            const names = [];
            for (const missing of ["WebSocket", "EventSource"]) {
                window[missing] = class { constructor() { throw new Error("not here"); } };
                const hub = new signalR.HubConnectionBuilder()
                    .withUrl(url).configureLogging(signalR.LogLevel.None).build();
                await hub.start();
                names.push(await hub.invoke("GetActiveTransportName"));
                await hub.stop();
            }
            return names;
        }""",
        f"{server.url}/testhub",
    )
    assert names == ["ServerSentEvents", "LongPolling"]


def test_a_cut_link_loses_and_doubles_nothing(page: Page, server: Server) -> None:
    page.add_script_tag(path=FOLDER / "resume.js")
    script = "(setting) => resume(setting, { signalR, msgpack: signalR.protocols.msgpack })"
    with Proxy(server.port) as proxy, proxy.cutting():
        url = f"http://127.0.0.1:{proxy.port}/statefulhub"
        setting = {"url": url, "protocol": "messagepack", "count": NUMBERS}
        seen = page.evaluate(script, setting)
        assert proxy.cuts >= 4
    check_resumed(seen)


def test_a_page_comes_back_after_a_restart(browser: Browser) -> None:
    """The README's chat."""
    port = free_port()
    with browser.new_context() as context, chat(port) as server:
        page = open_page(context, server.url, ())
        page.evaluate(
            """async (url) => {
                const hub = new signalR.HubConnectionBuilder()
                    .withUrl(url).withAutomaticReconnect(Array(400).fill(50))
                    .configureLogging(signalR.LogLevel.None).build();
                window.back = new Promise((resolve) => hub.onreconnected(resolve));
                window.heard = new Promise((resolve) => hub.on("ReceiveMessage", resolve));
                window.say = (...words) => hub.invoke("SendMessage", ...words);
                await hub.start();
            }""",
            f"{server.url}/chat",
        )
        server.end()
        with chat(port):
            page.evaluate("back")
            assert page.evaluate("say('me', 'hello').then(() => heard)") == "me"


def test_only_pages_of_allowed_origins_may_connect(browser: Browser, server: Server) -> None:
    script = """async (url) => {
        const token = await (await fetch(`${url}/generateJwtToken`)).text();
        const outcomes = [];
        for (const transport of [1, 2, 4, "direct"]) {
            const direct = transport === "direct";
            const hub = new signalR.HubConnectionBuilder()
                .withUrl(`${url}/corshub`, {
                    transport: direct ? 1 : transport,
                    skipNegotiation: direct,
                    accessTokenFactory: () => token,
                })
                .configureLogging(signalR.LogLevel.None)
                .build();
            try {
                await hub.start();
                outcomes.push(await hub.invoke("Echo", "in"));
                await hub.stop();
            } catch {
                outcomes.push("out");
            }
        }
        return outcomes;
    }"""
    # Chromium takes all names below localhost for this machine.
    for name, outcome in (("localhost", "in"), ("elsewhere.localhost", "out")):
        with browser.new_context() as context:
            page = open_page(context, f"http://{name}:{server.port}", ())
            assert page.evaluate(script, server.url) == [outcome] * 4


def test_a_worker_of_the_page_can_connect(page: Page, server: Server) -> None:
    library = client_folder() / "node_modules/@microsoft/signalr/dist/webworker/signalr.js"
    answer = page.evaluate(
        """([library, url]) => new Promise((resolve, reject) => {
            const script = `
                const hub = new signalR.HubConnectionBuilder().withUrl("${url}/testhub").build();
                hub.start().then(() => hub.invoke("Echo", "from a worker"))
                    .then(postMessage, (error) => postMessage(error.message));
            `;
            const blob = new Blob([library, script], { type: "application/javascript" });
            const worker = new Worker(URL.createObjectURL(blob));
            worker.onmessage = ({ data }) => resolve(data);
            worker.onerror = reject;
        })""",
        [library.read_text(), server.url],
    )
    assert answer == "from a worker"


@pytest.mark.parametrize("transport", ["WebSockets", "ServerSentEvents"])
def test_the_server_notices_that_a_page_is_left(
    browser: Browser, page: Page, server: Server, transport: str
) -> None:
    connect = """async ([url, transport, method, tag]) => {
        const hub = new signalR.HubConnectionBuilder()
            .withUrl(url, signalR.HttpTransportType[transport]).build();
        window.gone = new Promise((resolve) => hub.on("Gone", resolve));
        await hub.start();
        await hub.invoke(method, tag);
    }"""
    url = f"{server.url}/testhub"
    page.evaluate(connect, [url, "WebSockets", "WatchFor", transport])
    with browser.new_context() as context:
        leaver = open_page(context, server.url, ())
        leaver.evaluate(connect, [url, transport, "TellWhenGone", transport])
        leaver.goto("about:blank")
        assert page.evaluate("gone") == transport
