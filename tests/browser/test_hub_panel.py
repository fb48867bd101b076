"""The page's hub panel, used as its users use it: often in two windows."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.browser.conftest import ROOT, free_port, wait_until_it_answers
from tests.browser.test_page import WORST_CONTRAST

TRANSPORTS = {
    "WebSockets": "WebSockets",
    "Server-sent events": "server-sent events",
    "Long polling": "long polling",
}

every_transport = pytest.mark.parametrize("transport", TRANSPORTS)

Open = Callable[..., Page]


@pytest.fixture
def window(browser: Browser, service: str, faults: list[str]) -> Iterator[Open]:
    """Opens a window with the hub's panel; what its console says goes to `faults`."""
    contexts = []

    def open_window(url: str = service, panel: str = "#hub-panel") -> Page:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"thrown: {error}"))
        page.goto(f"{url}/{panel}")
        return page

    yield open_window
    for context in contexts:
        context.close()


@contextmanager
def served(app: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The app under Hypercorn on this port, until the block ends."""
    command = [sys.executable, "-m", "hypercorn", "-k", "trio", "-b", f"127.0.0.1:{port}", app]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            wait_until_it_answers(process, port)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def field(page: Page, name: str) -> Locator:
    return page.get_by_role("textbox", name=name)


def form(page: Page, name: str) -> Locator:
    return page.get_by_role("form", name=name, exact=True)


def output(page: Page, name: str) -> Locator:
    """What the form tells of its last call."""
    return form(page, name).get_by_role("status").first


def state(page: Page) -> Locator:
    return page.locator("#hub-panel .label")


def log(page: Page) -> Locator:
    return page.locator("#hub-panel tbody")


def connect(page: Page, transport: str = "Automatic", over: str | None = None) -> Page:
    page.get_by_label("Transport").select_option(transport)
    button(page, "Connect").click()
    expect(state(page)).to_have_text("Connected")
    over = over or TRANSPORTS.get(transport, "WebSockets")
    expect(page.locator("#hub-panel .agreed")).to_have_text(f"over {over}")
    return page


def connection_id(page: Page) -> str:
    return field(page, "Connection id of this window").input_value()


def say(page: Page, text: str, how: str = "Broadcast") -> None:
    field(page, "Words").fill(text)
    button(page, how).click()


def test_all_modules_are_asked_for_at_once(window: Open) -> None:
    page = window()
    loaded = page.evaluate("performance.getEntriesByType('resource').map((each) => each.name)")
    named = page.evaluate(
        "Array.from(document.querySelectorAll('[rel=modulepreload]'), (each) => each.href)"
    )
    modules = {each for each in loaded if each.endswith(".js") and not each.endswith("/main.js")}
    assert set(named) == modules != set()


# Calls over every transport


@every_transport
def test_everything_works_over_every_transport(
    window: Open, faults: list[str], transport: str
) -> None:
    page, other = connect(window(), transport), connect(window(), transport)

    say(page, "Grüße 👋", "Echo")
    expect(output(page, "Send words")).to_have_text("Echo: Grüße 👋")

    say(page, "to all")
    for each in (page, other):
        expect(each.locator("#heard")).to_have_text("1: to all")

    button(other, "Join").click()
    expect(output(other, "Join or leave a group")).to_have_text("Join: done")
    say(page, "to some", "To group")
    expect(other.locator("#heard")).to_have_text("2: to some")
    expect(page.locator("#heard")).to_have_text("1: to all")

    field(page, "From").fill("2")
    button(page, "Countdown").click()
    expect(output(page, "Stream from the server")).to_have_text("Countdown: done")
    for number in (2, 1, 0):
        expect(log(page)).to_contain_text(f'"item":{number}}}')

    button(page, "Collect").click()
    expect(output(page, "Stream to the server")).to_have_text('Collect: ["one","two","three"]')

    field(page, "Ask the window").fill(connection_id(other))
    button(page, "Ask").click()
    expect(other.get_by_role("alert").filter(has_text="How are you?")).to_be_visible()
    field(other, "Your answer").fill("Fine")
    other.keyboard.press("Enter")
    expect(output(page, "Ask another window")).to_have_text("Ask: Fine")
    expect(form(other, "Answer a question")).to_have_count(0)

    button(page, "Disconnect").click()
    expect(state(page)).to_have_text("Disconnected")
    expect(log(page).locator("tr").last).to_have_text(re.compile("Disconnected\\.$"))
    assert connection_id(page) == ""
    assert faults == []


@pytest.mark.parametrize("transport", ["Server-sent events", "Long polling"])
def test_the_last_words_of_a_connection_arrive(
    window: Open, faults: list[str], transport: str
) -> None:
    page = connect(window(), transport)

    def delay(route: Route) -> None:
        if route.request.method == "POST":
            time.sleep(0.3)  # the stream must outlive it: the server forgets whoever leaves
        route.continue_()

    page.route(lambda url: "/hub?id=" in url, delay)
    with page.expect_response(lambda response: response.request.method == "POST") as last:
        button(page, "Disconnect").click()
    assert last.value.status == 200
    expect(state(page)).to_have_text("Disconnected")
    assert faults == []


def test_what_happens_is_announced_and_logged(window: Open) -> None:
    page = window()
    live = page.locator("#hub-panel").get_by_role("status")
    expect(live.filter(has_text="Disconnected")).to_have_count(1)
    connect(page)
    expect(live.filter(has_text="Connected")).to_have_count(1)
    say(page, "Hello")
    expect(live.filter(has_text="1: Hello")).to_have_count(1)
    expect(live.filter(has_text="Broadcast: done")).to_have_count(1)
    say(page, "é", "Echo")
    expect(live.filter(has_text="Echo: é")).to_have_count(1)

    sent, answer = log(page).locator("tr").nth(-2), log(page).locator("tr").last
    expect(answer).to_contain_text('{"type":3,"invocationId":"2","result":"é"}')
    expect(answer.locator(".size")).to_have_text("43 B")
    expect(answer.locator(".trip")).to_have_text(re.compile(r"^\d+\.\d ms$"))
    expect(sent.locator(".from")).to_have_text("Client")
    expect(sent.locator(".trip")).to_have_text("")
    expect(log(page)).to_contain_text(f"Connection id: {connection_id(page)}")


# Calls that fail, or are given up


def test_a_countdown_can_be_cancelled(window: Open) -> None:
    page = connect(window())
    expect(button(page, "Cancel")).to_be_disabled()
    field(page, "From").fill("1000")
    button(page, "Countdown").click()
    expect(output(page, "Stream from the server")).to_have_text(re.compile("Countdown: 99"))
    button(page, "Cancel").click()

    expect(output(page, "Stream from the server")).to_have_text("Countdown: cancelled")
    expect(button(page, "Cancel")).to_be_disabled()
    expect(log(page)).to_contain_text('{"type":5,"invocationId":"1"}')
    expect(log(page).locator("tr").last).to_contain_text('{"type":3,"invocationId":"1"')
    say(page, "still there", "Echo")
    expect(output(page, "Send words")).to_have_text("Echo: still there")


def test_what_cannot_be_called_is_told_inline(window: Open) -> None:
    page = connect(window())
    for label, text, press, complaint in (
        ("Group", " ", "Join", "Give it a name."),
        ("Group", "x" * 65, "To group", "at most 64 characters"),
        ("From", "1001", "Countdown", "from 0 to 1000"),
        ("From", "ten", "Countdown", "from 0 to 1000"),
        ("Ask the window", "", "Ask", "that the other window shows"),
        ("Items", "," * 1000, "Collect", "At most 1,000 items"),
    ):
        wrong = field(page, label)
        wrong.fill(text)
        button(page, press).click()

        expect(page.get_by_role("alert").filter(has_text=complaint)).to_be_visible()
        expect(wrong).to_have_accessible_description(re.compile(re.escape(complaint)))
        expect(wrong).to_be_focused()
    expect(log(page)).not_to_contain_text('"invocationId"')


def test_questions_come_one_at_a_time_and_end_with_the_connection(window: Open) -> None:
    page, asked = connect(window()), connect(window())
    answer = output(page, "Ask another window")
    field(page, "Ask the window").fill(connection_id(asked))
    button(page, "Ask").click()
    expect(asked.get_by_role("alert").filter(has_text="How are you?")).to_be_visible()
    button(page, "Ask").click()
    expect(answer).to_contain_text("That window is being asked something else.")

    button(asked, "Disconnect").click()
    expect(answer).to_contain_text("Nobody with that connection id is here.")
    expect(form(asked, "Answer a question")).to_have_count(0)


# Connections that come and go


def test_all_transports_come_back_after_a_restart_and_into_their_groups(window: Open) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with served("echo:app", port):
        pages = [window(url) for _ in TRANSPORTS]
        for page, transport in zip(pages, TRANSPORTS, strict=True):
            page.clock.install()
            connect(page, transport)
            button(page, "Join").click()
            expect(output(page, "Join or leave a group")).to_have_text("Join: done")
        ids = [connection_id(page) for page in pages]
    for page in pages:
        expect(state(page)).to_have_text("Reconnecting")
        expect(log(page)).to_contain_text("Connection lost: ")
        expect(log(page)).to_contain_text("Reconnecting in 2 s.")
        expect(button(page, "Echo")).to_be_disabled()

    with served("echo:app", port):
        for page, old_id in zip(pages, ids, strict=True):
            page.clock.fast_forward(10_000)  # the next attempt may be that far
            expect(state(page)).to_have_text("Connected")
            assert connection_id(page) not in ("", old_id)
            expect(output(page, "Join or leave a group")).to_have_text("Join: done")
        say(pages[0], "here again", "To group")
        for page in pages:
            expect(page.locator("#heard")).to_have_text("1: here again")
        for page in pages:
            page.close()


def test_without_websockets_it_falls_back(window: Open) -> None:
    port = free_port()
    with served("tests.browser.without_websockets:app", port):
        page = connect(window(f"http://127.0.0.1:{port}"), over="server-sent events")

        rows = log(page)
        expect(rows).to_contain_text("Opening WebSockets.")
        expect(rows).to_contain_text("No connection over WebSockets: the WebSocket was refused.")
        expect(rows).to_contain_text("Opening server-sent events.")
        expect(rows).to_contain_text("Connected over server-sent events.")
        say(page, "all the same", "Echo")
        expect(output(page, "Send words")).to_have_text("Echo: all the same")

        button(page, "Disconnect").click()
        page.route(
            lambda url: "/hub?id=" in url,
            lambda route: (
                route.abort()
                if route.request.headers.get("accept") == "text/event-stream"
                else route.continue_()
            ),
        )
        connect(page, over="long polling")
        expect(rows).to_contain_text("No connection over server-sent events: the event stream")

        button(page, "Disconnect").click()
        page.get_by_label("Transport").select_option("WebSockets")
        button(page, "Connect").click()
        complaint = "Could not connect: the WebSocket was refused."
        expect(page.get_by_role("alert").filter(has_text=complaint)).to_be_visible()
        expect(state(page)).to_have_text("Disconnected")
        page.close()


def test_it_pings_and_notices_when_the_server_is_silent(window: Open) -> None:
    page = window()
    page.clock.install()
    with page.expect_websocket() as opening:
        connect(page)
    old_id = connection_id(page)

    with opening.value.expect_event("framesent", lambda data: data == '{"type":6}\x1e'):
        page.clock.run_for(15_100)
    page.clock.run_for(15_000)
    expect(log(page)).to_contain_text("Connection lost: the server was silent for 30 s.")
    expect(log(page)).to_contain_text("Reconnecting at once.")
    expect(state(page)).to_have_text("Connected")
    assert connection_id(page) != old_id


def test_a_server_without_a_hub_is_told_in_a_clear_line(window: Open) -> None:
    with static_server() as url:
        page = window(url)
        button(page, "Connect").click()

        complaint = "Could not connect: this server has no hub at /hub."
        expect(page.get_by_role("alert").filter(has_text=complaint)).to_be_visible()
        expect(log(page)).to_contain_text(complaint)
        expect(state(page)).to_have_text("Disconnected")
        page.close()


@contextmanager
def static_server() -> Iterator[str]:
    """A server of files, such as many have: it serves the page and knows nothing else."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(ROOT / "echo"))  # type: ignore[arg-type]

        def translate_path(self, path: str) -> str:
            return super().translate_path("/page/index.html" if path == "/" else path)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


# Keyboard, screens, colours


def test_the_keyboard_is_enough(window: Open) -> None:
    page = window(panel="")
    keys = page.keyboard
    for name in ("WebSocket", "Hub"):
        keys.press("Tab")
        expect(page.get_by_role("link", name=name)).to_be_focused()
    keys.press("Enter")
    keys.press("Tab")
    expect(page.get_by_label("Transport")).to_be_focused()
    keys.press("Tab")
    keys.press("Enter")
    expect(state(page)).to_have_text("Connected")
    expect(field(page, "Words")).to_be_focused()

    keys.press("Enter")
    expect(output(page, "Send words")).to_have_text("Echo: Hello")
    for name in ("Echo", "Broadcast", "To group"):
        keys.press("Tab")
        expect(button(page, name)).to_be_focused()
    keys.press("Tab")
    keys.press("Enter")
    expect(output(page, "Join or leave a group")).to_have_text("Join: done")
    for name in ("Join", "Leave"):
        keys.press("Tab")
        expect(button(page, name)).to_be_focused()
    keys.press("Tab")
    keys.type("1000")
    keys.press("Enter")
    expect(output(page, "Stream from the server")).to_contain_text("99")
    keys.press("Tab")
    keys.press("Tab")
    expect(button(page, "Cancel")).to_be_focused()
    keys.press("Enter")
    expect(button(page, "Countdown")).to_be_focused()
    keys.press("Tab")
    keys.press("Enter")
    expect(output(page, "Stream to the server")).to_have_text('Collect: ["one","two","three"]')
    for _ in range(5):
        keys.press("Tab")
    expect(button(page, "Clear")).to_be_focused()
    keys.press("Tab")
    expect(page.get_by_role("region", name="Communication Log")).to_be_focused()


def test_panels_are_chosen_by_links_and_keep_their_connections(window: Open) -> None:
    page = connect(window())
    page.get_by_role("link", name="WebSocket").click()
    expect(page.get_by_label("URL")).to_be_visible()
    expect(page.get_by_label("Transport")).to_be_hidden()
    expect(page.get_by_role("link", name="WebSocket")).to_have_attribute("aria-current", "page")

    page.go_back()
    expect(page.get_by_label("URL")).to_be_hidden()
    expect(state(page)).to_have_text("Connected")


def test_a_phone_never_scrolls_sideways(window: Open) -> None:
    page = window()
    page.set_viewport_size({"width": 360, "height": 740})
    connect(page)
    say(page, "x" * 5000, "Echo")
    expect(output(page, "Send words")).to_contain_text("4,800 more characters")
    field(page, "Ask the window").fill(connection_id(page))
    field(page, "Question").fill("x" * 500)
    button(page, "Ask").click()
    expect(field(page, "Your answer")).to_be_visible()

    for selector in ("html", "#hub-panel .scroll"):
        overflow = "(node) => node.scrollWidth - node.clientWidth"
        assert page.locator(selector).evaluate(overflow) == 0
    for name in ("Words", "Group", "From", "Items", "Question"):
        box = field(page, name).bounding_box()
        assert box is not None
        assert box["width"] >= 60
        assert box["height"] >= 40


def test_text_has_contrast_in_light_and_dark(window: Open) -> None:
    page = window()
    expect_contrast(page)
    connect(page)
    say(page, "Hello")
    field(page, "Ask the window").fill(connection_id(page))
    button(page, "Ask").click()
    expect(field(page, "Your answer")).to_be_visible()
    field(page, "From").fill("x")
    button(page, "Countdown").click()
    expect(page.get_by_role("alert").filter(has_text="from 0 to 1000")).to_be_visible()
    expect_contrast(page)


def expect_contrast(page: Page) -> None:
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        bright = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(bright) > 127) == (scheme == "light")
        worst = page.evaluate(WORST_CONTRAST)
        assert worst["ratio"] >= 4.5, worst
