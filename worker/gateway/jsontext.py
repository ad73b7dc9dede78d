"""JSON that is read a value at a time: all of its objects at once take many times the memory of its text."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

_PIECE_BYTES = 64 * 1024
_MAX_VALUE_CHARACTERS = 256 * 1024
"""Of what is read as one. What a page tells of a file has some two thousand."""
_SPACES = " \t\n\r"
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"[0-9.eE+-]*")
_HALVES = re.compile(r"\\u[dD]")
_ENDS_ITSELF = ("{", "[", '"')
"""What a value begins with whose end shows; a number whose text ends may go on, as "1" does in "1e5"."""


class JsonText:
    """The text of one JSON document. Everything here raises ValueError for what is none, or would take too much."""

    def __init__(self, body: IO[bytes], max_values: int) -> None:
        """``max_values`` is how many values may be read, one at a time."""
        self._body = body
        self._values_left = max_values
        # RFC 8259, 8.1; the standard library would guess the encoding of bytes.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._parse = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._ended = False

    def members(self) -> Iterator[str]:
        """Yield the names in an object; whoever asks takes the value of each before the next."""
        for _ in self._within("{", "}"):
            name = self.value()
            if not isinstance(name, str):
                raise ValueError("the name of a member is no text")  # noqa: TRY004 - what is wrong is the document
            self._take(":")
            yield name

    def elements(self) -> Iterator[Any]:
        """Yield what is in an array."""
        for _ in self._within("[", "]"):
            yield self.value()

    def value(self) -> Any:  # noqa: ANN401 - any JSON
        """Return what comes next, as a whole."""
        self._values_left -= 1
        if self._values_left < 0:
            raise ValueError("it has more values than so many files would")
        start = self._peek()
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError:
                if not self._read_on():
                    raise
            else:
                if start in _ENDS_ITSELF or not _NUMBER.fullmatch(self._text, end) or not self._read_on():
                    break
        # Escapes are rare, and finding none is quick.
        if self._text.find("\\u", self._at, end) >= 0 and _HALVES.search(self._text, self._at, end):
            _require_text(value)
        self._at = end
        return value

    def skip(self) -> None:
        """Pass over what comes next."""
        start = self._peek()
        if start == "[":
            for _ in self.elements():
                pass
        elif start == "{":
            for _ in self.members():
                self.value()
        else:
            self.value()

    def end(self) -> None:
        """Make sure that nothing follows."""
        if self._peek():
            raise ValueError("something follows its end")

    def _within(self, start: str, stop: str) -> Iterator[None]:
        self._take(start)
        if self._peek() != stop:
            yield
            while self._peek() == ",":
                self._at += 1
                yield
        self._take(stop)

    def _take(self, mark: str) -> None:
        if self._peek() != mark:
            raise ValueError(f"{mark!r} is missing")
        self._at += 1

    def _peek(self) -> str:
        """Return the next character that is no space; nothing at the end."""
        while True:
            if self._at < len(self._text) and (mark := self._text[self._at]) not in _SPACES:
                return mark
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def _read_on(self) -> bool:
        """Read a piece more, and forget what was passed; False at the end."""
        if self._ended:
            return False
        if len(self._text) - self._at > _MAX_VALUE_CHARACTERS:
            raise ValueError(f"a value in it has more than {_MAX_VALUE_CHARACTERS} characters, or does not end")
        piece = self._body.read(_PIECE_BYTES)
        self._ended = not piece
        self._text = self._text[self._at :] + self._decoder.decode(piece, final=self._ended)
        self._at = 0
        return True


def _require_text(value: object) -> None:
    """Refuse halves of characters (RFC 8259, 8.2): they can be written in JSON, and nowhere else."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half a character (an unpaired surrogate)") from None
