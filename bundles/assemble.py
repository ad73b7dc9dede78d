"""A folder of downloaded files becomes a bundle, or the reason why it cannot be one."""

import platform
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement

from bundles.check import CheckedWheel, Content, check_wheel
from bundles.closure import Closure
from bundles.digest import bundle_id
from bundles.errors import BundleError, InvalidVisualization, NotClosed, NoVisualizations, WheelError, raise_all
from bundles.models import Bundle, BundledWheel, Origin, Visualization
from bundles.proofs import Proofs
from bundles.visualizations import Found, find
from config.settings import Target

_MAX_WARNINGS = 200


def assemble(
    requirement: Requirement,
    directory: Path,
    target: Target,
    origins: Mapping[str, Origin],
    *,
    require_specs: bool,
    pip_version: str,
    proofs: Proofs | None = None,
) -> Bundle:
    """Check everything in ``directory`` and describe it.

    ``origins`` tells by file name what the gateway knows of each file. With ``require_specs`` the package must
    hold visualizations and all of them must be valid; otherwise what is wrong with them becomes a warning.
    Nothing is written but what ``proofs`` remembers of sound wheels; the same content gives the same bundle id.

    Raises BundleError: HashMismatch, BrokenWheel, WrongTarget, NotClosed, InvalidVisualization or
    NoVisualizations; when several are true, the first of that order, with the others in its ``also``.
    """
    checked = _check_all(directory, target, origins, proofs)
    closure = Closure(requirement, checked, target)
    package = next((each for each in checked if each.metadata.name == closure.root), None)
    shown = _Shown() if package is None else _visualizations(package, require_specs=require_specs)
    raise_all([*([NotClosed(closure.issues)] if closure.issues else []), *shown.problems])
    if package is None:  # the closure has said so already
        raise NotClosed([f"{requirement} is missing"])
    wheels = tuple(sorted((_described(each, closure) for each in checked), key=lambda wheel: wheel.name))
    return Bundle(
        id=bundle_id(wheels, target),
        requirement=str(requirement),
        name=package.wheel.name,
        version=package.wheel.version,
        target=target,
        wheels=wheels,
        visualizations=shown.visualizations,
        python_version=platform.python_version(),
        pip_version=pip_version,
        created_at=datetime.now(UTC),
        warnings=_few([*_yanked(wheels), *closure.warnings, *shown.warnings]),
    )


def _described(checked: CheckedWheel, closure: Closure) -> BundledWheel:
    return checked.wheel.model_copy(update={"requires": closure.requires(checked.metadata.name)})


def _check_all(
    directory: Path, target: Target, origins: Mapping[str, Origin], proofs: Proofs | None
) -> Sequence[CheckedWheel]:
    """Check every file, and raise what is wrong with any of them together."""
    files = sorted(directory.iterdir())
    found: dict[Path, CheckedWheel | BundleError] = {}
    # In any order: processes that have the same wheels at the same time then seldom want to prove the same one.
    for file in random.sample(files, len(files)):
        try:
            found[file] = _checked(file, target, origins, proofs)
        except (WheelError, NotClosed) as error:
            found[file] = error
    in_order = [found[file] for file in files]
    raise_all([each for each in in_order if isinstance(each, BundleError)])
    return [each for each in in_order if isinstance(each, CheckedWheel)]


def _checked(file: Path, target: Target, origins: Mapping[str, Origin], proofs: Proofs | None) -> CheckedWheel:
    if file.suffix != ".whl" or not file.is_file() or file.is_symlink():
        raise NotClosed([f"{file.name} is not a wheel"])
    return check_wheel(file, origins.get(file.name), target, proofs)


@dataclass(frozen=True)
class _Shown:
    """What a package's visualizations add to a bundle."""

    visualizations: tuple[Visualization, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[BundleError, ...] = ()


def _visualizations(package: CheckedWheel, *, require_specs: bool) -> _Shown:
    found = _find(Content(package.file.name, package.wheel.sha256, package.file))
    problems: list[BundleError] = []
    if found.issues:
        problems.append(InvalidVisualization(found.issues))
    elif not found.visualizations:
        problems.append(NoVisualizations(f"{package.wheel.name} {package.wheel.version}"))
    if require_specs:
        return _Shown(found.visualizations, found.warnings, tuple(problems))
    return _Shown(found.visualizations, (*found.warnings, *(problem.message for problem in problems)))


@lru_cache(maxsize=64)
def _find(content: Content) -> Found:
    """Read a package's visualizations, once for each content in a process."""
    with ZipFile(content.file) as archive:
        return find(archive)


def _few(warnings: Sequence[str]) -> tuple[str, ...]:
    """Return what bundle.json tells of them: an archive may give reason for a hundred thousand."""
    more = len(warnings) - _MAX_WARNINGS
    return (*warnings[:_MAX_WARNINGS], *([f"and {more} more"] if more > 0 else []))


def _yanked(wheels: Iterable[BundledWheel]) -> Iterable[str]:
    return (
        f"{wheel.filename} was yanked from {wheel.index}" + (f": {wheel.yanked}" if wheel.yanked else "")
        for wheel in wheels
        if wheel.yanked is not None
    )
