"""Negotiate: what a client is told, and what it can do with it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import trio
import trio.testing

from echo.hubs.transports.link import User
from echo.hubs.transports.negotiate import Redirect, Refusal
from echo.hubs.transports.options import ConnectionOptions
from echo.hubs.transports.request import Request
from tests.hubs.transports.serving import Echo, app_with, serve, serving

KEY = re.compile(r"[A-Za-z0-9_-]{22}")

ALL = [
    {"transport": "WebSockets", "transferFormats": ["Text", "Binary"]},
    {"transport": "ServerSentEvents", "transferFormats": ["Text"]},
    {"transport": "LongPolling", "transferFormats": ["Text", "Binary"]},
]


async def test_version_1_tells_an_id_a_token_and_the_transports() -> None:
    async with serving(Echo()) as (_, client):
        response = await client.http.post("/echo/negotiate?negotiateVersion=1")
        assert response.headers["content-type"] == "application/json"
        answer = response.json()
        assert list(answer) == [
            *("negotiateVersion", "connectionId", "connectionToken", "availableTransports")
        ]
        assert answer["negotiateVersion"] == 1
        assert KEY.fullmatch(answer["connectionId"])
        assert KEY.fullmatch(answer["connectionToken"])
        assert answer["connectionId"] != answer["connectionToken"]
        assert answer["availableTransports"] == ALL


@pytest.mark.parametrize("query", ["", "negotiateVersion=0", "negotiateversion=%200"])
async def test_version_0_takes_the_id_for_the_token(query: str) -> None:
    async with serving(Echo()) as (_, client):
        answer = await client.negotiate(query)
        assert list(answer) == ["negotiateVersion", "connectionId", "availableTransports"]
        assert answer["negotiateVersion"] == 0
        assert (await client.get()).status_code == 200


async def test_a_version_to_come_gets_ours() -> None:
    async with serving(Echo()) as (_, client):
        assert (await client.negotiate("NegotiateVersion=7"))["negotiateVersion"] == 1


@pytest.mark.parametrize(
    ("minimum", "query", "error"),
    [
        (0, "negotiateVersion=one", "The client requested a non-integer protocol version."),
        (0, "negotiateVersion=-1", "requested version '-1', but the server does not support this"),
        (1, "negotiateVersion=0", "requested version '0', but the server does not support this"),
        (1, "", "requested version '0', but the server does not support this version."),
    ],
)
async def test_a_version_that_is_not_to_be_had_is_an_error(
    minimum: int, query: str, error: str
) -> None:
    async with serving(Echo(), minimum_protocol_version=minimum) as (_, client):
        answer = await client.negotiate(query)
        assert list(answer) == ["error"]
        assert error in answer["error"]


async def test_the_public_id_is_no_token() -> None:
    server = Echo()
    async with serving(server) as (_, client):
        answer = await client.negotiate()
        client.url = f"/echo?id={answer['connectionId']}"
        assert (await client.get()).status_code == 404
        assert (await client.refused_socket())[0] == 404
        client.url = f"/echo?id={answer['connectionToken']}"
        assert await client.poll() == b""
        assert server.link.id == answer["connectionId"]
        assert server.link.token == answer["connectionToken"]
        client.url = f"/echo?id={answer['connectionId']}"
        assert (await client.get()).status_code == 404
        assert (await client.post(b"data")).status_code == 404
        assert (await client.delete()).status_code == 404


@pytest.mark.parametrize("transports", [(), ("LongPolling",), ("LongPolling", "WebSockets")])
async def test_only_the_transports_of_the_options_are_offered(transports: Any) -> None:
    async with serving(Echo(), transports=transports) as (_, client):
        offered = (await client.negotiate())["availableTransports"]
        assert [each["transport"] for each in offered] == list(transports)


@pytest.mark.parametrize(
    ("allowed", "asked", "told"),
    [
        (True, "&useStatefulReconnect=true", True),
        (True, "&UseStatefulReconnect=True", True),
        (True, "&useStatefulReconnect=false", False),
        (True, "", False),
        (False, "&useStatefulReconnect=true", False),
    ],
)
async def test_stateful_reconnect_has_to_be_asked_for_and_allowed(
    allowed: bool, asked: str, told: bool
) -> None:
    async with serving(Echo(), allow_stateful_reconnect=allowed) as (_, client):
        answer = await client.negotiate(f"negotiateVersion=1{asked}")
        assert answer.get("useStatefulReconnect") is (True if told else None)


async def test_the_app_may_redirect() -> None:
    async def elsewhere(request: Request, user: User | None) -> Redirect:
        token = request.parameter("token") or None
        return Redirect("https://example.org/hub", token)

    async with serving(Echo(), negotiate=elsewhere) as (_, client):
        url = {"url": "https://example.org/hub"}
        assert await client.negotiate() == url
        assert await client.negotiate("token=t") == {**url, "accessToken": "t"}


async def test_the_app_may_refuse() -> None:
    async def refuse(request: Request, user: User | None) -> Refusal | None:
        return None if request.parameter("please") else Refusal("Not today.")

    async with serving(Echo(), negotiate=refuse) as (_, client):
        assert await client.negotiate() == {"error": "Not today."}
        assert "connectionId" in await client.negotiate("please=1")


async def test_beyond_the_cap_nobody_negotiates_until_a_place_is_free() -> None:
    async with serving(Echo(), max_negotiations=2, disconnect_timeout=0.5) as (_, client):
        await client.negotiate()
        await client.negotiate()
        response = await client.http.post("/echo/negotiate?negotiateVersion=1")
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        assert await client.poll() == b""  # who connects makes room
        await client.negotiate()
        assert (await client.http.post("/echo/negotiate")).status_code == 429
        await trio.sleep(0.6)  # who does not come does too
        await client.negotiate()


async def test_a_negotiation_expires() -> None:
    async with serving(Echo(), disconnect_timeout=0.05) as (_, client):
        await client.negotiate()
        await trio.sleep(0.1)
        assert (await client.get()).status_code == 404


async def test_a_token_is_good_for_one_endpoint() -> None:
    app = app_with(Echo())
    from echo.hubs.mapping import map_connection

    async def other(link: object) -> None: ...

    map_connection(app, "/other", other)
    async with serve(app) as site, site.client() as client:
        await client.negotiate()
        client.url = client.url.replace("/echo", "/other")
        assert (await client.get()).status_code == 404


# Several processes


async def test_a_token_names_its_process() -> None:
    server = Echo()
    async with serving(server, node="b-2") as (_, client):
        answer = await client.negotiate()
        node, _, rest = answer["connectionToken"].partition(".")
        assert node == "b-2"
        assert KEY.fullmatch(rest)
        assert KEY.fullmatch(answer["connectionId"])
        assert (await client.get()).status_code == 200
        assert server.link.id == answer["connectionId"]


async def test_where_processes_share_a_port_any_connects_a_client_of_another() -> None:
    here, there = Echo(), Echo()
    options = {"sticky": False, "allow_stateful_reconnect": True}
    async with serving(here, **options) as (_, client), serving(there, **options) as (_, other):
        answer = await client.negotiate("negotiateVersion=1&useStatefulReconnect=true")
        assert answer["availableTransports"] == ALL[:1]
        assert "useStatefulReconnect" not in answer
        other.url = client.url
        async with other.socket() as socket:
            await socket.send_message("hello")
            assert await socket.get_message() == "hello"
            assert there.link.id == answer["connectionId"]
            assert (await other.refused_socket())[0] == 409
        assert not here.links


@pytest.mark.parametrize("token", ["x", "x" * 23, "a.b." + "x" * 22, "x" * 21 + "%20"])
async def test_what_no_process_can_have_given_is_unknown(token: str) -> None:
    async with serving(Echo(), sticky=False) as (_, client):
        client.url = f"/echo?id={token}"
        assert await client.refused_socket() == (404, "No Connection with that ID")


async def test_where_processes_share_a_port_only_websockets_can_be_had() -> None:
    async with serving(Echo(), sticky=False, max_negotiations=1) as (_, client):
        assert "error" in await client.negotiate("negotiateVersion=0")
        await client.negotiate()
        response = await client.get()
        assert (response.status_code, response.text) == (
            404,
            "LongPolling transport not supported by this end point type",
        )
        client.url = f"/echo?id={'x' * 22}"
        assert (await client.refused_socket())[0] == 429


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"node": "a.b"}, "node must be 1 to 32 letters, digits and hyphens, or empty"),
        ({"node": "x" * 33}, "node must be 1 to 32"),
        ({"sticky": False, "transports": ("LongPolling",)}, "sticky must be True without"),
    ],
)
def test_a_wrong_option_of_several_processes(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ConnectionOptions(**options)
