"""Whom the page answers, and with what: a layer around the server that knows nothing of pictures.

It refuses, each time in a sentence: other names in the Host header (a foreign page that lets its own name point here),
requests that a foreign page sends, a missing password, addresses that the page does not need, and bodies that are too
large. It adds the headers that tell the browser to load from here only.
"""

import base64
import hashlib
import json
import re
import secrets
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from masked_memory.pipeline.files import InputError

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_UPLOADED = 20 * 2**20  # of a body: a picture, or a mask
MOST_OPEN = 128  # requests at once, those that wait for news among them
METHODS = ("GET", "HEAD", "POST")
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
STARTED = "/gradio_api/startup-events"  # what the server asks itself when it starts, before there is anyone to ask
BUSY = "busy: too many requests wait already; try again in a few seconds"
#: Addresses that the page and its programs use; all others are refused. run/predict shows an example that was clicked;
#: what asks the models has to join the queue.
NEEDED = re.compile(
    r"/(?:config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(?:assets|static|svelte)/.*|gradio_api/(?:"
    r"info|openapi\.json|theme\.css|app_id|user|login_check|reset|cancel|component_server|startup-events|"
    r"upload|upload_progress|heartbeat/[^/]*|queue/(?:join|data|status)|call/.*|run/predict|file=(?!\w{2,}:).*))?/?"
)
INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.DOTALL)
#: The editor and blocks of HTML are compiled in the browser, which takes 'unsafe-eval'; scripts that stand in the page
#: are named one by one. Styles stand in the page everywhere.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'{scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "manifest-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
#: What is said instead of the server's own words, by status.
SAID = {
    403: "this is no file of the page",
    404: "there is no such file or address on this page",
    413: f"the file is larger than {MOST_UPLOADED // 2**20} MB; make it smaller first",
    422: 'the request is not as expected; "Use via API" at the foot of the page lists what to send',
    503: BUSY,
}
SAID_ELSE = "the request cannot be answered; what is sent has to be as the page sends it"


@dataclass(frozen=True)
class Gate:
    """Who may come in. host: the address that is listened on; password: asked from everyone, None asks nobody."""

    host: str
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not is_local(self.host) and self.password is None:
            raise InputError(f"other machines reach {self.host}, which needs a password; none is given")


def is_local(host: str) -> bool:
    """Whether only this machine reaches it."""
    return host == "localhost" or host.startswith("127.")


class Guard:
    """The layer, as ASGI has it: Guard(app, gate) is an app."""

    def __init__(self, app: App, gate: Gate) -> None:
        self.app, self.gate, self.open = app, gate, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page uses no web sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        refused = refusal(scope, self.gate) or ((503, BUSY) if self.open >= MOST_OPEN else None)
        if refused is not None:
            await _say(send, *refused)
            return
        self.open += 1
        answer = Answer(send)
        try:
            await self.app(scope, _limited(receive), answer.send)
        except Exception as error:  # whatever the server raises, who asked gets a sentence
            if not isinstance(error, TooLarge):
                traceback.print_exc()
            if answer.begun:
                raise
            status = 413 if isinstance(error, TooLarge) else 400
            await _say(send, status, SAID.get(status, SAID_ELSE))
        finally:
            self.open -= 1


def refusal(scope: Scope, gate: Gate) -> tuple[int, str] | None:
    """Status and sentence for a request that is not let in; None for one that is."""
    if scope["method"] not in METHODS:
        return 405, f"a page is read and asked by {', '.join(METHODS)}; {scope['method'][:20]!r} means nothing to it"
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    host, origin = headers.get(b"host", ""), headers.get(b"origin")
    known = LOCAL_NAMES | {gate.host, (scope.get("server") or ("",))[0]}
    if name_of_host(host) not in known:
        return 421, f"this page does not answer to the name {host[:80]!r}; open it at the address that it printed"
    if origin is not None and urlsplit(origin).netloc != host:
        return 403, "requests of other pages are not answered; open this page itself"
    if gate.password is not None and scope["path"] != STARTED and not _knows(headers, gate.password):
        return 401, "this page asks for a password; any name goes with it"
    if NEEDED.fullmatch(scope["path"]) is None:
        return 404, SAID[404]
    length = headers.get(b"content-length", "0")
    if not length.isdecimal() or int(length) > MOST_UPLOADED:
        return 413, SAID[413]
    return None


def name_of_host(host: str) -> str:
    """localhost:7860 -> localhost, [::1]:7860 -> [::1]."""
    return re.sub(r":\d*$", "", host).lower()


def _knows(headers: dict[bytes, str], password: str) -> bool:
    """Whether the request brings the password, under any name (HTTP Basic)."""
    kind, _, given = headers.get(b"authorization", "").partition(" ")
    if kind.lower() != "basic":
        return False
    try:
        decoded = base64.b64decode(given, validate=True)
    except ValueError:
        return False
    return secrets.compare_digest(decoded.partition(b":")[2], password.encode())


class TooLarge(Exception):
    """A body that goes on beyond MOST_UPLOADED, whatever its header said."""


def _limited(receive: Receive) -> Receive:
    """`receive`, which raises TooLarge once a body has more than MOST_UPLOADED."""
    taken = 0

    async def limited() -> Event:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MOST_UPLOADED:
            raise TooLarge
        return message

    return limited


class Answer:
    """An answer on its way out: headers are added, pages get the policy for their scripts, refusals a sentence."""

    def __init__(self, send: Send) -> None:
        self.out, self.parts, self.begun = send, b"", False
        self.held: Event | None = None

    async def send(self, message: Event) -> None:
        """Holds back pages and refusals until they are whole; lets all else through as it comes."""
        if message["type"] == "http.response.start":
            if message["status"] >= 400 or _kind(message).startswith(b"text/html"):
                self.held = message
            else:
                self.begun = True
                await self.out(with_headers(message, POLICY.format(scripts="")))
            return
        if self.held is None or message["type"] != "http.response.body":
            await self.out(message)
            return
        self.parts += message.get("body", b"")
        if not message.get("more_body", False):
            await self._let_go(self.held)

    async def _let_go(self, held: Event) -> None:
        self.begun = True
        if held["status"] >= 400:
            await _say(self.out, held["status"], SAID.get(held["status"], SAID_ELSE))
            return
        await self.out(with_headers(held, policy_of(self.parts)))
        await self.out({"type": "http.response.body", "body": self.parts})


def policy_of(page: bytes) -> str:
    """The policy for a page: each script that stands in it is named by its digest."""
    digests = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in INLINE_SCRIPT.findall(page)]
    return POLICY.format(scripts="".join(f" 'sha256-{digest}'" for digest in dict.fromkeys(digests)))


def with_headers(message: Event, policy: str) -> Event:
    added = (*HEADERS, (b"content-security-policy", policy.encode()))
    names = {name for name, _ in added}
    kept = [(name, value) for name, value in message.get("headers", []) if name.lower() not in names]
    return {**message, "headers": [*kept, *added]}


def _kind(message: Event) -> bytes:
    return next((value for name, value in message.get("headers", []) if name.lower() == b"content-type"), b"")


async def _say(send: Send, status: int, sentence: str) -> None:
    """Refuse in a sentence: {"detail": SENTENCE}."""
    body = json.dumps({"detail": sentence, "error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="this page", charset="UTF-8"'))
    if status == 503:
        headers.append((b"retry-after", b"5"))
    start: Event = {"type": "http.response.start", "status": status, "headers": headers}
    await send(with_headers(start, POLICY.format(scripts="")))
    await send({"type": "http.response.body", "body": body})
