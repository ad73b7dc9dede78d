"""Where everything of a bundle lies in the store, and in a portable folder."""

from bundles.models import Bundle, BundledWheel

BUNDLES = "bundles"
WHEELS = "wheels"
LOCK = "pylock.toml"
REQUIREMENTS = "requirements.txt"
SBOM = "sbom.cdx.json"
IMAGES = "images"
MANIFEST = "bundle.json"


def bundle_folder(bundle: Bundle) -> str:
    """Return the bundle's own folder in the store."""
    return f"{BUNDLES}/{bundle.name}/{bundle.version}/{bundle.id}"


def stored_wheel(wheel: BundledWheel) -> str:
    """Return where the store keeps a wheel: by content, for all bundles together."""
    return f"{WHEELS}/{wheel.sha256}/{wheel.filename}"


def wheel_from_lock(wheel: BundledWheel) -> str:
    """Return the way from a lock in the store to a wheel."""
    return f"../../../../{stored_wheel(wheel)}"


def portable_wheel(wheel: BundledWheel) -> str:
    """Return where a portable folder keeps a wheel, which is also the way from its lock."""
    return f"{WHEELS}/{wheel.filename}"


def bundle_image(path: str) -> str:
    """Return where a bundle keeps a picture that is ``PACKAGE/images/FILE`` in the wheel."""
    package, _, file = path.rpartition(f"/{IMAGES}/")
    return f"{IMAGES}/{package}/{file}"


def image_in_wheel(path: str) -> str:
    """Return where in the wheel a bundle's picture comes from: the way back from ``bundle_image``."""
    package, _, file = path.removeprefix(f"{IMAGES}/").rpartition("/")
    return f"{package}/{IMAGES}/{file}"
