"""The packages of the tests' private index: one of each sort that a user may meet."""

from pathlib import Path

from tests.support.index_server import IndexServer
from tests.support.wheels import build_wheel

USERNAME = "agent"
PASSWORD = "planted-index-password"


def offer_packages(index: IndexServer, directory: Path) -> None:
    """Build the packages and put them on ``index``."""
    wheels = [
        build_wheel(directory, "acme-base", "1.0"),
        build_wheel(directory, "acme-base", "2.0"),
        *(
            build_wheel(directory, "acme-charts", version, requires=["acme-base>=1"], visualizations=["bars", "lines"])
            for version in ("1.0", "1.1", "1.2")
        ),
        build_wheel(directory, "acme-maps", "1.0", requires=["acme-base==1.0"], visualizations=["world"]),
        build_wheel(directory, "acme-plain", "1.0"),
        build_wheel(directory, "acme-mac", "1.0", tag="cp311-cp311-macosx_11_0_arm64", visualizations=["bars"]),
        build_wheel(directory, "acme-needy", "1.0", requires=["acme-nowhere>=3"], visualizations=["bars"]),
        build_wheel(directory, "acme-torn", "1.0", requires=["acme-base==2.0", "acme-maps"], visualizations=["bars"]),
    ]
    for wheel in wheels:
        index.add(wheel.name, wheel)
    newer = build_wheel(directory, "acme-newer", "1.0", requires_python=">=3.12", visualizations=["bars"])
    index.add(newer.name, newer, requires_python=">=3.12")
    changed = build_wheel(directory, "acme-changed", "1.0", visualizations=["bars"])
    index.add(changed.name, changed, sha256="0" * 64)
