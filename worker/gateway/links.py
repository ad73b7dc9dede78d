"""The links of an HTML page (PEP 503), read with bounds: whoever answers for an index may send anything.

The standard library's parser looks at what it has not understood yet from its beginning again, so that must stay small.
Everything else here takes no longer than in proportion to the page.
"""

import codecs
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import IO
from urllib.parse import urljoin

from pypi_simple.html import Link

_PIECE_BYTES = 32 * 1024
_MAX_OPEN_CHARACTERS = 16 * 1024
"""Of a tag, a comment or a script that has begun and not ended."""
_TAGS_PER_LINK = 8
"""Directory listings in tables have as many."""
_DECLARED = re.compile(rb"""charset\s{0,9}=\s{0,9}["']?([\w.:-]{1,40})""", re.IGNORECASE)
_DECLARED_BYTES = 1024
_DEFAULT_ENCODING = "cp1252"
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_SLOW_ENCODINGS = {"idna", "punycode"}
"""Made for host names: the time they take grows with the square of the text."""
_FOR_PEOPLE = {"form", "input", "script"}
_TOLD = {"pypi:repository-version", "pypi:project-status", "pypi:project-status-reason"}


class NotSimple(Exception):
    """The answer is not a page of the simple repository API; ``login`` when it asks a person to log in."""

    def __init__(self, reason: str, *, login: bool = False) -> None:
        super().__init__(reason)
        self.login = login


@dataclass(frozen=True)
class Found:
    """What is on an HTML page besides its links."""

    meta: Mapping[str, str]
    """What the page says of itself (PEP 629, 792), by name."""
    login: bool
    """Whether it asks for a password."""
    interactive: bool
    """Whether it has anything that only people or browsers use."""

    def refuse_people(self) -> None:
        """Tell an empty project page from one made for people. Raises NotSimple."""
        if self.login:
            raise NotSimple("it is a login form", login=True)
        if self.interactive:
            raise NotSimple("it is a page for people, without a link to any package file")


def read_links(url: str, body: IO[bytes], charset: str | None, max_links: int, take: Callable[[Link], None]) -> Found:
    """Read a page that came from ``url``; ``take`` gets each link in turn, with an absolute address.

    Raises NotSimple, also for a ValueError of ``take``.
    """
    page = _Page(url, max_links, take)
    try:
        for text in _texts(body, charset, max_links):
            page.feed(text)
            if len(page.rawdata) > _MAX_OPEN_CHARACTERS:
                page.found().refuse_people()
                raise NotSimple("its HTML has a tag, comment or text that does not end")
        page.close()
    except (ValueError, AssertionError) as error:  # what urllib.parse and html.parser raise
        raise NotSimple(f"its HTML cannot be read: {str(error)[:200]}") from error
    return page.found()


def _texts(body: IO[bytes], charset: str | None, max_links: int) -> Iterator[str]:
    tags_left, piece = max_links * _TAGS_PER_LINK, body.read(_PIECE_BYTES)
    decoder = codecs.getincrementaldecoder(_encoding(charset, piece))(errors="replace")
    while piece:
        tags_left -= piece.count(b"<")
        if tags_left < 0:
            raise NotSimple(f"it has more tags than {max_links} files would")
        yield decoder.decode(piece)
        piece = body.read(_PIECE_BYTES)
    yield decoder.decode(b"", final=True)


def _encoding(charset: str | None, beginning: bytes) -> str:
    """Return how the page is written: as its first bytes say, else its server, else itself, else as is usual."""
    for mark, encoding in _MARKS:
        if beginning.startswith(mark):
            return encoding
    declared = _DECLARED.search(beginning[:_DECLARED_BYTES])
    name = charset or (declared[1].decode("ascii", "replace") if declared else _DEFAULT_ENCODING)
    try:
        b"a".decode(name)  # refuses codecs that are not of text
        slow = codecs.lookup(name).name in _SLOW_ENCODINGS
    except (LookupError, ValueError):
        slow = True
    if slow:
        raise NotSimple(f"its encoding {name[:40]} cannot be read")
    return name


class _Page(HTMLParser):
    """Takes links, and what tells a project page from others, out of a page."""

    def __init__(self, url: str, max_links: int, take: Callable[[Link], None]) -> None:
        super().__init__(convert_charrefs=True)
        self._take = take
        self._max_links = max_links
        self._links = 0
        self._base = url
        self._based = False
        self._meta: dict[str, str] = {}
        self._login = False
        self._interactive = False
        self._open: dict[str, str] | None = None
        self._text = ""

    def found(self) -> Found:
        """Return what was seen so far."""
        return Found(self._meta, self._login, self._interactive)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take in the beginning of an element."""
        given = {name: value or "" for name, value in reversed(attrs)}  # of two with one name the first counts
        if tag == "a":
            self._end_link()  # HTML has no link within another
            self._open = given
        elif tag == "base" and "href" in given and not self._based:
            self._base, self._based = urljoin(self._base, given["href"]), True
        elif tag == "meta" and (name := given.get("name", "")) in _TOLD:
            self._meta.setdefault(name, given.get("content", ""))
        elif tag in _FOR_PEOPLE:
            self._interactive = True
            self._login = self._login or (tag == "input" and given.get("type", "").lower() == "password")

    def handle_endtag(self, tag: str) -> None:
        """Take in the end of an element."""
        if tag == "a":
            self._end_link()

    def handle_data(self, data: str) -> None:
        """Take in text."""
        if self._open is not None and len(self._text) < _MAX_OPEN_CHARACTERS:  # a name is shorter
            self._text += data

    def close(self) -> None:
        """Take in the end of the page."""
        super().close()
        self._end_link()

    def _end_link(self) -> None:
        given, text = self._open, self._text.strip()
        self._open, self._text = None, ""
        if given is None or "href" not in given:
            return
        self._links += 1
        if self._links > self._max_links:
            raise NotSimple(f"it has more than {self._max_links} files")
        self._take(Link(text=text, url=urljoin(self._base, given["href"]), attrs=dict(given)))
