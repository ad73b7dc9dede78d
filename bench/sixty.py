"""A batch of sixty real packages over three workers, against the public index.

    make sixty

Twenty versions of one visualization package and forty well-known libraries. Prints a table of the results, then, for
each failure, its reason beside the last words of plain `pip download` for the same requirement and target. Needs the
network, the development environment, two gigabytes of disk and some minutes. Exits with 1 when a job did not end, when
plain pip could have downloaded what failed here, or when a bundle's wheels differ from those that plain pip chooses for
the first ten of the libraries.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pypi_simple
from packaging.version import Version

from bench.stack import stack
from bundles.target import platforms
from config.settings import Target

PACKAGE = "moderne-visualizations-misc"
VERSIONS = 20
LIBRARIES = Path(__file__).with_name("libraries.txt").read_text(encoding="utf-8").split()
COMPARED = 10


def main() -> int:
    """Run the batch and return the exit code."""
    requirements = [f"{PACKAGE}=={version}" for version in _versions()] + LIBRARIES
    with tempfile.TemporaryDirectory(prefix="vizfetch-sixty-") as name:
        place = Path(name)
        started = time.monotonic()
        jobs = _run(place, requirements)
        print(f"{len(requirements)} packages over three workers in {time.monotonic() - started:.0f} s")
        _table(jobs)
        held = [_failure_holds(place, job) for job in jobs if job["state"] != "published"]
        compared = [job for job in jobs if job["requirement"] in LIBRARIES[:COMPARED] and job["state"] == "published"]
        held += [_same_as_pip(place, job) for job in compared]
    return 0 if all(held) else 1


def _versions() -> list[str]:
    with pypi_simple.PyPISimple() as index:
        packages = index.get_project_page(PACKAGE).packages
    found = {package.version for package in packages if package.package_type == "wheel" and package.version}
    return sorted((version for version in found if not Version(version).is_prerelease), key=Version)[-VERSIONS:]


def _run(place: Path, requirements: list[str]) -> list[dict[str, Any]]:
    manifest = place / "manifest.yml"
    entries = [{"package": requirement, "requireSpecs": False} for requirement in requirements]
    manifest.write_text(json.dumps({"version": 1, "visualizations": entries}))  # JSON is YAML
    with stack(place, ("one", "two", "three")) as here:
        done = here.deployment.run("submit", "-r", str(manifest), "--wait", "--json", seconds=1800)
    jobs: list[dict[str, Any]] = done.document["jobs"]
    return jobs


def _table(jobs: list[dict[str, Any]]) -> None:
    for job in jobs:
        bundle, error = job["bundle"], job["error"]
        told = f"{bundle['version']}, {len(bundle['wheels'])} wheels" if bundle else f"{error['kind']}"
        print(f"  {job['requirement']:38} {job['state']:10} {job['worker'] or '':6} attempt {job['attempt']}  {told}")
    print(f"  {dict(Counter(job['state'] for job in jobs))}, by worker {dict(Counter(job['worker'] for job in jobs))}")


def _pip(place: Path, requirement: str) -> tuple[list[str], str]:
    """Return the wheels that plain pip downloads for the target, and its last words."""
    target = Target()
    plain = place / "plain"
    done = subprocess.run(
        # --isolated and an explicit index: the machine's own pip settings may name others.
        [
            *(sys.executable, "-m", "pip", "--isolated", "download", "--quiet", "--only-binary", ":all:"),
            *("--index-url", pypi_simple.PYPI_SIMPLE_ENDPOINT, "--python-version", target.python),
            *("--implementation", "cp", *(f"--platform={platform}" for platform in platforms(target))),
            *("--dest", str(plain), requirement),
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = sorted(file.name for file in plain.iterdir()) if plain.exists() else []
    for file in wheels:
        (plain / file).unlink()
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return (wheels if done.returncode == 0 else []), "\n    ".join(errors)


def _failure_holds(place: Path, job: dict[str, Any]) -> bool:
    wheels, words = _pip(place, job["requirement"])
    holds = job["state"] == "failed" and not wheels
    print(f"{'holds ' if holds else 'FAILS '} {job['requirement']}: {job['error']['kind']}: {job['error']['message']}")
    print(f"    plain pip: {words or f'downloads {len(wheels)} wheels'}")
    return holds


def _same_as_pip(place: Path, job: dict[str, Any]) -> bool:
    wheels, _ = _pip(place, f"{job['bundle']['name']}=={job['bundle']['version']}")
    holds = wheels == sorted(job["bundle"]["wheels"])
    print(
        f"{'holds ' if holds else 'FAILS '} {job['requirement']}: the same {len(wheels)} wheels as plain pip download"
    )
    return holds


if __name__ == "__main__":
    sys.exit(main())
