"""Documents in the store, which are read into memory whole, whoever wrote them."""

from bundles.errors import BrokenBundle
from bundles.store import ObjectStore


def read_document(store: ObjectStore, path: str, max_bytes: int) -> bytes:
    """Return a document. Raises FileNotFoundError, StorageError, or BrokenBundle when it is larger."""
    content = bytearray()
    for chunk in store.chunks(path):
        content += chunk
        if len(content) > max_bytes:
            raise BrokenBundle(path, [f"it has more than {max_bytes} bytes"])
    return bytes(content)
