"""Folders of real wheels, as a download leaves them."""

from pathlib import Path

from packaging.requirements import Requirement

from bundles.assemble import assemble
from bundles.models import Bundle, Origin
from config.settings import Target
from tests.support.wheels import build_wheel, sha256

TARGET = Target()


def origins(directory: Path) -> dict[str, Origin]:
    """What an honest index says about every file of a folder."""
    return {file.name: Origin(filename=file.name, index="pypi[0]", sha256=sha256(file)) for file in directory.iterdir()}


def bundled(directory: Path, requirement: str, *, require_specs: bool = True, target: Target = TARGET) -> Bundle:
    """Assemble a folder of wheels."""
    return assemble(
        Requirement(requirement),
        directory,
        target,
        origins(directory),
        require_specs=require_specs,
        pip_version="26.3",
    )


def charts(directory: Path, version: str = "1.0") -> Bundle:
    """Build a package of two visualizations with two dependencies, and assemble it."""
    build_wheel(directory, "acme-charts", version, requires=["acme.data>=1"], visualizations=["bars", "pie"])
    build_wheel(directory, "acme.data", "1.5", requires=["acme-core[fast]; python_version>'3'"])
    build_wheel(directory, "acme-core", "0.1+local.1", extras=["fast"], tag="cp311-cp311-manylinux_2_17_x86_64")
    return bundled(directory, "acme-charts")
