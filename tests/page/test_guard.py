"""Whom the page answers: names, pages, passwords, addresses and sizes; and what it tells the browser to load."""

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from masked_memory.page.guard import BUSY, MOST_UPLOADED, Gate, Guard, name_of_host, policy_of
from masked_memory.pipeline.files import InputError

PAGE = b"<html><script>start(1)</script><script src='a.js'></script><script type='module'>go()</script></html>"
PASSWORD = "correct horse battery"
OURS = Gate("127.0.0.1")


async def plain_app(scope: Any, receive: Any, send: Any) -> None:
    """A page at /, a refusal in the server's own words at /config, and an echo of the body's length elsewhere."""
    status, kind, body = 200, b"text/html; charset=utf-8", PAGE
    if scope["path"] == "/config":
        status, kind, body = 422, b"application/json", b'{"detail": [{"loc": ["body"], "msg": "field required"}]}'
    elif scope["path"] != "/":
        taken, more = 0, True
        while more:
            event = await receive()
            taken, more = taken + len(event.get("body", b"")), event.get("more_body", False)
        kind, body = b"text/plain", str(taken).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": body})


def asked(path: str = "/", gate: Gate = OURS, method: str = "GET", **given: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=Guard(plain_app, gate))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
            return await client.request(method, path, **given)

    return asyncio.run(ask())


def basic(password: str, name: str = "anyone") -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def is_a_sentence(answer: httpx.Response) -> bool:
    said = answer.json()["detail"]
    return isinstance(said, str) and len(said.split()) > 5 and answer.json()["error"] == said


# --- names and pages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "127.0.0.1", "localhost:7860", "LOCALHOST", "[::1]:7860"])
def test_names_of_this_machine_are_answered(host: str) -> None:
    assert asked(headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.7:7860", "",
     "127.0.0.1@evil.example", "127.0.0.1:7860:1"],
)  # fmt: skip
def test_other_names_are_not(host: str) -> None:
    answer = asked(headers={"host": host})
    assert answer.status_code == 421 and is_a_sentence(answer)


def test_the_address_that_is_listened_on_is_answered_and_only_it() -> None:
    gate = Gate("192.168.1.5", PASSWORD)
    for host, status in (("192.168.1.5:7860", 200), ("192.168.1.6:7860", 421), ("evil.example", 421)):
        assert asked(gate=gate, headers={"host": host, **basic(PASSWORD)}).status_code == status


def test_name_of_a_host_is_without_its_port() -> None:
    assert [name_of_host(each) for each in ("A:1", "a", "[::1]:7860", "[::1]")] == ["a", "a", "[::1]", "[::1]"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://127.0.0.1:7860", 200), ("http://evil.example", 403), ("null", 403), ("http://127.0.0.1:9999", 403)],
)
def test_requests_of_other_pages_are_refused(origin: str, status: int) -> None:
    answer = asked("/gradio_api/upload", method="POST", headers={"origin": origin}, content=b"x")
    assert answer.status_code == status
    assert status == 200 or is_a_sentence(answer)


# --- the password -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, 401), (basic("wrong"), 401), (basic(""), 401), ({"authorization": "Basic ???"}, 401),
        ({"authorization": "Bearer " + PASSWORD}, 401), (basic(PASSWORD), 200), (basic(PASSWORD, ""), 200),
    ],
)  # fmt: skip
def test_the_password_is_asked_for(given: dict[str, str], status: int) -> None:
    answer = asked(gate=Gate("127.0.0.1", PASSWORD), headers=given)
    assert answer.status_code == status
    if status == 401:
        assert is_a_sentence(answer) and answer.headers["www-authenticate"].startswith("Basic ")
        assert PASSWORD not in answer.text


def test_other_machines_never_come_in_without_a_password() -> None:
    with pytest.raises(InputError, match="needs a password"):
        Gate("0.0.0.0")


def test_the_password_is_not_shown() -> None:
    assert PASSWORD not in repr(Gate("0.0.0.0", PASSWORD))


# --- addresses and sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/run/complete", "/gradio_api/api/complete", "/gradio_api/proxy=http://169.254.169.254/",
        "/gradio_api/vibe-edit", "/gradio_api/process_recording", "/gradio_api/dev/reload", "/monitoring",
        "/gradio_api/run-history/records", "/gradio_api/stream/a/b/1/playlist.m3u8", "/docs", "/.env", "//etc/passwd",
        "/gradio_api/file=http://evil.example/a.png", "/gradio_api/file=file:///etc/passwd",
        "/gradio_api/custom_component/a/client/component/b",
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(path: str) -> None:
    answer = asked(f"http://127.0.0.1:7860{path}")
    assert answer.status_code == 404 and is_a_sentence(answer)


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "BREW"])
@pytest.mark.parametrize("gate", [OURS, Gate("127.0.0.1", PASSWORD)], ids=["open", "with a password"])
def test_other_methods_are_not_answered(method: str, gate: Gate) -> None:
    """A preflight asks by OPTIONS whether a foreign page may ask: it gets no leave to."""
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for headers in ({}, preflight):
        answer = asked("/gradio_api/queue/join", gate, method, headers=headers)
        assert answer.status_code == 405 and is_a_sentence(answer)
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    answer = asked(
        "/gradio_api/upload", method="POST", content=b"x", headers={"content-length": str(MOST_UPLOADED + 1)}
    )
    assert answer.status_code == 413 and "20 MB" in answer.json()["detail"]
    assert asked("/gradio_api/upload", method="POST", content=b"x" * 1000).text == "1000"
    assert asked("/gradio_api/upload", headers={"content-length": "-1"}).status_code == 413


def test_a_body_that_does_not_say_so_is_stopped() -> None:
    async def endless() -> Any:
        for _ in range(MOST_UPLOADED // 2**20 + 2):
            yield bytes(2**20)

    answer = asked("/gradio_api/upload", method="POST", content=endless())
    assert answer.status_code == 413 and is_a_sentence(answer)


def test_beyond_so_many_at_once_it_says_that_it_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masked_memory.page.guard.MOST_OPEN", 2)
    release = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await release.wait()
        await plain_app(scope, receive, send)

    async def several() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=Guard(slow, Gate("127.0.0.1")))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
            waiting = [asyncio.create_task(client.get("/")) for _ in range(5)]
            await asyncio.sleep(0.05)
            release.set()
            first = await asyncio.gather(*waiting)
            return [*first, await client.get("/")]

    *first, later = asyncio.run(several())
    assert sorted(answer.status_code for answer in first) == [200, 200, 503, 503, 503]
    assert all(answer.json()["detail"] == BUSY for answer in first if answer.status_code == 503)
    assert later.status_code == 200


def test_the_servers_own_words_become_a_sentence() -> None:
    answer = asked("/config")
    assert answer.status_code == 422 and is_a_sentence(answer) and "field required" not in answer.text


def test_web_sockets_are_not_answered() -> None:
    sent: list[Any] = []

    async def collect(event: Any) -> None:
        sent.append(event)

    receive: Callable[[], Awaitable[Any]] = asyncio.Event().wait  # type: ignore[assignment]
    asyncio.run(Guard(plain_app, Gate("127.0.0.1"))({"type": "websocket", "headers": []}, receive, collect))
    assert [event["type"] for event in sent] == ["websocket.close"]


def test_an_app_that_breaks_down_still_answers(capfd: pytest.CaptureFixture[str]) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("a mistake")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=Guard(broken, OURS))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/")

    answer = asyncio.run(ask())
    assert answer.status_code == 400 and is_a_sentence(answer) and "a mistake" in capfd.readouterr().err


# --- what the browser is told -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "host"), [("/", "localhost"), ("/config", "localhost"), ("/", "evil.example")])
def test_every_answer_has_the_headers(path: str, host: str) -> None:
    headers = asked(path, headers={"host": host}).headers
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "http:" not in policy
    scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "'unsafe-inline'" not in scripts and "*" not in policy


def test_only_scripts_of_the_page_may_run() -> None:
    digests = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in (b"start(1)", b"go()")]
    policy = policy_of(PAGE)
    assert all(f"'sha256-{digest}'" in policy for digest in digests) and policy.count("sha256-") == 2
    answer = asked("/")
    assert answer.headers["content-security-policy"] == policy and answer.content == PAGE
