"""Whether wheels are exactly a requirement and all that it depends on, for the target."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from bundles.check import CheckedWheel
from bundles.target import environment
from config.settings import Target


class Closure:
    """The walk from a requirement over the dependencies of the wheels that are there.

    ``issues`` are all reasons why the set is not complete and exact; ``warnings`` are what pip only warns of.
    """

    def __init__(self, requirement: Requirement, wheels: Sequence[CheckedWheel], target: Target) -> None:
        self.issues: list[str] = []
        self.warnings: list[str] = []
        self._environment = environment(target)
        self._wheels = self._by_name(wheels)
        self._seen: dict[NormalizedName, set[str]] = {}
        if not self._applies(requirement, ()):
            self.issues.append(f"{requirement} does not apply to the target")
        self._walk(requirement)
        self.issues += [
            f"{checked.wheel.filename} is not needed by anything"
            for name, checked in self._wheels.items()
            if name not in self._seen
        ]

    @property
    def root(self) -> NormalizedName | None:
        """The name of the wheel that the requirement asked for, or None when it is not there."""
        return next(iter(self._seen), None)

    def requires(self, name: NormalizedName) -> tuple[NormalizedName, ...]:
        """Return which other wheels of the set a wheel needs, for itself or for an extra that it declares, sorted.

        It does not depend on what was asked for: ``a`` and ``a[x]`` with the same wheels are the same bundle.
        """
        found = self._wheels[name].metadata
        extras = ("", *sorted(found.extras))
        needed = {canonicalize_name(each.name) for each in found.requires if self._met(each, extras)}
        return tuple(sorted(needed - {name}))

    def _met(self, requirement: Requirement, extras: Sequence[str]) -> bool:
        """Tell whether a requirement is for the target, and a wheel of the set is what it wants."""
        wheel = self._wheels.get(canonicalize_name(requirement.name))
        if wheel is None or not requirement.specifier.contains(wheel.metadata.version, prereleases=True):
            return False
        return self._applies(requirement, extras)

    def _by_name(self, wheels: Iterable[CheckedWheel]) -> Mapping[NormalizedName, CheckedWheel]:
        grouped: dict[NormalizedName, list[CheckedWheel]] = defaultdict(list)
        for checked in wheels:
            grouped[checked.metadata.name].append(checked)
        for name, same in grouped.items():
            if len(same) > 1:
                files = ", ".join(sorted(checked.wheel.filename for checked in same))
                self.issues.append(f"{name} is there {len(same)} times: {files}")
        return {name: same[0] for name, same in grouped.items()}

    def _walk(self, requirement: Requirement) -> None:
        waiting: list[tuple[Requirement, CheckedWheel | None]] = [(requirement, None)]
        while waiting:
            needed, by = waiting.pop()
            found = self._satisfied(needed, by.wheel.filename if by else "what was asked for")
            if found is None:
                continue
            new = self._new_extras(needed, found)
            waiting += [(each, found) for each in self._requires(found, new)]

    def _satisfied(self, needed: Requirement, by: str) -> CheckedWheel | None:
        """Return the wheel that a requirement means, if it is there; an issue tells what is wrong with it."""
        found = self._wheels.get(canonicalize_name(needed.name))
        if needed.url is not None:
            self.issues.append(f"{by} needs {needed.name} from a URL, which is never fetched")
        elif found is None:
            self.issues.append(f"{needed} is missing, needed by {by}")
        # A pre-release that pip chose is as good as any: what it may choose was its business.
        elif not needed.specifier.contains(found.metadata.version, prereleases=True):
            self.issues.append(f"{found.wheel.filename} is not {needed}, needed by {by}")
        return found

    def _new_extras(self, needed: Requirement, found: CheckedWheel) -> tuple[str, ...]:
        """Return which extras of a wheel were not asked for before; the empty one stands for the wheel itself.

        One that the wheel does not declare is left out, as pip does it, also when some requirement is for that extra.
        """
        name = found.metadata.name
        wanted = {"", *map(canonicalize_name, needed.extras)}
        known = self._seen.setdefault(name, set())
        new = wanted - known
        known |= new
        unknown = sorted(new - {""} - found.metadata.extras)
        self.warnings += [f"{found.wheel.filename} has no extra {extra!r}, asked for nevertheless" for extra in unknown]
        return tuple(sorted(new.difference(unknown)))

    def _requires(self, found: CheckedWheel, extras: tuple[str, ...]) -> Iterator[Requirement]:
        return (each for each in found.metadata.requires if extras and self._applies(each, extras))

    def _applies(self, requirement: Requirement, extras: Sequence[str]) -> bool:
        marker = requirement.marker
        if marker is None:
            return True
        try:
            return any(marker.evaluate({**self._environment, "extra": extra}) for extra in extras or ("",))
        except (ValueError, KeyError, RecursionError) as error:
            self.issues.append(f"the marker of {requirement} cannot be evaluated: {error}")
            return False
