"""Answers made to bring the gateway down: it says what they are, soon, and goes on serving others."""

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from config.settings import Target
from jobs.errors import ErrorKind
from tests.support.index_server import JSON_TYPE, Body, Exchange, Fault, Redirect, Status
from tests.worker.gateway.conftest import PURE, MakeGateway, MakeIndex, index_settings, page, read, tiny_wheel
from worker.gateway.links import NotSimple
from worker.gateway.pages import Lens, Page

URL = "https://index.example/simple/demo/"
SOON_SECONDS = 20
"""For pages that would take minutes, or for ever, in proportion to the square of their size."""


class Garbage:
    """Answers with something that is no HTTP, but that a terminal obeys."""

    def play(self, exchange: Exchange) -> None:
        exchange.write(b"\x1b[31mHELLO\r\n\r\n")
        exchange.hang_up()


def html(body: bytes) -> Page:
    return read("demo", URL, "text/html", body)


def file(filename: str = PURE, **more: object) -> dict[str, object]:
    return {"filename": filename, "url": f"/files/{PURE}", "hashes": {}, **more}


@pytest.mark.parametrize(
    "body",
    [
        b"<input " * 300_000,
        b"<meta " * 300_000,
        b"<!--x>" * 300_000,
        b"<a href=x>" * 100_000,
        b"<script>" + b"</s" * 300_000,
        b"<a " + b"a " * 100_000 + b">",
        b"<a>" * 900_000,
    ],
    ids=lambda body: body[:8].decode(),
)
def test_html_that_takes_for_ever_to_read(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.gateway.pages.MAX_LINKS", 20_000)
    started = time.thread_time()
    with pytest.raises(NotSimple):
        html(body)
    assert time.thread_time() - started < SOON_SECONDS


@pytest.mark.parametrize("body", [b"<b>" * 150_000 + b"</i>" * 150_000, b"<a>x" * 150_000 + b"</b>" * 150_000])
def test_html_without_balance_is_read_in_one_go(body: bytes) -> None:
    started = time.thread_time()
    assert html(body).files == ()
    assert time.thread_time() - started < SOON_SECONDS


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (b'"x":[' + b"[]," * 700_000 + b"[]]", "more values"),
        (b'"x":{' + b'"":[],' * 500_000 + b'"":0}', "more values"),
        (b'"x":[' + b"[" * 300_000, "more than 262144 characters|recursion"),
        (b'"x":[' + b"[[]]," * 3 + b"[" + b"[[[]]]," * 100_000 + b"0]]", "more than 262144 characters"),
        (b'"x":"' + "\U0001f642".encode() + b"x" * 3_000_000 + b'"', "more than 262144 characters"),
        (b'"x":1', "validation error"),
        (b'"x":1} {', "something follows"),
        (b'"x":1,}', "not a simple page"),
        (b'"x" 1', "':' is missing"),
        (b"5:1", "is no text"),
    ],
)
def test_json_takes_no_more_memory_than_what_is_read_of_it_at_once(
    more: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.gateway.pages.MAX_LINKS", 1000)
    with taking_at_most(32 * 2**20), pytest.raises(NotSimple, match=says):
        read("demo", URL, JSON_TYPE, b'{"meta":{"api-version":"1.0"},' + more + b',"files":[]}')


LINKS = 600
A_FILE_BYTES = 1500
"""What is kept of one, and its address and name once more in what clients are told."""


def links(number: int) -> bytes:
    attributes = b" ".join(b"x%d=y" % each for each in range(20))
    link = b'<a href=../f/demo-1.%d-py3-none-any.whl#sha256=%064x data-core-metadata="sha256=%064x" %s>x</a>'
    return b"".join(link % (each, each, each, attributes) for each in range(number))


def listed(number: int) -> bytes:
    more = {"core-metadata": {"sha256": "ab" * 32}, "hashes": {"sha256": "cd" * 32}, "x": [[]] * 30}
    files = [file(f"demo-1.{each}-py3-none-any.whl", **more) for each in range(number)]
    return json.dumps({"files": files, "meta": {"api-version": "1.0"}, "name": "demo"}).encode()


@pytest.mark.parametrize(("content_type", "make"), [("text/html", links), (JSON_TYPE, listed)])
def test_a_large_page_takes_memory_for_what_counts_of_it(content_type: str, make: Callable[[int], bytes]) -> None:
    """By the bound on files, that is less than 150 MB."""
    body = make(LINKS)
    with taking_at_most(LINKS * A_FILE_BYTES + 2**19):  # and a few pieces of the page
        view = read("demo", URL, content_type, body).view(Lens(Target()))
        size_bytes, blocks = view.json_at("http://127.0.0.1:40001/token/files/")
        assert sum(map(len, blocks)) == size_bytes
    assert len(view.files) == LINKS


@contextmanager
def taking_at_most(size_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= size_bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content_type", ["text/html", JSON_TYPE])
def test_more_files_than_any_project_has(content_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.gateway.pages.MAX_LINKS", 10)
    make = links if content_type == "text/html" else listed
    assert len(read("demo", URL, content_type, make(10)).files) == 10
    with pytest.raises(NotSimple, match="more than 10 files"):
        read("demo", URL, content_type, make(11))


class Chunks:
    """Announces chunks, and sends this."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def play(self, exchange: Exchange) -> None:
        exchange.send(200, {"Content-Type": "text/html", "Transfer-Encoding": "chunked"}, None)
        exchange.write(self.raw)
        exchange.hang_up()


@pytest.mark.parametrize("raw", [b"-5\r\nxx\r\n", b"f" * 40 + b"\r\nxx\r\n", b"5" * 200_000, b"\0\r\n", b""])
def test_chunks_that_are_none_break_the_body(raw: bytes, make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.misbehave("/simple/demo/", Chunks(raw))
    with make_gateway(index_settings(index)).session() as session:
        assert page(session).status_code == 502
        [incident] = session.record().incidents
    assert (incident.kind, incident.attempts) == (ErrorKind.TRUNCATED, 2)


@pytest.mark.parametrize(
    "hostile",
    [
        json.dumps(file(url="http://index.example/\ud800.whl")).encode(),
        json.dumps(file(yanked="\ud800")).encode(),
        json.dumps(file() | {"requires-python": "\udfff"}).encode().upper().replace(b"\\U", b"\\u"),
        json.dumps(file(yanked="x")).encode().replace(b'"x"', b'"\xed\xa0\x80"'),
        json.dumps(file()).encode().decode().encode("utf-16"),
    ],
)
def test_what_is_no_text_is_said_to_be_so(hostile: bytes) -> None:
    with pytest.raises(NotSimple, match="its JSON is not a simple page"):
        read("demo", URL, JSON_TYPE, b'{"meta":{"api-version":"1.0"},"name":"demo","files":[' + hostile + b"]}")


def test_what_a_page_says_of_a_file_is_bounded_and_plain() -> None:
    files = [file(yanked="\x1b[31mred\n" + "x" * 5000, size=-1), file("demo-2.0-py3-none-any.whl", yanked="\U0001f642")]
    body = json.dumps({"meta": {"api-version": "1.0"}, "name": "demo", "files": files}).encode()
    [first, second] = read("demo", URL, JSON_TYPE, body).files
    assert first.yanked is not None
    assert first.yanked.startswith("[31mred xxx")
    assert len(first.yanked) <= 1000
    assert first.size_bytes is None
    assert second.yanked == "\U0001f642"


@pytest.mark.parametrize(
    "filename",
    [
        "demo-1.0-{0}-{0}-{0}.whl".format(".".join(f"a{number}" for number in range(30))),
        "demo-" + "9" * 5000 + "-py3-none-any.whl",
        "demo-1.0-" + "a" * 300 + "-none-any.whl",
    ],
)
def test_names_that_stand_for_too_much(filename: str, make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    body = json.dumps({"meta": {"api-version": "1.0"}, "name": "demo", "files": [file(filename), file()]}).encode()
    index = make_index()
    index.misbehave("/simple/demo/", Body(body, JSON_TYPE))
    with make_gateway(index_settings(index)).session() as session:
        [shown] = page(session).json()["files"]
    assert shown["filename"] == PURE


def test_a_range_of_pythons_that_nobody_can_read_excludes_nothing(
    make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    index = make_index()
    index.add(PURE, tiny_wheel("demo", "1.0"), requires_python=">=" + "9" * 5000)
    with make_gateway(index_settings(index)).session() as session:
        assert [shown["filename"] for shown in page(session).json()["files"]] == [PURE]


@pytest.mark.parametrize("charset", ["rot13", "zip", "idna", "punycode", "undefined", "\xff"])
def test_encodings_that_are_none_of_pages(charset: str) -> None:
    with pytest.raises(NotSimple, match="encoding"):
        read("demo", URL, f'text/html; charset="{charset}"', b"<a href=x>x</a>")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Status(429, {"Retry-After": "9" * 400}), ErrorKind.RATE_LIMITED),
        (Status(429, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}), ErrorKind.RATE_LIMITED),
        (Body(b"x", "text/html", {"Content-Length": "9" * 5000}), ErrorKind.SERVER_ERROR),
    ],
)
def test_numbers_that_are_too_large(
    fault: Fault, kind: ErrorKind, make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    index = make_index()
    index.misbehave("/simple/demo/", fault)
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        [incident] = session.record().incidents
    assert incident.kind in {kind, ErrorKind.TRUNCATED, ErrorKind.READ_TIMEOUT}
    assert incident.again_in_seconds is None or incident.again_in_seconds <= 86_400


def test_an_age_that_is_too_large_makes_a_page_old(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.add(PURE, tiny_wheel("demo", "1.0"))
    index.page_headers = {"Cache-Control": "max-age=60", "Age": "9" * 5000}
    with make_gateway(index_settings(index)).session() as session:
        assert page(session).status_code == 200


@pytest.mark.parametrize(
    "fault",
    [
        Status(503, {"Retry-After": "0"}),
        Redirect("http://x/\x1b[31m\r\n"),
        Redirect("ftp://x/\x1b]0;title\x07"),
        Body(b"x", "text/\x1b[31m"),
        Body(b'{"\x1b[31m', "application/json"),
        Garbage(),
    ],
)
def test_messages_are_fit_for_a_terminal(fault: Fault, make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.misbehave("/simple/demo/", fault)
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        [incident] = session.record().incidents
    assert incident.message.isprintable()
    assert incident.url.isprintable()
