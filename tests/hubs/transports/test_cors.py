"""Cross-origin requests: what browsers are told."""

from __future__ import annotations

import httpx
import pytest

from tests.hubs.transports.serving import Echo, Events, serving

MINE = "https://mine.example"
EVIL = "https://evil.example"
CLIENTS = "authorization,content-type,x-requested-with,x-signalr-user-agent"


def allowed(response: httpx.Response | Events) -> dict[str, str]:
    """What an answer says of origins."""
    name = "access-control-"
    return {key.removeprefix(name): value for key, value in response.headers.items() if name in key}


def preflight(origin: str, headers: str = CLIENTS) -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": headers,
    }


@pytest.mark.parametrize("path", ["/echo", "/echo/", "/echo/negotiate"])
async def test_a_preflight_of_an_allowed_origin(path: str) -> None:
    """Needs no authentication: it carries none."""

    class Members(Echo):
        async def admits(self, user: object) -> bool:
            return False

    async with serving(Members(), allowed_origins=(MINE,)) as (_, client):
        response = await client.http.options(path, headers=preflight(MINE))
        assert response.status_code == 204
        assert allowed(response) == {
            "allow-origin": MINE,
            "allow-credentials": "true",
            "allow-methods": "GET, POST, DELETE",
            "allow-headers": CLIENTS,
            "max-age": "600",
        }
        assert response.headers["vary"] == "Origin"


async def test_headers_of_the_apps_own_are_allowed_too() -> None:
    async with serving(Echo(), allowed_origins=(MINE,)) as (_, client):
        asked = preflight(MINE, "x-my-own")
        response = await client.http.options("/echo", headers=asked)
        assert allowed(response)["allow-headers"] == "x-my-own"
        response = await client.http.options("/echo", headers=preflight(MINE, 'nonsense: "'))
        assert allowed(response)["allow-headers"] == CLIENTS.replace(",", ", ")


async def test_another_origin_gets_no_permission() -> None:
    async with serving(Echo(), allowed_origins=(MINE,)) as (_, client):
        response = await client.http.options("/echo", headers=preflight(EVIL))
        assert "allow-origin" not in allowed(response)
        assert response.headers["vary"] == "Origin"
        response = await client.http.post("/echo/negotiate", headers={"Origin": EVIL})
        assert response.status_code == 200
        assert allowed(response) == {}
        assert response.headers["vary"] == "Origin"


async def test_every_answer_to_an_allowed_origin_may_be_read() -> None:
    permission = {"allow-origin": MINE.upper(), "allow-credentials": "true"}
    headers = {"Origin": MINE.upper()}
    async with serving(Echo(), allowed_origins=(MINE,)) as (_, client):
        unknown = await client.http.get("/echo?id=unknown", headers=headers)
        assert unknown.status_code == 404
        assert allowed(unknown) == permission
        response = await client.http.post("/echo/negotiate?negotiateVersion=1", headers=headers)
        assert allowed(response) == permission
        client.url = f"/echo?id={response.json()['connectionToken']}"
        async with client.events({"Accept": "text/event-stream", **headers}) as events:
            assert allowed(events) == permission
            assert allowed(await client.post(b"data", headers=headers)) == permission


async def test_all_origins_are_allowed_without_credentials() -> None:
    async with serving(Echo(), allowed_origins=("*",)) as (_, client):
        response = await client.http.post("/echo/negotiate", headers={"Origin": EVIL})
        assert allowed(response) == {"allow-origin": "*"}
        async with client.socket(extra_headers=[("Origin", EVIL)]) as socket:
            await socket.send_message("hello")
            assert await socket.get_message() == "hello"


async def test_by_default_nothing_is_said() -> None:
    async with serving(Echo()) as (_, client):
        response = await client.http.options("/echo", headers=preflight(MINE))
        assert "allow-origin" not in allowed(response)
        response = await client.http.post("/echo/negotiate", headers={"Origin": MINE})
        assert allowed(response) == {}
        assert "vary" not in response.headers
