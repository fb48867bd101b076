"""Long polling: what each poll is answered, and how long the connection lives between them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import httpx
import pytest
import trio

from echo.hubs.transports.link import Link
from tests.hubs.transports.serving import EVENTS, Client, Echo, serving, until


async def collect(client: Client, into: list[httpx.Response]) -> None:
    into.append(await client.get())


async def waiting_poll(nursery: trio.Nursery, client: Client) -> list[httpx.Response]:
    """A poll that waits at the server; its answer will be the only item."""
    answers: list[httpx.Response] = []
    nursery.start_soon(collect, client, answers)
    await trio.sleep(0.05)
    assert not answers
    return answers


async def test_the_first_poll_says_at_once_that_there_is_a_connection() -> None:
    server = Echo()
    async with serving(server) as (_, client):
        answer = await client.negotiate()
        response = await client.get(headers={"X-Mine": "1", "Cookie": "a=1"})
        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["content-length"] == "0"
        assert response.headers["content-type"] == "application/octet-stream"
        link = server.link
        assert (link.id, link.token) == (answer["connectionId"], answer["connectionToken"])
        assert link.transport == "LongPolling"
        assert link.transfer_formats == ("Text", "Binary")
        assert link.keeps_alive
        assert not link.stateful
        await client.post(b"hello")
        assert await client.poll() == b"hello"
        # Later polls change nothing of what the hub knows.
        assert link.request.headers["x-mine"] == "1"
        assert link.request.cookies == {"a": "1"}


async def test_a_client_may_post_before_it_polls() -> None:
    """As signalrcore does, with its handshake."""
    server = Echo()
    async with serving(server) as (_, client):
        await client.negotiate()
        assert (await client.post(b"hello")).status_code == 200
        assert await client.poll() == b"hello"
        assert server.link.transport == "LongPolling"
        assert (await client.http.get(client.url, headers=EVENTS)).status_code == 400


async def test_a_client_that_posts_and_never_polls_is_gone() -> None:
    server = Echo()
    async with serving(server, disconnect_timeout=0.1) as (_, client):
        await client.negotiate()
        await client.post(b"hello")
        await until(lambda: server.link.ended)
        assert server.link.why == "the client stayed away"


async def test_a_poll_takes_all_that_waits() -> None:
    server = Echo()
    async with serving(server) as (_, client):
        await client.start_polling()
        await until(lambda: server.links)
        server.link.send(b"one")
        server.link.send(b"two\x00\xff")
        assert server.link.unsent == 8
        response = await client.get()
        assert (response.status_code, response.content) == (200, b"onetwo\x00\xff")
        assert response.headers["content-length"] == "8"
        assert response.headers["content-type"] == "application/octet-stream"
        assert server.link.unsent == 0


async def test_a_waiting_poll_is_answered_as_soon_as_there_is_something() -> None:
    async with serving(Echo()) as (_, client), trio.open_nursery() as nursery:
        await client.start_polling()
        answers = await waiting_poll(nursery, client)
        await client.post(b"hello")
        await until(lambda: answers)
        assert answers[0].content == b"hello"


async def test_a_poll_that_waits_too_long_is_answered_with_nothing() -> None:
    async with serving(Echo(), long_poll_timeout=0.05) as (_, client):
        await client.start_polling()
        response = await client.get()
        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["content-length"] == "0"
        assert response.headers["content-type"] == "text/plain"
        await client.post(b"hello")
        assert await client.poll() == b"hello"


async def test_a_newer_poll_supersedes_the_one_before() -> None:
    async with serving(Echo()) as (_, client), trio.open_nursery() as nursery:
        await client.start_polling()
        older = await waiting_poll(nursery, client)
        newer = await waiting_poll(nursery, client)
        await until(lambda: older)
        assert (older[0].status_code, older[0].content) == (204, b"")
        assert "content-length" not in older[0].headers
        await client.post(b"hello")
        await until(lambda: newer)
        assert (newer[0].status_code, newer[0].content) == (200, b"hello")


async def test_the_end_is_told_after_the_last_words() -> None:
    async def say_goodbye(link: Link) -> None:
        link.send(b"goodbye")

    async with serving(say_goodbye) as (_, client):
        await client.start_polling()
        assert await client.poll() == b"goodbye"
        assert (await client.get()).status_code == 204
        assert (await client.get()).status_code == 404


async def test_a_handler_that_fails_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(link: Link) -> None:
        await link.receive()
        raise RuntimeError("mine")

    async with serving(fail) as (_, client), trio.open_nursery() as nursery:
        await client.start_polling()
        answers = await waiting_poll(nursery, client)
        await client.post(b"hello")
        await until(lambda: answers)
        assert answers[0].status_code == 204
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], RuntimeError)


async def test_delete_ends_the_connection() -> None:
    server = Echo()
    async with serving(server) as (_, client), trio.open_nursery() as nursery:
        await client.start_polling()
        answers = await waiting_poll(nursery, client)
        response = await client.delete()
        assert (response.status_code, response.content) == (202, b"")
        assert response.headers["content-type"] == "text/plain"
        await until(lambda: answers)
        assert answers[0].status_code == 204
        await until(lambda: server.left)
        assert server.link.ended
        assert server.link.why == "the client ended it"
        for gone in (await client.get(), await client.post(b"data"), await client.delete()):
            assert (gone.status_code, gone.text) == (404, "No Connection with that ID")


async def test_what_was_posted_before_delete_is_received() -> None:
    class Slow(Echo):
        received = b""

        async def talk(self, link: Link) -> None:
            await link.wait_ended()
            while data := await link.receive():
                self.received += data

    server = Slow()
    async with serving(server) as (_, client):
        await client.start_polling()
        await client.post(b"last ")
        await client.post(b"words")
        assert (await client.delete()).status_code == 202
        await until(lambda: server.left)
    assert server.received == b"last words"


async def test_delete_does_not_wait_for_the_handler() -> None:
    class Stuck(Echo):
        async def talk(self, link: Link) -> None:
            await trio.sleep_forever()

    server = Stuck()
    async with serving(server) as (_, client):
        await client.start_polling()
        assert (await client.delete()).status_code == 202
        assert (await client.get()).status_code == 204
        assert (await client.post(b"data")).status_code == 404
        assert server.link.ended
        assert not server.left


async def test_a_client_that_stays_away_is_gone() -> None:
    server = Echo()
    async with serving(server, disconnect_timeout=0.1) as (_, client):
        await client.start_polling()
        await until(lambda: server.left)
        assert server.link.why == "the client stayed away"
        assert (await client.get()).status_code == 404


async def test_a_waiting_poll_is_presence() -> None:
    server = Echo()
    options = {"disconnect_timeout": 0.1, "long_poll_timeout": 0.3}
    async with serving(server, **options) as (_, client):
        await client.start_polling()
        assert await client.poll() == b""
        assert not server.link.ended


async def test_a_client_that_leaves_a_poll_may_come_back() -> None:
    server = Echo()
    async with serving(server, disconnect_timeout=5) as (site, client):
        await client.start_polling()
        stream = await site.tcp()
        await stream.send_all(f"GET {client.url} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await trio.sleep(0.05)
        await stream.aclose()
        await trio.sleep(0.05)
        await client.post(b"hello")
        assert await client.poll() == b"hello"


async def test_a_client_that_leaves_a_poll_and_stays_away_is_gone() -> None:
    server = Echo()
    async with serving(server, disconnect_timeout=0.1) as (site, client):
        await client.start_polling()
        stream = await site.tcp()
        await stream.send_all(f"GET {client.url} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await trio.sleep(0.2)
        assert not server.link.ended
        await stream.aclose()
        await until(lambda: server.left)


async def test_posts_are_taken_one_after_the_other() -> None:
    """While one of them is under way, another waits, and polls go on."""
    server = Echo()
    async with serving(server) as (_, client), trio.open_nursery() as nursery:
        await client.start_polling()
        begin, go_on = trio.Event(), trio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b"first"
            begin.set()
            await go_on.wait()
            yield b" and its end"

        async def post(content: object) -> None:
            assert (await client.post(content)).status_code == 200

        nursery.start_soon(post, slowly())
        await begin.wait()
        await trio.sleep(0.02)
        nursery.start_soon(post, b", second")
        answers = await waiting_poll(nursery, client)
        go_on.set()
        received = b""
        while not received.endswith(b"second"):
            await until(lambda: answers)
            received += answers.pop().content
            if not received.endswith(b"second"):
                await collect(client, answers)
        assert received == b"first and its end, second"


async def test_a_post_waits_until_the_hub_has_room() -> None:
    """Polls do not."""
    asked = trio.Semaphore(0)

    class Slow(Echo):
        async def talk(self, link: Link) -> None:
            link.send(b"hello")
            while True:
                await asked.acquire()
                link.send(await link.receive())

    small = {"application_buffer_size": 8}
    async with serving(Slow(), **small) as (_, client), trio.open_nursery() as nursery:
        await client.start_polling()
        done: list[bytes] = []

        async def post(data: bytes) -> None:
            assert (await client.post(data)).status_code == 200
            done.append(data)

        await post(b"12345")
        nursery.start_soon(post, b"6789")
        await trio.sleep(0.05)
        assert await client.poll() == b"hello"
        assert done == [b"12345"]
        asked.release()
        assert await client.poll() == b"12345"
        await until(lambda: len(done) == 2)
        asked.release()
        assert await client.poll() == b"6789"


async def test_a_post_that_waits_for_room_learns_of_the_end() -> None:
    class Deaf(Echo):
        async def talk(self, link: Link) -> None:
            await link.wait_ended()

    small = {"application_buffer_size": 8}
    async with serving(Deaf(), **small) as (_, client), trio.open_nursery() as nursery:
        await client.start_polling()
        assert (await client.post(b"12345")).status_code == 200
        statuses: list[int] = []

        async def post() -> None:
            statuses.append((await client.post(b"6789")).status_code)

        nursery.start_soon(post)
        nursery.start_soon(post)
        await trio.sleep(0.05)
        assert not statuses
        await client.delete()
        await until(lambda: len(statuses) == 2)
        assert statuses == [404, 404]


async def test_abort_forgets_what_was_posted() -> None:
    class Aborting(Echo):
        async def talk(self, link: Link) -> None:
            await posted.wait()
            link.abort("the test says so")
            assert await link.receive() == b""

    posted = trio.Event()
    server = Aborting()
    async with serving(server) as (_, client):
        await client.start_polling()
        await client.post(b"never received")
        posted.set()
        await until(lambda: server.left)
        assert server.link.ended


async def test_a_client_for_whom_too_much_waits_is_dropped() -> None:
    """If its handler is a raw one: a hub looks itself."""
    links: list[Link] = []

    async def flood(link: Link) -> None:
        links.append(link)
        for _ in range(11):
            link.send(bytes(100))
        await link.wait_ended()

    async with serving(flood, outbox_size=1000) as (_, client):
        await client.start_polling()
        await until(lambda: links and links[0].ended)
        assert links[0].why == "the client is too slow: more than 1000 bytes wait for it"
        assert (await client.get()).status_code in (204, 404)


async def test_abort_ends_the_poll_and_forgets_what_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "echo.hubs")
    server = Echo()
    async with serving(server) as (_, client), trio.open_nursery() as nursery:
        await client.start_polling()
        answers = await waiting_poll(nursery, client)
        server.link.send(b"never")
        server.link.abort("the test says so")
        server.link.abort("again")
        await until(lambda: answers)
        assert answers[0].status_code == 204
        await until(lambda: server.left)
        assert server.link.why == "the test says so"
        assert (await client.get()).status_code == 404
    assert [each.message for each in caplog.records if "aborted" in each.message] == [
        f"Connection {server.link.id} aborted: the test says so"
    ]
