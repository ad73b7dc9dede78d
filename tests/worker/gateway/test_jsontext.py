"""JSON read a value at a time, wherever its pieces end."""

import json
from io import BytesIO
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.gateway.jsontext import JsonText

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
PIECES = st.integers(min_value=1, max_value=9)


def read(body: bytes, piece_bytes: int) -> Any:
    """Read a document by its members or elements."""
    with patch("worker.gateway.jsontext._PIECE_BYTES", piece_bytes):
        text = JsonText(BytesIO(body), 1000)
        if body.lstrip().startswith(b"{"):
            found: Any = {name: text.value() for name in text.members()}
        elif body.lstrip().startswith(b"["):
            found = list(text.elements())
        else:
            found = text.value()
        text.end()
        return found


@settings(max_examples=30, deadline=None)
@given(document=VALUES, piece_bytes=PIECES, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_it_is_what_the_standard_library_reads(
    document: object, piece_bytes: int, indent: int | None, *, ascii_only: bool
) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()
    assert read(body, piece_bytes) == json.loads(body) == document


@settings(max_examples=30, deadline=None)
@given(document=VALUES, piece_bytes=PIECES, cut=st.integers(min_value=1, max_value=200))
def test_what_has_no_end_is_none(document: object, piece_bytes: int, cut: int) -> None:
    body = json.dumps([document, 0]).encode()[:-cut]
    with pytest.raises(ValueError, match=r"."):
        read(body, piece_bytes)


@settings(max_examples=30, deadline=None)
@given(document=VALUES, after=VALUES, piece_bytes=PIECES)
def test_what_is_skipped_ends_where_it_does(document: object, after: object, piece_bytes: int) -> None:
    with patch("worker.gateway.jsontext._PIECE_BYTES", piece_bytes):
        text = JsonText(BytesIO(json.dumps({"x": document, "y": after}).encode()), 1000)
        found = {}
        for name in text.members():
            if name == "x":
                text.skip()
            else:
                found[name] = text.value()
        text.end()
    assert found == {"y": after}
