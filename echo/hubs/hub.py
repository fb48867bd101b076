"""The base class of hubs, and what clients may call of one.

Every public function of a hub's class is a method that clients may call, by its name without
regard to case and underscores: `send_message` is "SendMessage" to them. There are no overloads.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from echo.hubs.binding import Signature
from echo.hubs.clients import CallerClients, GroupManager
from echo.hubs.context import CallerContext

if TYPE_CHECKING:
    from echo.hubs.transports.link import User

Policy: TypeAlias = "Callable[[Any], bool | Awaitable[bool]]"
"""Says of a user (None if there is none) whether it may."""

Decorated = TypeVar("Decorated", bound="type[Hub] | Callable[..., Any]")

_NAME = "__hub_name__"
_POLICIES = "__hub_policies__"


class Hub:
    """Base class: methods for clients to call. There is a new instance for each call.

    A method may be `async` or not. One that is an async generator, or is hinted to return an
    `AsyncIterator`, streams to the client; parameters hinted so are streams from the client.
    Names that begin with an underscore are for the hub itself.
    """

    clients: CallerClients
    """Whom to call."""
    context: CallerContext
    """Who calls."""
    groups: GroupManager
    """Who is in which group."""

    async def on_connected(self) -> None:
        """A client has connected; its calls wait until this ends. If it fails, so does the
        connection, and `on_disconnected` is not called."""

    async def on_disconnected(self, error: Exception | None) -> None:
        """The connection is over; has `close_timeout` to end.

        Args:
            error: why, if the client did not just leave.
        """


def hub_method(name: str) -> Callable[[Decorated], Decorated]:
    """Give a method another name for clients, in the place of its own.

    It stays when a subclass overrides the method.
    """

    def decorate(method: Decorated) -> Decorated:
        setattr(method, _NAME, name)
        return method

    return decorate


def authorize(policy: Policy | None = None) -> Callable[[Decorated], Decorated]:
    """Let only some users connect to a hub, or call a method: `@authorize()`.

    Args:
        policy: says of a user whether it may; None: every user that is known may. May be async.

    Several count together. They also hold for subclasses, and for methods that override.
    """

    def decorate(decorated: Decorated) -> Decorated:
        own: tuple[Policy, ...] = vars(decorated).get(_POLICIES, ())
        setattr(decorated, _POLICIES, (policy or _is_known, *own))
        return decorated

    return decorate


def _is_known(user: User | None) -> bool:
    return user is not None


async def allowed(policies: tuple[Policy, ...], user: User | None) -> bool:
    """Whether all policies let the user."""
    for policy in policies:
        verdict = policy(user)
        if inspect.isawaitable(verdict):
            verdict = await verdict
        if not verdict:
            return False
    return True


class HubMethod:
    """A method that clients may call.

    Raises TypeError, which names it, if it cannot be called.
    """

    __slots__ = ("counts", "function", "is_void", "policies", "signature", "streams", "uploads")

    def __init__(self, function: Callable[..., Any], policies: tuple[Policy, ...]) -> None:
        self.function = function
        self.policies = policies
        self.signature = Signature(function)
        self.streams = self.signature.returns_stream
        """Whether it streams to the client."""
        self.uploads = len(self.signature.streams)
        """How many streams it takes from the client."""
        self.counts = not self.streams and not self.uploads
        """Whether it counts among the `parallel_invocations`."""
        returns = typing.get_type_hints(inspect.unwrap(function)).get("return")
        self.is_void = returns is type(None)
        """Whether it says that it has no result; another may still have the result None."""


def methods_of(hub: type[Hub]) -> dict[str, HubMethod]:
    """What clients may call of a hub, by the name in lower case.

    Raises TypeError if two methods have one name, or if one cannot be called so.
    """
    found: dict[str, HubMethod] = {}
    owners: dict[str, str] = {}
    for attribute in dir(hub):
        function = inspect.getattr_static(hub, attribute)
        if attribute.startswith("_") or hasattr(Hub, attribute) or not inspect.isfunction(function):
            continue
        if attribute in Hub.__annotations__:
            raise TypeError(f"{hub.__name__}.{attribute}() hides what every Hub has: rename it")
        definitions = [vars(each)[attribute] for each in hub.__mro__ if attribute in vars(each)]
        policies = [policy for each in definitions for policy in getattr(each, _POLICIES, ())]
        method = HubMethod(function, tuple(policies))
        given = [name for each in definitions if (name := getattr(each, _NAME, None)) is not None]
        names = given[:1] or [attribute, attribute.replace("_", "")]
        for name in {name.lower() for name in names}:
            if name in found:
                raise TypeError(
                    f"{hub.__name__}: clients cannot tell {attribute}() from {owners[name]}(): "
                    "rename one of them, or use @hub_method"
                )
            found[name] = method
            owners[name] = attribute
    return found


def policies_of(hub: type[Hub]) -> tuple[Policy, ...]:
    """Who may connect to a hub: its policies and those of the classes it comes from."""
    return tuple(policy for each in hub.__mro__ for policy in vars(each).get(_POLICIES, ()))
