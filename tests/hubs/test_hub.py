"""What of a hub's class clients may call, under which names, and who may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from echo.hubs import Hub, authorize, hub_method
from echo.hubs.hub import allowed, methods_of, policies_of
from tests.hubs.memory import Person, serving


class Base(Hub):
    def inherited(self) -> str:
        return "base"

    def overridden(self) -> str:
        return "base"

    @hub_method("Renamed")
    def odd_name(self) -> str:
        return "base"


class Full(Base):
    attribute: ClassVar[str] = "not a method"

    def send_message(self) -> str:
        return "sent"

    def overridden(self) -> str:
        return "derived"

    def odd_name(self) -> str:
        return "derived"

    def _private(self) -> str:
        return "private"

    @property
    def looks_like_one(self) -> str:
        return "property"

    @staticmethod
    def static() -> str:
        return "static"

    @classmethod
    def of_class(cls) -> str:
        return "class"


@pytest.mark.parametrize(
    "name", ["SendMessage", "sendMessage", "send_message", "SENDMESSAGE", "Send_Message"]
)
async def test_a_method_is_found_without_regard_to_case_and_underscores(name: str) -> None:
    async with serving(Full) as service:
        client = await service.connect()
        assert await client.result(name) == "sent"


async def test_inherited_and_overridden_methods_can_be_called() -> None:
    async with serving(Full) as service:
        client = await service.connect()
        assert await client.result("Inherited") == "base"
        assert await client.result("Overridden") == "derived"


async def test_a_given_name_replaces_the_methods_own_and_is_inherited() -> None:
    async with serving(Full) as service:
        client = await service.connect()
        assert await client.result("renamed") == "derived"
        assert await client.error("odd_name") == "Unknown hub method 'odd_name'"


@pytest.mark.parametrize(
    "name",
    [
        *("_private", "private", "attribute", "looks_like_one", "static", "of_class"),
        *("on_connected", "OnDisconnected", "clients", "context", "groups"),
        *("__init__", "__class__", "__str__", "ToString", "nothing", "é", "send message"),
    ],
)
async def test_nothing_else_can_be_called(name: str) -> None:
    async with serving(Full) as service:
        client = await service.connect()
        assert await client.error(name) == f"Unknown hub method '{name}'"


def test_overloads_are_refused_where_the_hub_is_mapped() -> None:
    class Ambiguous(Hub):
        def send_all(self) -> None: ...

        def sendAll(self) -> None: ...

    with pytest.raises(TypeError, match=r"Ambiguous: clients cannot tell send_?all\(\) from"):
        methods_of(Ambiguous)


def test_two_methods_given_one_name_are_refused() -> None:
    class Ambiguous(Hub):
        @hub_method("Send")
        def first(self) -> None: ...

        @hub_method("send")
        def second(self) -> None: ...

    with pytest.raises(TypeError, match="use @hub_method"):
        methods_of(Ambiguous)


def test_a_method_that_hides_what_every_hub_has_is_refused() -> None:
    class Hiding(Hub):
        def groups(self) -> None: ...  # type: ignore[override]

    with pytest.raises(TypeError, match=r"Hiding\.groups\(\) hides what every Hub has: rename it"):
        methods_of(Hiding)


def test_a_method_that_cannot_be_called_is_refused_by_name() -> None:
    class Wrong(Hub):
        def takes(self, *, keyword: int) -> None: ...

    with pytest.raises(TypeError, match=r"takes\(\): .* is not a parameter by position"):
        methods_of(Wrong)


def test_what_streams_and_what_has_no_result_is_read_from_the_hints() -> None:
    class Kinds(Hub):
        def nothing(self) -> None: ...

        def maybe(self) -> str | None: ...

        def unsaid(self): ...  # type: ignore[no-untyped-def]

        async def down(self) -> AsyncIterator[int]:
            yield 1

        def up(self, first: AsyncIterator[int], second: AsyncIterator[str]) -> None: ...

    methods = methods_of(Kinds)
    assert [name for name, method in methods.items() if method.is_void] == ["nothing", "up"]
    assert [name for name, method in methods.items() if method.streams] == ["down"]
    assert methods["up"].uploads == 2
    assert [name for name, each in methods.items() if not each.counts] == ["down", "up"]


def is_admin(user: Any) -> bool:
    return user is not None and user.role == "admin"


async def knows_name(user: Any) -> bool:
    return user is not None and user.id is not None


class Guarded(Hub):
    def open(self) -> str:
        return "open"

    @authorize()
    def known(self) -> str:
        return "known"

    @authorize(is_admin)
    def admins(self) -> str:
        return "admins"

    @authorize(is_admin)
    @authorize(knows_name)
    async def named_admins(self) -> str:
        return "named"

    @authorize(is_admin)
    async def stream(self) -> AsyncIterator[int]:
        yield 1


class Derived(Guarded):
    def admins(self) -> str:
        return "still admins"


def refused(name: str) -> str:
    return f"Failed to invoke '{name}' because user is unauthorized"


@pytest.mark.parametrize(
    ("user", "may"),
    [
        (None, {"Open"}),
        (Person("ada"), {"Open", "Known"}),
        (Person(None, "admin"), {"Open", "Known", "Admins"}),
        (Person("bob", "admin"), {"Open", "Known", "Admins", "NamedAdmins"}),
    ],
)
async def test_a_method_with_a_policy_runs_for_whom_it_lets(
    user: Person | None, may: set[str]
) -> None:
    async with serving(Guarded) as service:
        client = await service.connect(user=user)
        for name in ("Open", "Known", "Admins", "NamedAdmins"):
            if name in may:
                await client.result(name)
            else:
                assert await client.error(name) == refused(name)


async def test_a_stream_with_a_policy_is_refused_too() -> None:
    async with serving(Guarded) as service:
        client = await service.connect()
        assert await client.items(client.call_stream("stream")) == ([], refused("stream"))
        client = await service.connect(user=Person("ada", "admin"))
        assert await client.items(client.call_stream("stream")) == ([1], None)


async def test_a_policy_holds_for_methods_that_override() -> None:
    async with serving(Derived) as service:
        client = await service.connect()
        assert await client.error("Admins") == refused("Admins")


async def test_a_policy_that_fails_lets_nobody() -> None:
    class Broken(Hub):
        @authorize(lambda user: user.role == "admin")
        def admins(self) -> str:
            return "let in"

    async with serving(Broken) as service:
        client = await service.connect()
        error = await client.error("Admins")
        assert error == "An unexpected error occurred invoking 'Admins' on the server."


async def test_policies_of_a_hub_say_who_may_connect() -> None:
    @authorize()
    class Members(Hub): ...

    @authorize(is_admin)
    class Admins(Members): ...

    assert not policies_of(Hub)
    assert await allowed(policies_of(Members), Person("ada"))
    assert not await allowed(policies_of(Members), None)
    assert not await allowed(policies_of(Admins), Person("ada"))
    assert await allowed(policies_of(Admins), Person("ada", "admin"))
    async with serving(Members) as service:
        assert not await service.server.admits(None)
        client = service.open()
        client.shake_hands()
        assert await client.read_raw() == b'{"error":"Unauthorized"}\x1e'
        await client.served.wait()
        await service.connect(user=Person("ada"))
