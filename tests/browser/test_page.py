"""The page at `/`, used as its users use it."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import Browser, Locator, Page, expect

# The smallest contrast of text with what is behind it, over all elements that show text.
WORST_CONTRAST = """() => {
  const rgba = (color) => {
    const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const luminance = (color) => {
    const [r, g, b] = rgba(color).slice(0, 3).map((value) => value / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    const color = getComputedStyle(node).backgroundColor;
    return rgba(color)[3] === 1 ? color : behind(node.parentElement);
  };
  const showsText = (node) => node.checkVisibility() &&
    [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  const pairs = [...document.body.querySelectorAll("*")].filter(showsText).map((node) => {
    const [dark, light] = [getComputedStyle(node).color, behind(node)]
      .map(luminance).sort((a, b) => a - b);
    return { ratio: (light + 0.05) / (dark + 0.05), text: node.textContent.trim() };
  });
  return pairs.reduce((worst, pair) => (pair.ratio < worst.ratio ? pair : worst));
}"""

# Sends 5,000 messages by the page's own form and waits for the last row; gives the longest time
# in milliseconds that the page drew no frame.
SEND_5000 = """async (lastCount) => {
  let longest = 0, last = performance.now(), done = false;
  const watch = (now) => {
    longest = Math.max(longest, now - last);
    last = now;
    if (!done) requestAnimationFrame(watch);
  };
  requestAnimationFrame(watch);
  const form = document.querySelector("form.send");
  for (let batch = 0; batch < 50; batch++) {
    for (let i = 0; i < 100; i++) form.requestSubmit();
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
  const count = document.querySelector(".count");
  for (let wait = 0; wait < 600 && count.textContent !== lastCount; wait++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  done = true;
  return longest;
}"""


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def state(page: Page) -> Locator:
    return page.get_by_role("status")


def rows(page: Page) -> Locator:
    return page.locator("tbody tr")


def cells(row: Locator) -> list[str]:
    """From, To, Data and Size of a message's row."""
    texts: list[str] = row.locator("td").all_inner_texts()
    return [text.strip() for text in texts[1:5]]


def connect(page: Page, url: str | None = None, protocols: str = "") -> None:
    if url is not None:
        page.get_by_label("URL").fill(url)
    page.get_by_label("Subprotocols").fill(protocols)
    button(page, "Connect").click()


def open_echo(page: Page) -> None:
    connect(page)
    expect(state(page)).to_have_text("Open")


def send(page: Page, text: str, kind: str = "Text") -> None:
    page.get_by_label(kind, exact=True).check()
    page.get_by_label("Message").fill(text)
    button(page, "Send").click()


# The page itself


def test_the_page_uses_only_what_a_strict_policy_allows(page: Page, faults: list[str]) -> None:
    response = page.reload()
    assert response is not None
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy

    open_echo(page)
    send(page, "Hello")
    expect(rows(page)).to_have_count(3)
    send(page, "4g", "Binary")
    expect(page.get_by_role("alert").filter(has_text="not hex")).to_be_visible()
    button(page, "Close Socket").click()
    expect(state(page)).to_have_text("Closed")

    assert faults == []


def test_every_file_of_the_page_is_its_own(page: Page, service: str) -> None:
    loaded: list[str] = []
    page.on("response", lambda response: loaded.append(f"{response.status} {response.url}"))
    page.reload(wait_until="networkidle")

    assert f"200 {service}/page/main.js" in loaded
    assert f"200 {service}/page/style.css" in loaded
    assert all(entry.startswith((f"200 {service}/", f"304 {service}/")) for entry in loaded)


def test_the_icon_is_a_file_of_the_page(page: Page, service: str) -> None:
    response = page.request.get(f"{service}/page/icon.svg")

    assert response.ok
    assert response.headers["content-type"].startswith("image/svg+xml")


def test_the_page_has_a_title_and_offers_its_own_servers_echo(page: Page, service: str) -> None:
    expect(page).to_have_title("Echo: WebSocket test page")
    expect(page.get_by_label("URL")).to_have_value(service.replace("http", "ws", 1) + "/ws")
    expect(state(page)).to_have_text("Ready to connect")
    expect(page.get_by_role("columnheader")).to_have_text(
        ["Time", "From", "To", "Data", "Size", "Round trip"]
    )


# Messages


def test_text_is_echoed_with_size_and_round_trip(page: Page) -> None:
    open_echo(page)
    send(page, "Grüße 👋")

    expect(rows(page)).to_have_count(3)
    assert "Connection opened" in rows(page).nth(0).inner_text()
    assert cells(rows(page).nth(1)) == ["Client", "Server", "Grüße 👋", "12 B"]
    assert cells(rows(page).nth(2)) == ["Server", "Client", "Grüße 👋", "12 B"]
    expect(rows(page).nth(1).locator(".trip")).to_have_text("")
    expect(rows(page).nth(2).locator(".trip")).to_have_text(re.compile(r"^\d+\.\d ms$"))


def test_binary_is_echoed_and_shown_as_hex(page: Page) -> None:
    open_echo(page)
    send(page, "00 ff 48656C", "Binary")

    expect(rows(page)).to_have_count(3)
    for row in (rows(page).nth(1), rows(page).nth(2)):
        expect(row.locator(".content")).to_have_text("00 ff 48 65 6c")
        expect(row.locator(".size")).to_have_text("5 B")
    expect(rows(page).nth(2).locator(".trip")).to_have_text(re.compile("ms$"))


def test_an_empty_message_is_a_message(page: Page) -> None:
    open_echo(page)
    send(page, "")

    expect(rows(page)).to_have_count(3)
    assert cells(rows(page).nth(2)) == ["Server", "Client", "empty", "0 B"]


def test_markup_in_a_message_stays_text(page: Page) -> None:
    open_echo(page)
    send(page, "<img src=x onerror=alert(1)>")

    expect(rows(page)).to_have_count(3)
    expect(rows(page).nth(2).locator(".content")).to_have_text("<img src=x onerror=alert(1)>")
    expect(page.locator("tbody img")).to_have_count(0)


def test_sending_is_impossible_until_open_and_after_close(page: Page) -> None:
    for name in ("Send", "ServerClose", "ServerAbort", "Close Socket"):
        expect(button(page, name)).to_be_disabled()
    page.get_by_label("Message").press("Enter")
    expect(rows(page)).to_have_count(0)

    open_echo(page)
    expect(button(page, "Send")).to_be_enabled()
    expect(button(page, "Connect")).to_be_disabled()
    button(page, "Close Socket").click()
    expect(state(page)).to_have_text("Closed")
    expect(button(page, "Send")).to_be_disabled()
    page.get_by_label("Message").press("Enter")
    expect(rows(page)).to_have_count(2)


# States and the close


def test_every_state_passed_stays_visible_with_its_duration(page: Page) -> None:
    open_echo(page)
    button(page, "Close Socket").click()
    expect(state(page)).to_have_text("Closed")

    for name in ("Connecting", "Open", "Closing"):
        expect(page.locator(f"[data-state={name}]")).to_have_text(
            re.compile(rf"^{name}[\d.]+ (ms|s)$")
        )
    expect(page.locator("[aria-current=step]")).to_have_text("Closed")


def test_connecting_is_shown_and_can_be_given_up(page: Page, silent_server: str) -> None:
    connect(page, silent_server)
    expect(state(page)).to_have_text("Connecting")
    expect(button(page, "Connect")).to_be_disabled()

    button(page, "Close Socket").click()
    expect(state(page)).to_have_text("Closed")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("Could not connect. Code: 1006")


def test_closing_is_shown_while_the_server_owes_its_close(page: Page, stubborn_server: str) -> None:
    connect(page, stubborn_server)
    expect(state(page)).to_have_text("Open")
    button(page, "Close Socket").click()

    expect(state(page)).to_have_text("Closing")
    for name in ("Connect", "Send", "Close Socket"):
        expect(button(page, name)).to_be_disabled()


def test_the_agreed_subprotocol_is_shown(page: Page, stubborn_server: str) -> None:
    connect(page, stubborn_server, protocols="chat.v2, chat.v1")

    expect(page.locator(".agreed")).to_have_text("Subprotocol: chat.v2")
    expect(rows(page)).to_contain_text("Subprotocol: chat.v2.")


def test_the_close_row_shows_code_and_reason(page: Page) -> None:
    open_echo(page)
    page.get_by_label("Code").fill("3001")
    page.get_by_label("Reason").fill("fertig für heute")
    button(page, "Close Socket").click()

    expect(rows(page).last).to_contain_text(
        "Connection closed. Code: 3001. Reason: fertig für heute"
    )


def test_the_user_may_close_without_a_code(page: Page) -> None:
    open_echo(page)
    page.get_by_label("Code").fill("")
    button(page, "Close Socket").click()

    expect(rows(page).last).to_contain_text("Code: 1005 (no code was sent). Reason: none")


def test_server_close_comes_with_the_servers_code_and_reason(page: Page) -> None:
    open_echo(page)
    button(page, "ServerClose").click()

    expect(state(page)).to_have_text("Closed")
    expect(rows(page).last).to_contain_text(
        "Connection closed. Code: 1000 (normal closure). Reason: Closing from Server"
    )


def test_server_abort_is_1006(page: Page) -> None:
    open_echo(page)
    button(page, "ServerAbort").click()

    expect(state(page)).to_have_text("Closed")
    expect(rows(page).last).to_contain_text("Connection closed. Code: 1006")


def test_one_can_connect_again_and_round_trips_begin_anew(page: Page) -> None:
    open_echo(page)
    button(page, "ServerClose").click()
    expect(state(page)).to_have_text("Closed")
    open_echo(page)
    expect(page.locator("[data-state=Closing]")).to_have_text("Closing")
    send(page, "again")

    expect(rows(page)).to_have_count(6)
    expect(rows(page).last.locator(".trip")).to_have_text(re.compile("ms$"))


# Inputs that cannot be right


@pytest.mark.parametrize(
    ("label", "text", "complaint"),
    [
        ("URL", "", "not a complete URL"),
        ("URL", "echo", "not a complete URL"),
        ("URL", "http://localhost/ws", "begins with ws: or wss:"),
        ("URL", "ws://localhost/ws#part", "no #fragment"),
        ("Subprotocols", "chat, two words", "“two words” is no subprotocol"),
        ("Subprotocols", "chat, chat", "each subprotocol once"),
    ],
)
def test_what_cannot_be_connected_is_told_inline(
    page: Page, label: str, text: str, complaint: str
) -> None:
    field = page.get_by_label(label)
    field.fill(text)
    button(page, "Connect").click()

    expect_complaint(page, field, complaint)
    expect(state(page)).to_have_text("Ready to connect")


@pytest.mark.parametrize("text", ["4g", "123", "4 8", "0x48", "48,65"])
def test_what_is_not_hex_is_told_inline(page: Page, text: str) -> None:
    open_echo(page)
    send(page, text, "Binary")

    expect_complaint(page, page.get_by_label("Message"), "is not hex")
    expect(rows(page)).to_have_count(1)


@pytest.mark.parametrize(
    ("code", "reason", "label", "complaint"),
    [
        ("1001", "", "Code", "1000, with 3000 to 4999"),
        ("5000", "", "Code", "1000, with 3000 to 4999"),
        ("3e3", "", "Code", "1000, with 3000 to 4999"),
        ("1000", "é" * 62, "Reason", "has 124 bytes; a close frame holds 123"),
        ("", "bye", "Reason", "needs a code"),
    ],
)
def test_what_cannot_close_is_told_inline(
    page: Page, code: str, reason: str, label: str, complaint: str
) -> None:
    open_echo(page)
    page.get_by_label("Code").fill(code)
    page.get_by_label("Reason").fill(reason)
    button(page, "Close Socket").click()

    expect_complaint(page, page.get_by_label(label), complaint)
    expect(state(page)).to_have_text("Open")


def expect_complaint(page: Page, field: Locator, complaint: str) -> None:
    """The complaint is visible, belongs to the focused field, and goes once the user types."""
    expect(page.get_by_role("alert").filter(has_text=complaint)).to_be_visible()
    expect(field).to_have_accessible_description(re.compile(re.escape(complaint)))
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    field.press_sequentially("1")
    expect(page.get_by_role("alert").filter(has_text=complaint)).to_have_count(0)
    expect(field).to_have_attribute("aria-invalid", "false")


# Keyboard, screens, colours


def test_the_keyboard_is_enough(page: Page) -> None:
    keys = page.keyboard
    for name in ("WebSocket", "Hub"):
        keys.press("Tab")
        expect(page.get_by_role("link", name=name, exact=True)).to_be_focused()
    keys.press("Tab")
    expect(page.get_by_label("URL")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    keys.press("Enter")
    expect(page.get_by_label("Message")).to_be_focused()

    keys.type("one")
    keys.press("Shift+Enter")
    keys.type("two")
    keys.press("Enter")
    expect(rows(page)).to_have_count(3)
    assert cells(rows(page).nth(2)) == ["Server", "Client", "one\ntwo", "7 B"]
    expect(page.get_by_label("Message")).to_be_focused()

    for name in ("Send", "ServerClose", "ServerAbort"):
        keys.press("Tab")
        expect(button(page, name)).to_be_focused()
    for label in ("Code", "Reason"):
        keys.press("Tab")
        expect(page.get_by_label(label)).to_be_focused()
    keys.press("Tab")
    expect(button(page, "Close Socket")).to_be_focused()
    keys.press("Enter")
    expect(state(page)).to_have_text("Closed")
    expect(button(page, "Connect")).to_be_focused()

    for label in ("Text", "Message", "Code", "Reason"):  # what is disabled is passed over
        keys.press("Tab")
        expect(page.get_by_label(label, exact=True)).to_be_focused()
    keys.press("Tab")
    expect(button(page, "Clear")).to_be_focused()
    keys.press("Tab")  # so that the arrow keys scroll it
    expect(page.get_by_role("region", name="Communication Log")).to_be_focused()


def test_the_log_can_be_cleared(page: Page) -> None:
    open_echo(page)
    expect(page.locator(".count")).to_have_text("1 row")
    button(page, "Clear").click()

    expect(rows(page)).to_have_count(0)
    expect(page.locator(".count")).to_have_text("0 rows")


def test_a_phone_never_scrolls_sideways(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    open_echo(page)
    send(page, "x" * 5000)
    send(page, "00" * 500, "Binary")
    expect(rows(page)).to_have_count(5)

    overflow = """(selector) => {
      const node = document.querySelector(selector);
      return node.scrollWidth - node.clientWidth;
    }"""
    assert page.evaluate(overflow, "html") == 0
    assert page.evaluate(overflow, ".scroll") == 0
    data = rows(page).last.locator(".data").bounding_box()
    assert data is not None
    assert data["width"] > 250
    expect(page.get_by_role("table").get_by_role("row")).to_have_count(6)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(browser: Browser, service: str, scheme: str) -> None:
    with browser.new_context(color_scheme="dark" if scheme == "dark" else "light") as context:
        page = context.new_page()
        page.emulate_media(reduced_motion="reduce")
        page.goto(service)
        open_echo(page)
        send(page, "Hello")
        send(page, "4g", "Binary")
        expect(rows(page)).to_have_count(3)

        bright = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(bright) > 127) == (scheme == "light")
        worst = page.evaluate(WORST_CONTRAST)
        assert worst["ratio"] >= 4.5, worst


def test_nothing_moves_for_those_who_asked_for_less_motion(page: Page, silent_server: str) -> None:
    animations = "document.getAnimations().filter((it) => it.animationName).length"
    connect(page, silent_server)
    expect(state(page)).to_have_text("Connecting")
    assert page.evaluate(animations) == 1

    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(animations) == 0


# Floods


def test_five_thousand_messages_leave_the_page_quick_and_the_log_bounded(page: Page) -> None:
    open_echo(page)
    page.get_by_label("Message").fill("again and again")
    # One row for the opening, two for each message; a thousand are kept.
    last_count = "newest 1,000 rows, 9,001 older dropped"
    longest = page.evaluate(SEND_5000, last_count)

    expect(page.locator(".count")).to_have_text(last_count)
    assert rows(page).count() == 1000
    expect(rows(page).last.locator(".trip")).to_have_text(re.compile("ms$"))
    expect(rows(page).last).to_be_in_viewport()
    assert longest < 2000  # two busy cores were measured at 200 to 400


def test_a_message_of_a_mebibyte_is_shown_by_its_beginning(page: Page) -> None:
    open_echo(page)
    send(page, "€" * 349_525 + "!")

    expect(rows(page)).to_have_count(3, timeout=30_000)
    row = rows(page).last
    expect(row.locator(".content")).to_have_text("€" * 200)
    expect(row.locator(".more")).to_have_text("… 349,326 more characters")
    expect(row.locator(".size")).to_have_text("1,048,576 B")

    send(page, "ab" * 100_000, "Binary")
    expect(rows(page)).to_have_count(5, timeout=30_000)
    row = rows(page).last
    expect(row.locator(".content")).to_have_text(" ".join(["ab"] * 64))
    expect(row.locator(".more")).to_have_text("… 99,936 more bytes")
    expect(row.locator(".trip")).to_have_text(re.compile("ms$"))


def test_a_message_of_many_lines_is_shown_by_its_first_eight(page: Page) -> None:
    open_echo(page)
    send(page, "\n".join("abcdefghij"))

    expect(rows(page)).to_have_count(3)
    assert rows(page).last.locator(".content").inner_text() == "\n".join("abcdefgh")
    expect(rows(page).last.locator(".more")).to_have_text("… 4 more characters")


def test_a_character_is_never_cut_in_half(page: Page) -> None:
    open_echo(page)
    send(page, "x" + "👋" * 300)

    expect(rows(page)).to_have_count(3)
    expect(rows(page).last.locator(".content")).to_have_text("x" + "👋" * 99)
