"""Secrets: which values they are, and how they are kept out of every text."""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

if TYPE_CHECKING:
    from pydantic import BaseModel

MASK = "***"
SHORTEST_MASKED = 4
"""Shorter values stand in ordinary words, so that masking them would garble every text and hide nothing."""

_TASK_TOKEN = re.compile(r"(?<=/)[A-Za-z0-9_-]{32}(?=/(?:simple|files)/)|(?<=/control/sessions/)[A-Za-z0-9_-]{32}")
"""What opens one task's index at the gateway of an agent: too many to know them all, but they stand nowhere else."""
_USERINFO = re.compile(r"(?<=//)[^/?#\s]*@")
_PARAMETER = re.compile(r"(?i)([?&][^=&#\s]*(?:pass|token|secret|key|sign|credential|auth)[^=&#\s]*=)[^&#\s]+")


def mask_url(url: str) -> str:
    """Return ``url`` without its user information and without parameters that look like secrets.

    Masking twice changes nothing more. Anything may be given, also text that is no URL.
    """
    return _PARAMETER.sub(rf"\g<1>{MASK}", _USERINFO.sub(f"{MASK}@", url))


def secret_values(settings: "BaseModel") -> frozenset[str]:
    """Return every secret in these settings, and the passwords inside their URLs, plain and percent-encoded.

    A URL that holds no credentials is no secret.
    """
    return frozenset(filter(None, _values(settings)))


class Masker:
    """Replaces secrets in text by their value, in whatever form they are usually written.

    Known are: the value itself, percent-encoded, escaped as in JSON or by ``repr``, and as part of base64 text such as
    a basic-auth header. Values shorter than :data:`SHORTEST_MASKED` characters are left. The tokens of tasks at the
    gateway are known by where they stand in a URL.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if len(secret) >= SHORTEST_MASKED for form in _forms(secret)}
        # The longest first: a shorter secret inside it must not leave its ends behind.
        ordered = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(ordered)) if ordered else None

    def __call__(self, text: str) -> str:
        """Return ``text`` without the secrets."""
        masked = self._pattern.sub(MASK, text) if self._pattern else text
        return _TASK_TOKEN.sub(MASK, masked)

    def values(self, value: object) -> object:
        """Return a value as JSON knows it, without the secrets, however deep they stand."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Mapping):
            return {self(str(key)): self.values(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.values(item) for item in value]
        told = self(str(value))
        return value if isinstance(value, int | float) and told == str(value) else told


def _values(value: object) -> Iterator[str]:
    from pydantic import BaseModel, SecretStr  # noqa: PLC0415 - `--help` masks without it, and starts faster

    if isinstance(value, SecretStr):
        yield from _of_text(value.get_secret_value())
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _values(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _values(item)


def _of_text(text: str) -> Iterator[str]:
    if not re.match(r"[a-z]+://", text):
        yield text
    elif mask_url(text) != text:
        yield text
        parts = urlsplit(text)
        password = parts.password or ""
        yield from (password, unquote(password))
        yield from (value for name, value in parse_qsl(parts.query) if "pass" in name.lower())


def _forms(secret: str) -> Iterator[str]:
    """Yield the forms of a secret as patterns."""
    yield re.escape(secret)
    for encoded in {quote(secret), quote(secret, safe=""), quote_plus(secret)} - {secret}:
        # Only the escapes may come in either case.
        yield re.sub(r"%([0-9A-F]{2})", r"%(?i:\1)", re.escape(encoded))
    yield re.escape(json.dumps(secret)[1:-1])
    yield re.escape(repr(secret)[1:-1])
    yield re.escape(repr(secret.encode(errors="surrogateescape"))[2:-1])
    for core in _base64_cores(secret.encode(errors="surrogateescape")):
        # Begins only where the base64 text begins, so that long words are scanned once.
        yield rf"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]*?{core}[A-Za-z0-9+/_-]*=*"


def _base64_cores(secret: bytes) -> Iterator[str]:
    """Yield the characters that base64 makes of the secret alone, at each of the three places it can begin.

    The alphabets of RFC 4648, sections 4 and 5, are both meant.
    """
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + secret).decode()
        whole = (offset + len(secret)) * 8 // 6
        core = encoded[(offset * 8 + 5) // 6 : whole]
        if len(core) >= SHORTEST_MASKED:
            yield "".join({"+": "[+-]", "/": "[/_]"}.get(character, character) for character in core)
