"""What a hub method takes, read once from its type hints, and conversion of what came to it.

A value that does not fit is a `BindingError`: it fails the call that it belongs to and nothing
else. A type that cannot come over the wire at all is a TypeError where the method is declared.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections import abc
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Raw

from echo.hubs.messages import Arguments, Value
from echo.hubs.protocol import HubProtocol

_STREAMS = (abc.AsyncIterator, abc.AsyncIterable, abc.AsyncGenerator)

_WRONG_TYPES = (
    "Error binding arguments. Make sure that the types of the provided values match the types of "
    "the hub method being invoked."
)


class BindingError(Exception):
    """What the peer sent does not fit the types that it is for.

    `str()` is .NET's sentence. `reason` says what msgspec found wrong, for the log: it may quote
    names of our types, so it goes to no client.
    """

    kind = "InvalidDataException"  # what .NET names it to clients

    def __init__(self, sentence: str, reason: str = "") -> None:
        super().__init__(sentence)
        self.reason = reason

    def invocation_text(self, target: str, *, detailed: bool = False) -> str:
        """The error to complete a call of `target` with; `detailed` tells the client why."""
        text = f"Failed to invoke '{target}' due to an error on the server."
        return f"{text} {self.kind}: {self}" if detailed else text

    def stream_text(self, *, detailed: bool = False) -> str:
        """The error that ends an uploaded stream whose item does not fit."""
        text = "Failed to bind Stream message."
        return f"{text} {self.kind}: {self}" if detailed else text


class StreamCountError(BindingError):
    """The call brings more or fewer streams than the method takes."""

    kind = "HubException"

    def __init__(self, sent: int, expected: int) -> None:
        super().__init__(f"Client sent {sent} stream(s), Hub method expects {expected}.")

    def invocation_text(self, target: str, *, detailed: bool = False) -> str:
        """The error to complete the call with: a HubException is told in either case."""
        return (
            f"An unexpected error occurred invoking '{target}' on the server. {self.kind}: {self}"
        )


class Converter:
    """Converts undecoded values to one type, whichever protocol they came in.

    Raises TypeError if no value that comes over the wire can be of this type.
    """

    __slots__ = ("_decoders", "type")

    def __init__(self, type: object) -> None:
        self.type = type
        foreign = _foreign_types(msgspec.inspect.type_info(type))
        if foreign:
            raise TypeError(
                f"{', '.join(foreign)} cannot come over the wire: "
                "use built-in types, dataclasses, msgspec.Struct, TypedDict or attrs classes"
            )
        self._decoders: dict[str, Callable[[Raw], object]] = {}  # by the protocol's name

    def convert(self, value: Value, protocol: HubProtocol) -> Any:
        """What a peer speaking `protocol` sent, a `Raw`, as this type. Raises `BindingError`."""
        assert isinstance(value, Raw)
        try:
            decode = self._decoders.get(protocol.name)
            if decode is None:
                decode = self._decoders[protocol.name] = protocol.decoder(self.type)
            return decode(value)
        except Exception as error:  # also of the type's own code, such as __post_init__
            raise BindingError(_WRONG_TYPES, str(error)) from error


class Signature:
    """What a hub method takes and gives, read from its type hints.

    Arguments come by position and there must be exactly as many as the method has parameters:
    the protocol knows no optional ones, so that a parameter's default is never used. A parameter
    hinted as an async iterator is not an argument but a stream that the client uploads. One
    without a hint takes any value.

    Args:
        method: a function as it stands in the hub's class; its first parameter is the hub.

    Raises TypeError, which names the method and the parameter, if the method cannot be called.
    """

    __slots__ = ("_arguments", "_places", "name", "parameters", "returns_stream", "streams")

    def __init__(self, method: Callable[..., object]) -> None:
        self.name = method.__qualname__
        hints = _hints(method)
        self.parameters = _parameters(method)
        """The names of all parameters but the hub, streams among them."""
        arguments: list[object] = []
        streams: list[Converter] = []
        self._places: list[int] = []  # of the streams among the parameters
        for place, name in enumerate(self.parameters):
            streams_in, hint = _stream_of(hints.get(name, Any))
            try:
                converter = Converter(hint)
            except TypeError as error:
                raise TypeError(f"{self.name}(), parameter '{name}': {error}") from None
            if streams_in:
                streams.append(converter)
                self._places.append(place)
            else:
                arguments.append(hint)
        self._arguments = Converter(types.GenericAlias(tuple, tuple(arguments)))
        self.streams = tuple(streams)
        """What converts the items of each uploaded stream, in the order of the streams."""
        streams_out, _ = _stream_of(hints.get("return"))
        self.returns_stream = streams_out or inspect.isasyncgenfunction(inspect.unwrap(method))
        """Whether a client has to call it with a StreamInvocation."""

    def check_streams(self, count: int) -> None:
        """Raises `StreamCountError` unless the method takes `count` streams."""
        if count != len(self.streams):
            raise StreamCountError(count, len(self.streams))

    def bind(
        self, arguments: Arguments, protocol: HubProtocol, streams: Sequence[object] = ()
    ) -> list[Any]:
        """What to call the method with: the arguments, and between them the streams.

        Args:
            arguments: as they came in a message of `protocol`.
            streams: one object for each of `self.streams`, to iterate over.

        Raises `BindingError` if number or types of the arguments do not fit.
        """
        try:
            values = list(self._arguments.convert(arguments, protocol))
        except BindingError as error:
            raise self._explain(arguments, protocol, error) from error.__cause__
        if self._places:
            for place, stream in zip(self._places, streams, strict=True):
                values.insert(place, stream)
        return values

    def _explain(
        self, arguments: Arguments, protocol: HubProtocol, error: BindingError
    ) -> BindingError:
        try:
            sent = len(Converter(list[Raw]).convert(arguments, protocol))
        except BindingError:
            return BindingError("Expected 'arguments' to be of type Array.", error.reason)
        expected = len(self.parameters) - len(self.streams)
        if sent == expected:
            return error
        return BindingError(
            f"Invocation provides {sent} argument(s) but target expects {expected}.", error.reason
        )


def _hints(method: Callable[..., object]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(method), include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{method.__qualname__}(): a type hint cannot be read: {error}: "
            "define or import it at the top of the module, not only for type checkers"
        ) from None


def _parameters(method: Callable[..., object]) -> tuple[str, ...]:
    """The names of the parameters behind the first, which is the hub."""
    parameters = list(inspect.signature(method).parameters.values())
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise TypeError(
                f"{method.__qualname__}(): '{parameter}' is not a parameter by position, "
                "the only kind that a client can fill"
            )
    if not parameters:
        raise TypeError(f"{method.__qualname__}() has no first parameter, self, for its hub")
    return tuple(parameter.name for parameter in parameters[1:])


def _stream_of(hint: Any) -> tuple[bool, Any]:
    """Whether the hint is that of a stream, and if so the hint of its items, else itself."""
    plain = hint
    while typing.get_origin(plain) is Annotated:
        plain = typing.get_args(plain)[0]
    if (typing.get_origin(plain) or plain) in _STREAMS:
        return True, (typing.get_args(plain) or (Any,))[0]
    return False, hint


_WIRE_TYPES = (dict, list, str, bytes, int, float, bool, type(None))


def _foreign_types(info: object) -> list[str]:
    """The names of the classes in a type that nothing can be converted to."""
    found: list[str] = []
    seen: set[int] = set()  # types may contain themselves
    todo = [info]
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, msgspec.inspect.CustomType):
            if not any(issubclass(known, node.cls) for known in _WIRE_TYPES):
                found.append(node.cls.__name__)
        elif isinstance(node, tuple):
            todo += node
        elif isinstance(node, msgspec.Struct):
            todo += [getattr(node, name) for name in node.__struct_fields__]
    return found
