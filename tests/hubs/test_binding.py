"""Arguments become what a method's type hints say, or the call fails and nothing else."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest
from msgspec import Meta, Raw

from echo.hubs.binding import BindingError, Converter, Signature, StreamCountError
from echo.hubs.messages import Arguments, Completion, Invocation, StreamItem
from echo.hubs.protocol import HubProtocol
from tests.hubs.support import JSON, MESSAGEPACK, PROTOCOLS

if TYPE_CHECKING:
    from fractions import Fraction

each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda each: each.name)

MISMATCH = (
    "Error binding arguments. Make sure that the types of the provided values match the types of "
    "the hub method being invoked."
)


def sent(protocol: HubProtocol, *values: object) -> Arguments:
    """The arguments as they come from a client that sends these values."""
    frame = protocol.encode(Invocation(target="t", arguments=values))
    (message,) = protocol.parser().feed(frame)
    assert isinstance(message, Invocation)
    return message.arguments


@dataclass
class Point:
    x: int
    y: float = 0.5


@dataclass
class Tree:
    name: str
    branches: list[Tree]


class Renamed(msgspec.Struct, rename="camel"):
    first_name: str
    born: date | None = None


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict, total=False):
    retries: int


MOMENT = datetime(2024, 2, 29, 12, tzinfo=UTC)
UNIQUE = UUID("0f9cb7d4-4e4b-4b4f-8f5e-3a2b6c7d8e9f")


class Hub:
    async def nothing(self) -> None: ...
    async def two(self, number: int, text: str) -> None: ...
    async def defaulted(self, number: int, text: str = "x") -> None: ...
    async def loose(self, anything, thing: object, any: Any): ...  # type: ignore[no-untyped-def]
    async def up(
        self, a: int, numbers: AsyncIterator[int], b: str, texts: AsyncIterable[str]
    ) -> int:
        raise NotImplementedError

    async def bare(self, items: AsyncIterator) -> None: ...  # type: ignore[type-arg]
    async def generated(self, items: Annotated[AsyncGenerator[Point, None], "x"]) -> None: ...
    async def down(self, count: int) -> AsyncIterator[int]:
        yield count

    async def untyped_down(self):  # type: ignore[no-untyped-def]
        yield 1

    async def passed_on(self) -> AsyncIterator[int]:
        raise NotImplementedError

    def plain_down(self) -> AsyncIterable[int]:
        raise NotImplementedError

    def __private(self) -> None: ...


def taking(hint: object) -> Signature:
    """The signature of a method with one parameter of this type."""

    async def method(self: object, value: Any) -> None: ...

    method.__annotations__["value"] = hint
    return Signature(method)


@each_protocol
@pytest.mark.parametrize(
    ("hint", "value", "bound"),
    [
        (int, 5, 5),
        (float, 5, 5.0),
        (float, 2.5, 2.5),
        (bool, True, True),
        (str, "å😀", "å😀"),
        (str | None, None, None),
        (int | str | None, "x", "x"),
        (bytes, b"\x00\xff", b"\x00\xff"),
        (bytes, b"", b""),
        (datetime, MOMENT, MOMENT),
        (date, date(2024, 2, 29), date(2024, 2, 29)),
        (UUID, UNIQUE, UNIQUE),
        (Decimal, Decimal("1.10"), Decimal("1.10")),
        (Colour, Colour.RED, Colour.RED),
        (Colour, "red", Colour.RED),
        (Size, 3, Size.LARGE),
        (Literal["a", "b"], "a", "a"),
        (Point, {"x": 1}, Point(1)),
        (Point, {"x": 1, "y": 2, "z": [3]}, Point(1, 2.0)),
        (Tree, Tree("a", [Tree("b", [])]), Tree("a", [Tree("b", [])])),
        (Renamed, {"firstName": "Ada", "born": "1815-12-10"}, Renamed("Ada", date(1815, 12, 10))),
        (Pair, [1, "x"], Pair(1, "x")),
        (Options, {"retries": 1}, {"retries": 1}),
        (list[Point], [{"x": 1}, {"x": 2}], [Point(1), Point(2)]),
        (dict[str, list[int]], {"a": [1]}, {"a": [1]}),
        (dict[int, str], {1: "a"}, {1: "a"}),
        (set[int], [1, 1], {1}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (list[Any], [1, {"a": None}], [1, {"a": None}]),
        (Annotated[int, Meta(ge=1)], 1, 1),
        (object, {"a": [1]}, {"a": [1]}),
        (Any, [None, 1.5], [None, 1.5]),
    ],
    ids=str,
)
def test_a_value_becomes_what_the_hint_says(
    hint: object, value: object, bound: object, protocol: HubProtocol
) -> None:
    (result,) = taking(hint).bind(sent(protocol, value), protocol)
    assert result == bound and type(result) is type(bound)


@each_protocol
@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, "5"),
        (int, 5.5),
        (int, True),
        (int, None),
        (str, 5),
        (bool, 1),
        (bytes, "not base64!"),
        (bytes, 5),
        (datetime, "yesterday"),
        (UUID, "0f9cb7d4"),
        (Colour, "blue"),
        (Point, {"y": 1}),
        (Point, [1]),
        (Point, {"x": "1"}),
        (Tree, {"name": "a", "branches": [{"name": "b"}]}),
        (list[int], [1, "2"]),
        (tuple[int, str], [1]),
        (Annotated[int, Meta(ge=1)], 0),
        (str, b"\xff" * 3),
        (None, 1),
    ],
    ids=str,
)
def test_a_value_that_does_not_fit_fails_the_call(
    hint: object, value: object, protocol: HubProtocol
) -> None:
    arguments = sent(protocol, value)
    if hint is str and protocol is JSON:
        return  # base64 is text
    with pytest.raises(BindingError) as raised:
        taking(hint).bind(arguments, protocol)
    assert str(raised.value) == MISMATCH
    assert raised.value.reason
    assert raised.value.__cause__ is not None


@each_protocol
@pytest.mark.parametrize("values", [(), (1,), (1, "x", 2), ("x", 1, [{}] * 5)], ids=len)
def test_the_number_of_arguments_is_exact(
    values: tuple[object, ...], protocol: HubProtocol
) -> None:
    """The protocol knows no optional arguments, so that a default does not help."""
    for method in (Hub.two, Hub.defaulted):
        with pytest.raises(BindingError) as raised:
            Signature(method).bind(sent(protocol, *values), protocol)
        assert str(raised.value) == (
            f"Invocation provides {len(values)} argument(s) but target expects 2."
        )


@each_protocol
def test_arguments_come_by_position(protocol: HubProtocol) -> None:
    assert Signature(Hub.nothing).bind(sent(protocol), protocol) == []
    assert Signature(Hub.two).bind(sent(protocol, 1, "x"), protocol) == [1, "x"]
    loose = Signature(Hub.loose)
    assert loose.parameters == ("anything", "thing", "any")
    assert loose.bind(sent(protocol, 1, [2], None), protocol) == [1, [2], None]


@pytest.mark.parametrize(
    ("raw", "protocol"),
    [(b"{}", JSON), (b"null", JSON), (b"1", JSON), (b"\xc0", MESSAGEPACK), (b"\x80", MESSAGEPACK)],
)
def test_arguments_that_are_no_array_fail_the_call(raw: bytes, protocol: HubProtocol) -> None:
    with pytest.raises(BindingError, match=r"^Expected 'arguments' to be of type Array"):
        Signature(Hub.two).bind(Raw(raw), protocol)


@pytest.mark.parametrize(
    ("record", "protocol"),
    [
        (b'{"type":1,"target":"t","arguments":["\xff"]}\x1e', JSON),
        (b'{"type":1,"target":"t","arguments":[1e999]}\x1e', JSON),
        (b'{"type":1,"target":"t","arguments":[' + b"1" * 5000 + b"]}\x1e", JSON),
        (b"\x0a\x96\x01\x80\xc0\xa1t\x91\xa1\xff\x90", MESSAGEPACK),
        (b"\x0b\x96\x01\x80\xc0\xa1t\x91\x81\x80\x01\x90", MESSAGEPACK),
        (
            b"\x17\x96\x01\x80\xc0\xa1t\x91\xc7\x0c\xff\xff\xff\xff\xff" + b"\0" * 8 + b"\x90",
            MESSAGEPACK,
        ),
    ],
)
def test_a_malformed_argument_fails_the_call_and_not_the_connection(
    record: bytes, protocol: HubProtocol
) -> None:
    (message,) = protocol.parser().feed(record)
    assert isinstance(message, Invocation)
    with pytest.raises(BindingError) as raised:
        taking(Any).bind(message.arguments, protocol)
    assert str(raised.value) == MISMATCH


@dataclass
class Picky:
    x: int

    def __post_init__(self) -> None:
        raise KeyError(self.x)


@each_protocol
def test_an_error_of_the_type_itself_fails_the_call(protocol: HubProtocol) -> None:
    with pytest.raises(BindingError) as raised:
        taking(Picky).bind(sent(protocol, {"x": 5}), protocol)
    assert isinstance(raised.value.__cause__, KeyError)


def test_the_error_tells_the_client_why_only_in_detail() -> None:
    error = BindingError("Invocation provides 2 argument(s) but target expects 1.", "a secret")
    text = "Failed to invoke 'Echo' due to an error on the server."
    assert error.invocation_text("Echo") == text
    assert error.invocation_text("Echo", detailed=True) == (
        f"{text} InvalidDataException: Invocation provides 2 argument(s) but target expects 1."
    )
    assert error.stream_text() == "Failed to bind Stream message."
    assert error.stream_text(detailed=True) == (
        "Failed to bind Stream message. InvalidDataException: "
        "Invocation provides 2 argument(s) but target expects 1."
    )


# --- streams ---


@each_protocol
def test_uploaded_streams_take_their_places_among_the_arguments(protocol: HubProtocol) -> None:
    signature = Signature(Hub.up)
    assert signature.parameters == ("a", "numbers", "b", "texts")
    numbers, texts = object(), object()
    arguments = sent(protocol, 1, "x")
    assert signature.bind(arguments, protocol, [numbers, texts]) == [1, numbers, "x", texts]
    with pytest.raises(BindingError, match=r"provides 4 argument\(s\) but target expects 2"):
        signature.bind(sent(protocol, 1, [], "x", []), protocol, [numbers, texts])


@each_protocol
def test_the_items_of_a_stream_are_converted(protocol: HubProtocol) -> None:
    def item(value: object) -> object:
        (message,) = protocol.parser().feed(
            protocol.encode(StreamItem(invocation_id="1", item=value))
        )
        assert isinstance(message, StreamItem)
        return message.item

    numbers, texts = Signature(Hub.up).streams
    assert numbers.convert(item(5), protocol) == 5
    assert texts.convert(item("x"), protocol) == "x"
    with pytest.raises(BindingError):
        numbers.convert(item("x"), protocol)
    (points,) = Signature(Hub.generated).streams
    assert points.convert(item({"x": 1}), protocol) == Point(1)
    (anything,) = Signature(Hub.bare).streams
    assert anything.convert(item([1]), protocol) == [1]


def test_the_number_of_streams_is_exact() -> None:
    Signature(Hub.up).check_streams(2)
    Signature(Hub.two).check_streams(0)
    with pytest.raises(StreamCountError) as raised:
        Signature(Hub.two).check_streams(1)
    for detailed in (False, True):
        assert raised.value.invocation_text("Two", detailed=detailed) == (
            "An unexpected error occurred invoking 'Two' on the server. HubException: "
            "Client sent 1 stream(s), Hub method expects 0."
        )


@pytest.mark.parametrize(
    ("method", "streams"),
    [
        (Hub.down, True),
        (Hub.untyped_down, True),
        (Hub.passed_on, True),
        (Hub.plain_down, True),
        (Hub.two, False),
        (Hub.loose, False),
        (Hub.up, False),
    ],
)
def test_a_method_that_answers_with_a_stream_is_known(
    method: Callable[..., object], streams: bool
) -> None:
    assert Signature(method).returns_stream is streams


def test_a_decorated_method_keeps_its_signature() -> None:
    @functools.wraps(Hub.down)
    def wrapped(*args: Any, **kwargs: Any) -> Any: ...

    signature = Signature(wrapped)
    assert signature.parameters == ("count",) and signature.returns_stream


# --- what cannot be a hub method ---


class Foreign:
    pass


@dataclass
class Holds:
    inner: list[Foreign]


@pytest.mark.parametrize(
    ("hint", "named"),
    [
        (Foreign, "Foreign"),
        (list[Foreign | None], "Foreign"),
        (Holds, "Foreign"),
        (AsyncIterator[Foreign], "Foreign"),
        (complex, "complex"),
        (Awaitable[int], "Awaitable"),
        (list[AsyncIterator[int]], "AsyncIterator"),
        (bytes | str, "str-like"),
    ],
    ids=str,
)
def test_a_type_that_cannot_come_is_refused_where_it_is_declared(hint: object, named: str) -> None:
    with pytest.raises(TypeError, match=rf"method\(\), parameter 'value': .*{named}"):
        taking(hint)


class Wrong:
    async def keyword_only(self, *, number: int) -> None: ...
    async def any_number(self, *numbers: int) -> None: ...
    async def named(self, **numbers: int) -> None: ...
    async def without_hub() -> None: ...  # type: ignore[misc]
    async def unreadable(self, number: Fraction) -> None: ...


@pytest.mark.parametrize(
    ("method", "error"),
    [
        (
            Wrong.keyword_only,
            r"Wrong.keyword_only\(\): 'number: .*' is not a parameter by position",
        ),
        (Wrong.any_number, r"Wrong.any_number\(\): '\*numbers: .*' is not a parameter by position"),
        (Wrong.named, r"Wrong.named\(\): '\*\*numbers: .*' is not a parameter by position"),
        (Wrong.without_hub, r"Wrong.without_hub\(\) has no first parameter"),
        (Wrong.unreadable, r"Wrong.unreadable\(\): a type hint cannot be read: .*'Fraction'"),
    ],
)
def test_a_method_that_no_client_can_call_is_refused(
    method: Callable[..., object], error: str
) -> None:
    with pytest.raises(TypeError, match=error):
        Signature(method)


# --- single values ---


@each_protocol
def test_a_client_s_result_is_converted(protocol: HubProtocol) -> None:
    (message,) = protocol.parser().feed(
        protocol.encode(Completion(invocation_id="1", result={"x": 1}))
    )
    assert isinstance(message, Completion)
    assert Converter(Point).convert(message.result, protocol) == Point(1)
    with pytest.raises(BindingError):
        Converter(int).convert(message.result, protocol)
