"""What stands before the page: who may ask, and what a request may hold.

The server listens on the loopback interface alone. Other programs of this machine, and pages of other sites that the
reader's browser has open, can reach it there, so a request is answered if it has

    the token of this start in its path, which no other page knows,
    a Host of this server, so that a name which an attacker points to 127.0.0.1 does not count (DNS rebinding),
    no Origin but that of this server, and one at all if it changes something,
    a body of JSON that is small, has a stated length, and arrives in time.

Anything else is refused and logged, without the path, since that may hold the token.
"""

import asyncio
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from diffaug.names import shown

log = logging.getLogger(__name__)

LARGEST_BODY = 8192  # bytes; a decision with its reason has far fewer
SLOWEST_BODY = 5.0  # seconds that a body may take
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # an address holds the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",  # images of patients stay out of the browser's files
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class _RefusedError(Exception):
    """A request that is not answered: a status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Guard:
    """An ASGI application that hands on to another what it lets through, with the token taken out of the path."""

    def __init__(self, application: Application, token: str, port: int) -> None:
        self._application = application
        self._token = token
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            return await self._application(scope, receive, send)
        if scope["type"] != "http":
            return None

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        try:
            path = self._path_of(scope)
            body = await _body_of(scope, receive) if scope["method"] == "POST" else b""
        except _RefusedError as refused:
            log.warning("refused a request (%d): %s", refused.status, refused)
            return await _answer(with_headers, refused)
        inner = {**scope, "path": path, "raw_path": path.encode(), "root_path": ""}
        return await self._application(inner, _replayed(body, receive), with_headers)

    def _path_of(self, scope: Message) -> str:
        """Return the path behind the token.

        Raises:
            _RefusedError: The request may not be answered.
        """
        hosts, origins = _header(scope, b"host"), _header(scope, b"origin")
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            raise _RefusedError(403, f"its Host is {shown(', '.join(hosts))}, which is not this server")
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            raise _RefusedError(403, f"its Origin is {shown(', '.join(origins))}, which is not this page")
        if any(site not in ("same-origin", "none") for site in _header(scope, b"sec-fetch-site")):
            raise _RefusedError(403, "another site sent it")
        if scope["method"] not in ("GET", "POST"):
            raise _RefusedError(405, f"its method is {shown(scope['method'])}")
        path: str = scope["path"]
        token, _, rest = path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            raise _RefusedError(404, "its address lacks the token of this start")
        if scope["method"] == "POST" and not origins:
            raise _RefusedError(403, "it would change something, and has no Origin")
        return f"/{rest}"


def _header(scope: Message, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


async def _body_of(scope: Message, receive: Receive) -> bytes:
    """Return the body of a request.

    Raises:
        _RefusedError: It is no JSON by its header, states no length, is too large, or takes too long.
    """
    kinds, lengths = _header(scope, b"content-type"), _header(scope, b"content-length")
    if kinds != ["application/json"]:
        raise _RefusedError(415, "its body is not application/json")
    if len(lengths) != 1 or not lengths[0].isdecimal():
        raise _RefusedError(411, "its body has no stated length")
    if len(lengths[0]) > 9 or int(lengths[0]) > LARGEST_BODY:
        raise _RefusedError(413, f"its body has more than {LARGEST_BODY} bytes")
    body, more = b"", True
    try:
        async with asyncio.timeout(SLOWEST_BODY):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise _RefusedError(400, "it ended within its body")
                body, more = body + message.get("body", b""), message.get("more_body", False)
                if len(body) > LARGEST_BODY:
                    raise _RefusedError(413, f"its body has more than {LARGEST_BODY} bytes")
    except TimeoutError:
        raise _RefusedError(408, f"its body took more than {SLOWEST_BODY:g} s") from None
    return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return what hands a body on that was read, once, and then what else is received."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


async def _answer(send: Send, refused: _RefusedError) -> None:
    body = json.dumps({"error": "this request is refused; open the address that `diffaug review` printed"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send(
        {"type": "http.response.start", "status": refused.status, "headers": [*headers, (b"connection", b"close")]}
    )
    await send({"type": "http.response.body", "body": body})
