"""A bundle in the two forms that installers take. The same bundle gives the same bytes."""

from collections.abc import Callable

import tomli_w
from packaging.markers import Marker
from packaging.pylock import Package, PackageWheel, Pylock
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from bundles.layout import wheel_from_lock
from bundles.models import Bundle, BundledWheel
from config.settings import Target


def pylock(bundle: Bundle, wheel_path: Callable[[BundledWheel], str] = wheel_from_lock) -> bytes:
    """Return ``pylock.toml`` (PEP 751), for pip from 26.1 and uv.

    ``wheel_path`` gives the way from the lock to each wheel; the default is that of the store. The lock names
    the target, so that an installer refuses it elsewhere.
    """
    lock = Pylock(
        lock_version=Version("1.0"),
        environments=[Marker(_marker(bundle.target))],
        requires_python=SpecifierSet(f"=={bundle.target.python}.*"),
        created_by="vizfetch",
        packages=[_package(wheel, wheel_path(wheel)) for wheel in _sorted(bundle)],
    )
    lock.validate()
    return tomli_w.dumps(lock.to_dict()).encode()


def _marker(target: Target) -> str:
    return (
        f"implementation_name == 'cpython' and python_version == '{target.python}' "
        f"and sys_platform == 'linux' and platform_machine == '{target.architecture}'"
    )


def _package(wheel: BundledWheel, path: str) -> Package:
    file = PackageWheel(name=wheel.filename, path=path, size=wheel.size_bytes, hashes={"sha256": wheel.sha256})
    return Package(name=canonicalize_name(wheel.name), version=Version(wheel.version), wheels=[file])


def requirements(bundle: Bundle) -> bytes:
    """Return ``requirements.txt``: every version pinned, with its hash, for any pip.

    To be used with ``--no-index --no-deps --require-hashes --find-links FOLDER``.
    """
    lines = (f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in _sorted(bundle))
    return "".join(lines).encode()


def _sorted(bundle: Bundle) -> list[BundledWheel]:
    return sorted(bundle.wheels, key=lambda wheel: wheel.name)
