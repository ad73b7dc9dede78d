"""``bundle.json``: a bundle, sealed so that no byte of it can change unnoticed."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version
from pydantic import ValidationError

from bundles.errors import BrokenBundle
from bundles.layout import MANIFEST, WHEELS
from bundles.models import Bundle, BundledWheel, Manifest

MAX_MANIFEST_BYTES = 32 * 2**20
"""Of a ``bundle.json``, which is read into memory whole: eight times what all specs of a package may have."""

_TAKEN = frozenset({MANIFEST, WHEELS})
"""What lies beside a bundle's files in a portable folder."""

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


def incoherences(bundle: Bundle) -> Iterator[str]:
    """Yield what no publication writes, though each value is one by itself: names become files where it is pulled."""
    names = [wheel.name for wheel in bundle.wheels]
    if bundle.name not in names:
        yield f"it has no wheel of {bundle.name} itself"
    yield from (f"it has {count} wheels of {name}" for name, count in Counter(names).items() if count > 1)
    yield from (
        f"{wheel.filename} is not a name for a wheel of {wheel.name} {wheel.version}"
        for wheel in bundle.wheels
        if not _belongs(wheel)
    )
    paths = [file.path for file in bundle.files]
    yield from (f"{path} is there {count} times" for path, count in Counter(paths).items() if count > 1)
    yield from (f"{path} is not a name for a file beside it" for path in paths if path.split("/")[0] in _TAKEN)
    shown = {each.image for each in bundle.visualizations if each.image is not None}
    yield from (f"{image} is not among its files" for image in sorted(shown.difference(paths)))


def _belongs(wheel: BundledWheel) -> bool:
    try:
        return parse_wheel_filename(wheel.filename)[:2] == (wheel.name, Version(wheel.version))
    except InvalidWheelFilename:
        return False


def _content(bundle: Bundle) -> dict[str, object]:
    return {name: getattr(bundle, name) for name in Bundle.model_fields}


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
