"""Who sends a request, and what those get who may not."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from echo.hubs.transports.authentication import Forbidden, Unauthorized
from echo.hubs.transports.link import User
from echo.hubs.transports.request import Request
from tests.hubs.transports.serving import EVENTS, Client, Echo, Person, app_with, serve, serving

ALICE = {"Authorization": "Bearer alice"}
BOB = {"Authorization": "Bearer bob"}


async def authenticate(request: Request, token: str | None) -> User | None:
    match token:
        case None:
            return None
        case "expired":
            raise Unauthorized
        case "banned":
            raise Forbidden
        case _:
            return Person(token)


class Members(Echo):
    """Admits nobody unknown, and not everybody else."""

    async def admits(self, user: User | None) -> bool:
        return user is not None and user.id != "guest"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({}, 401, "Unauthorized"),
        ({"Authorization": "Basic YTpi"}, 401, "Unauthorized"),
        ({"Authorization": "Bearer"}, 401, "Unauthorized"),
        (bearer("expired"), 401, "Unauthorized"),
        (bearer("banned"), 403, "Forbidden"),
        (bearer("guest"), 403, "Forbidden"),
    ],
)
async def test_who_may_not_is_told_so_by_every_request(
    headers: dict[str, str], status: int, text: str
) -> None:
    server = Members()
    async with serving(server, authenticate=authenticate) as (_, client):
        refused = [await client.http.post("/echo/negotiate", headers=headers)]
        await client.negotiate(headers=ALICE)
        refused += [
            await client.get(headers=headers),
            await client.get(headers={**headers, **EVENTS}),
            await client.post(b"data", headers=headers),
            await client.delete(headers=headers),
        ]
        for response in refused:
            assert (response.status_code, response.text) == (status, text)
            assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
        assert await client.refused_socket(headers) == (status, text)
        client.url = "/echo"
        assert await client.refused_socket(headers) == (status, text)
    assert not server.links


async def through_events(client: Client) -> None:
    async with client.events({**EVENTS, **ALICE}) as events:
        await events.opened()
        assert (await client.post(b"hello", headers=ALICE)).status_code == 200
        assert await events.next() == b"data: hello\r\n\r\n"


async def through_polls(client: Client) -> None:
    assert (await client.get(headers=ALICE)).status_code == 200
    assert (await client.post(b"hello", headers=ALICE)).status_code == 200
    assert (await client.get(headers=ALICE)).content == b"hello"
    assert (await client.delete(headers=ALICE)).status_code == 202


async def through_a_websocket(client: Client) -> None:
    async with client.socket(extra_headers=list(ALICE.items())) as socket:
        await socket.send_message("hello")
        assert await socket.get_message() == "hello"


async def through_a_websocket_of_a_browser(client: Client) -> None:
    client.url += "&access_token=alice"
    async with client.socket() as socket:
        await socket.send_message("hello")
        assert await socket.get_message() == "hello"


@pytest.mark.parametrize(
    "talk",
    [through_events, through_polls, through_a_websocket, through_a_websocket_of_a_browser],
)
async def test_the_link_knows_its_user(talk: Any) -> None:
    server = Members()
    async with serving(server, authenticate=authenticate) as (_, client):
        await client.negotiate(headers={"authorization": "bearer alice"})
        await talk(client)
    assert server.link.user is not None
    assert server.link.user.id == "alice"


async def test_the_header_goes_before_the_query() -> None:
    server = Members()
    async with serving(server, authenticate=authenticate) as (_, client):
        await client.negotiate(headers=ALICE)
        client.url += "&access_token=bob"
        await client.get(headers=ALICE)
    assert server.link.user is not None
    assert server.link.user.id == "alice"


async def test_a_connection_is_its_users_alone() -> None:
    server = Members()
    async with serving(server, authenticate=authenticate) as (_, client):
        await client.negotiate(headers=ALICE)
        assert (await client.get(headers=ALICE)).status_code == 200
        for response in (
            await client.get(headers=BOB),
            await client.post(b"data", headers=BOB),
            await client.delete(headers=BOB),
        ):
            assert (response.status_code, response.text) == (403, "Forbidden")
        assert (await client.post(b"hello", headers=ALICE)).status_code == 200
        assert (await client.get(headers=ALICE)).content == b"hello"


async def test_without_a_hook_nobody_is_known() -> None:
    server = Echo()
    async with serving(server) as (_, client):
        await client.negotiate(headers=ALICE)
        await client.get(headers=ALICE)
    assert server.link.user is None


async def test_raw_connections_ask_a_function_of_the_app() -> None:
    async def handler(link: object) -> None:
        await trio.sleep_forever()

    app = app_with(handler, authenticate=authenticate, authorize=lambda user: user is not None)
    async with serve(app) as site, site.client() as client:
        assert (await client.http.post("/echo/negotiate")).status_code == 401
        await client.negotiate(headers=ALICE)
        assert (await client.get(headers=ALICE)).status_code == 200
