"""Microsoft's JavaScript client in a real browser: the same cases, and what only browsers do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.hubs.clients import (
    FILES,
    FOLDER,
    NUMBERS,
    Outcomes,
    chat,
    check_resumed,
    host,
    matrix,
)
from tests.hubs.node import client_folder
from tests.hubs.proxy import Proxy
from tests.servers import Server, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

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


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with host() as server:
        yield server


@pytest.fixture(scope="module")
def tls_url() -> Iterator[str]:
    port = free_port()
    with host("--tls-port", str(port)):
        yield f"https://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if executable is None:
        pytest.skip(f"no Chromium: none of {', '.join(CHROMIUM_NAMES)} is on the PATH")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """A page of the host with the client loaded."""
    with browser.new_context() as context:
        page = context.new_page()
        load(page, server.url)
        yield page


def load(page: Page, url: str, files: Sequence[Path] = FILES) -> None:
    """Open a page of the host and load the client and the cases."""
    page.goto(url)
    modules = client_folder() / "node_modules" / "@microsoft"
    for script in (
        modules / "signalr" / "dist" / "browser" / "signalr.js",
        modules / "signalr-protocol-msgpack" / "dist" / "browser" / "signalr-protocol-msgpack.js",
        FOLDER / "harness.js",
        *files,
    ):
        page.add_script_tag(path=script)


def run_cases(page: Page, setting: dict[str, Any]) -> dict[str, str | None]:
    script = "(setting) => runTests(setting, { signalR, msgpack: signalR.protocols.msgpack })"
    results: dict[str, str | None] = page.evaluate(script, setting)
    return results


@pytest.fixture(scope="module")
def outcomes(browser: Browser, server: Server) -> Outcomes:
    def run(transport: str, protocol: str) -> Any:
        setting = {
            "url": server.url,
            "transport": transport,
            "protocol": protocol,
            "place": "browser",
            # Over HTTP/1.1 a browser opens six connections to a host, and waiting ones fill them.
            "atOnce": 8 if transport == "WebSockets" else 1,
        }
        with browser.new_context() as context:
            page = context.new_page()
            load(page, server.url)
            return run_cases(page, setting)

    return Outcomes(run)


@pytest.mark.parametrize(("transport", "protocol", "case"), matrix("browser"))
def test_client(outcomes: Outcomes, transport: str, protocol: str, case: str) -> None:
    outcomes.check(transport, protocol, case=case)


# What only browsers do


@pytest.mark.parametrize("transport", ["WebSockets", "ServerSentEvents", "LongPolling"])
def test_calls_and_streams_over_tls_and_http2(
    browser: Browser, tls_url: str, transport: str
) -> None:
    setting = {"url": tls_url, "transport": transport, "protocol": "json", "place": "browser"}
    with browser.new_context(ignore_https_errors=True) as context:
        page = context.new_page()
        load(page, tls_url, FILES[:2])
        assert page.evaluate("performance.getEntries()[0].nextHopProtocol") == "h2"
        results = run_cases(page, {**setting, "atOnce": 8})
    assert {name: failure for name, failure in results.items() if failure} == {}


def test_a_websocket_over_http2_closes_cleanly(browser: Browser, tls_url: str) -> None:
    with browser.new_context(ignore_https_errors=True) as context:
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
    """The README's chat, with the client's own default delays."""
    port = free_port()
    with browser.new_context() as context, chat(port) as server:
        page = context.new_page()
        load(page, server.url, ())
        page.evaluate(
            """async (url) => {
                const hub = new signalR.HubConnectionBuilder()
                    .withUrl(url).withAutomaticReconnect()
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
            page = context.new_page()
            load(page, f"http://{name}:{server.port}")
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
        leaver = context.new_page()
        load(leaver, server.url)
        leaver.evaluate(connect, [url, transport, "TellWhenGone", transport])
        leaver.goto("about:blank")
        assert page.evaluate("gone") == transport
