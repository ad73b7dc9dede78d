"""``bundle.json``: a bundle, sealed so that no byte of it can change unnoticed."""

import hashlib
import re

from pydantic import ValidationError

from bundles.errors import BrokenBundle
from bundles.models import Bundle, Manifest

_BLANK = "0" * 64
_SEAL = re.compile(rb'(\n  "digest": ")([0-9a-f]{64})("\n}\n)\Z')
"""The document's end. Text inside JSON holds no line break, so nothing else can look like it."""


def seal(bundle: Bundle) -> bytes:
    """Return the bundle as ``bundle.json``."""
    manifest = Manifest(**_content(bundle), digest=_BLANK)
    blank = manifest.model_dump_json(indent=2).encode() + b"\n"
    return _SEAL.sub(rb"\g<1>" + _digest(blank) + rb"\g<3>", blank)


def unseal(content: bytes, path: str) -> Bundle:
    """Return the bundle of a ``bundle.json``; ``path`` says where it is. Raises BrokenBundle."""
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        issues = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False)]
        raise BrokenBundle(path, issues) from error
    # Over the bytes and not over the values: a later version may write what it knows of an older document differently.
    found = _SEAL.search(content)
    if found is None or _digest(_SEAL.sub(rb"\g<1>" + _BLANK.encode() + rb"\g<3>", content)) != found[2]:
        raise BrokenBundle(path, ["its content is not what its digest says: it was changed after it was published"])
    return Bundle(**_content(manifest))


def _content(bundle: Bundle) -> dict[str, object]:
    return {name: getattr(bundle, name) for name in Bundle.model_fields}


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
