"""A hub's endpoint: which request is what, who may send it, and what each gets for an answer.

The statuses and their texts are .NET's: clients show them, and their tests look for them. What
is to be known of a connection is found by its token in the table.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace

from echo.hubs.transports.answer import Answer, refuse
from echo.hubs.transports.authentication import (
    Authenticate,
    Forbidden,
    Unauthorized,
    bearer_token,
    same_user,
)
from echo.hubs.transports.body import ClientGone, RequestBody
from echo.hubs.transports.cors import Origins
from echo.hubs.transports.link import User
from echo.hubs.transports.longpolling import NO_CACHE, LongPollingLink
from echo.hubs.transports.negotiate import (
    Negotiated,
    NegotiateError,
    NegotiateHook,
    Refusal,
    answer_negotiation,
    client_of,
    negotiate,
    new_client,
)
from echo.hubs.transports.options import ConnectionOptions, Transport
from echo.hubs.transports.posted import LinkEnded, PostedLink, PostRefused
from echo.hubs.transports.request import Request
from echo.hubs.transports.server import LinkServer, guarded
from echo.hubs.transports.sse import CONTENT_TYPE, HEADERS, EventStream, ServerSentEventsLink
from echo.hubs.transports.table import Entry, Table
from echo.hubs.transports.websocket import ReconnectingLink, WebSocketLink, overrides
from echo.websocket import WebSocket, WebSocketMiddleware, accept
from echo.websocket.worker import Worker

_UNAUTHORIZED = refuse(401, "Unauthorized", ("WWW-Authenticate", "Bearer"))
_FORBIDDEN = refuse(403, "Forbidden")
_ORIGIN_REFUSED = refuse(403, "Pages of this origin may not connect here.")
_NO_ID = refuse(400, "Connection ID required")
_UNKNOWN = refuse(404, "No Connection with that ID")
_ACTIVE = refuse(409, "The connection is active already.")
_OTHER_TRANSPORT = refuse(400, "Cannot change transports mid-connection")
_NO_POST = refuse(405, "POST requests are not allowed for WebSocket connections.")
_NO_DELETE = refuse(400, "Cannot terminate this connection using the DELETE endpoint.")
_TOO_MANY = refuse(429, "Too many clients are connecting just now.", ("Retry-After", "1"))
_SHUTTING_DOWN = refuse(503, "The server is shutting down.", ("Retry-After", "1"))
_BROKEN_OFF = refuse(400, "The client broke off its request.")


class Refused(Exception):
    """The request gets this answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


class Endpoint:
    """Answers all requests to one path and to its `/negotiate`."""

    def __init__(
        self,
        server: LinkServer,
        options: ConnectionOptions,
        websockets: WebSocketMiddleware,
        *,
        authenticate: Authenticate | None = None,
        negotiate: NegotiateHook | None = None,
    ) -> None:
        self._server = server
        self._options = options
        self._websockets = websockets
        self._authenticate = authenticate
        self._hook = negotiate
        self._origins = Origins(options.allowed_origins)
        self._overrides = overrides(options, websockets.options)
        self._table: Table

    @property
    def server(self) -> LinkServer:
        """Who talks with the clients."""
        return self._server

    @property
    def table(self) -> Table | None:
        """Who has negotiated and who is connected; None before the app is served."""
        return getattr(self, "_table", None)

    @property
    def _worker(self) -> Worker:
        return self._websockets.worker

    async def start(self) -> None:
        """The app is about to be served, by this worker."""
        self._table = Table(self._options, self._worker.clock)
        self._worker.nursery.start_soon(self._watch, self._worker)

    async def _watch(self, worker: Worker) -> None:
        await worker.shutting_down.wait()
        await guarded(self._server.shut_down(worker.shutdown_spread), "Saying goodbye")

    # HTTP

    async def answer_negotiate(self, request: Request) -> Answer:
        """Answer a request to the path of negotiate."""
        if request.method == "POST":
            return await self._finish(request, self._negotiate(request))
        return await self._finish(request, self._other(request, "POST"))

    async def answer(self, request: Request, body: RequestBody) -> Answer:
        """Answer a request to the path itself."""
        match request.method:
            case "GET":
                answering = self._get(request, body)
            case "POST":
                answering = self._post(request, body)
            case "DELETE":
                answering = self._delete(request)
            case _:
                answering = self._other(request, "GET, POST, DELETE")
        return await self._finish(request, answering)

    async def _finish(self, request: Request, answering: Awaitable[Answer]) -> Answer:
        try:
            answer = await answering
        except Refused as refused:
            answer = refused.answer
        headers = self._origins.headers(request)
        return replace(answer, headers=answer.headers + headers) if headers else answer

    async def _other(self, request: Request, allowed: str) -> Answer:
        if request.method == "OPTIONS":
            return self._origins.preflight(request)
        return refuse(405, "This method is not allowed here.", ("Allow", allowed))

    async def _negotiate(self, request: Request) -> Answer:
        user = await self._user(request)
        self._check_open()
        outcome = await self._hook(request, user) if self._hook else None
        if outcome is not None:
            return answer_negotiation(outcome)
        try:
            client = negotiate(request, self._options)
        except NegotiateError as error:
            return answer_negotiation(Refusal(str(error)))
        self._expect(client)
        return answer_negotiation(client, self._options.offered)

    async def _get(self, request: Request, body: RequestBody) -> Answer:
        """Open a stream of events, or poll."""
        accepted = request.headers.get("accept", "").lower().split(",")
        if any(each.partition(";")[0].strip() == CONTENT_TYPE for each in accepted):
            return await self._get_events(request, body)
        try:
            return await self._poll(request)
        except Refused as refused:
            answer = refused.answer
            raise Refused(replace(answer, headers=answer.headers + NO_CACHE)) from None

    async def _get_events(self, request: Request, body: RequestBody) -> Answer:
        user = await self._user(request)
        entry = self._find(request)
        self._check_transport(entry, "ServerSentEvents")
        if entry.transport is not None:
            return _ACTIVE
        self._check_open()
        link = ServerSentEventsLink(
            self._options,
            self._worker.clock,
            body.hang_up,
            **_about(entry.client, request, user),
        )
        self._connect(entry, link)
        return Answer(200, EventStream(link), CONTENT_TYPE, HEADERS)

    async def _poll(self, request: Request) -> Answer:
        user = await self._user(request)
        entry = self._find(request)
        self._check_transport(entry, "LongPolling")
        link = entry.link
        if isinstance(link, LongPollingLink):
            _check_user(link.user, user)
            return await link.poll()
        return self._begin_polling(entry, request, user).first_poll()

    def _begin_polling(self, entry: Entry, request: Request, user: User | None) -> LongPollingLink:
        self._check_open()
        link = LongPollingLink(
            self._options, self._worker.clock, **_about(entry.client, request, user)
        )
        self._connect(entry, link)
        return link

    async def _post(self, request: Request, body: RequestBody) -> Answer:
        user = await self._user(request)
        entry = self._find(request)
        if entry.transport == "WebSockets":
            return _NO_POST
        link = entry.link
        if entry.transport is None:  # some clients post their handshake before they poll
            self._check_transport(entry, "LongPolling")
            link = self._begin_polling(entry, request, user)
        if not isinstance(link, PostedLink):
            return _UNKNOWN
        _check_user(link.user, user)
        try:
            await link.post(body.read, request.headers.get("content-length", ""))
        except PostRefused as refused:
            return refuse(refused.status, refused.sentence)
        except LinkEnded:
            return _UNKNOWN
        except ClientGone:
            return _BROKEN_OFF
        return Answer(200)

    async def _delete(self, request: Request) -> Answer:
        user = await self._user(request)
        entry = self._find(request)
        if not isinstance(entry.link, LongPollingLink):
            return _NO_DELETE
        _check_user(entry.link.user, user)
        entry.link.end("the client ended it")
        return Answer(202)

    # WebSockets

    async def serve_websocket(self, request: Request) -> Answer | None:
        """Accept the WebSocket of this request and serve it to its end, or say why not."""
        try:
            await self._serve_websocket(request)
        except Refused as refused:
            return refused.answer
        return None

    async def _serve_websocket(self, request: Request) -> None:
        if self._origins.refuses(request):
            raise Refused(_ORIGIN_REFUSED)
        user = await self._user(request)
        token = request.parameter("id")
        if not token:
            entry = Entry(new_client(self._options))
        else:
            if not self._options.sticky and self._table.find(token) is None:
                client = client_of(token)
                if client is not None:  # it may have negotiated with another process
                    self._expect(client)
            entry = self._find(request)
        self._check_transport(entry, "WebSockets")
        if entry.transport is not None:
            if not isinstance(entry.link, ReconnectingLink) or not entry.link.stateful:
                raise Refused(_ACTIVE)
            _check_user(entry.link.user, user)
            await self._resume(entry.link, request, user)
        elif entry.client.stateful:
            await self._accept_stateful(entry, request, user)
        else:
            await self._accept(entry, request, user)

    async def _accept(self, entry: Entry, request: Request, user: User | None) -> None:
        self._table.claim(entry, "WebSockets")
        try:
            async with accept(**self._overrides) as socket:
                socket.awaits_shutdown = self._server.last_words
                socket.answer_code = 1000
                link = entry.link = WebSocketLink(socket, **_about(entry.client, request, user))
                try:
                    await self._server.serve(link)
                finally:
                    link.left(socket)
        finally:
            self._table.forget(entry)

    async def _accept_stateful(self, entry: Entry, request: Request, user: User | None) -> None:
        self._table.claim(entry, "WebSockets")
        try:
            async with accept(**self._overrides) as socket:
                link = ReconnectingLink(
                    self._options,
                    self._worker.clock,
                    socket,
                    **_about(entry.client, request, user),
                )
                entry.link = link
                self._worker.nursery.start_soon(self._serve, entry)
                await self._carry(link, socket)
        finally:
            if entry.link is None:
                self._table.forget(entry)

    async def _resume(self, link: ReconnectingLink, request: Request, user: User | None) -> None:
        async with accept(**self._overrides) as socket:
            if link.stateful and not link.ended:
                link.resume(socket, request, user)
                await self._carry(link, socket)

    async def _carry(self, link: ReconnectingLink, socket: WebSocket) -> None:
        socket.awaits_shutdown = True
        socket.answer_code = 1000
        try:
            await socket.wait_closed()
        finally:
            link.left(socket)

    # What all have in common

    def _connect(self, entry: Entry, link: ServerSentEventsLink | LongPollingLink) -> None:
        self._table.claim(entry, link.transport)
        entry.link = link
        self._worker.nursery.start_soon(self._serve, entry)

    async def _serve(self, entry: Entry) -> None:
        """Serve a link that outlives the request which opened it."""
        link = entry.link
        assert link is not None
        try:
            failed = await guarded(self._server.serve(link), f"Serving connection {link.id}")
            await link.close("internal error" if failed else None)
        finally:
            link.abort("the server has ended")
            self._table.forget(entry)

    async def _user(self, request: Request) -> User | None:
        """Who sends the request, and may."""
        try:
            user = None
            if self._authenticate is not None:
                user = await self._authenticate(request, bearer_token(request))
            if await self._server.admits(user):
                return user
        except Unauthorized:
            raise Refused(_UNAUTHORIZED) from None
        except Forbidden:
            raise Refused(_FORBIDDEN) from None
        raise Refused(_UNAUTHORIZED if user is None else _FORBIDDEN)

    def _find(self, request: Request) -> Entry:
        token = request.parameter("id")
        if not token:
            raise Refused(_NO_ID)
        entry = self._table.find(token)
        if entry is None or (entry.link is not None and entry.link.ended and not _polls(entry)):
            raise Refused(_UNKNOWN)
        return entry

    def _expect(self, client: Negotiated) -> None:
        if self._table.full:
            self._table.refused += 1
            raise Refused(_TOO_MANY)
        self._table.expect(client)

    def _check_open(self) -> None:
        if self._worker.shutting_down.is_set():
            raise Refused(_SHUTTING_DOWN)

    def _check_transport(self, entry: Entry, transport: Transport) -> None:
        if transport not in self._options.offered:
            sentence = f"{transport} transport not supported by this end point type"
            raise Refused(refuse(404, sentence))
        if entry.transport not in (None, transport):
            raise Refused(_OTHER_TRANSPORT)


def _polls(entry: Entry) -> bool:
    return entry.transport == "LongPolling"


def _check_user(owner: User | None, user: User | None) -> None:
    """A connection is its user's, however its token became known to another."""
    if not same_user(owner, user):
        raise Refused(_FORBIDDEN)


def _about(client: Negotiated, request: Request, user: User | None) -> dict[str, object]:
    return {
        "id": client.id,
        "token": client.token,
        "request": request,
        "user": user,
        "stateful": client.stateful,
    }
