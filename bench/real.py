"""The main job on real input, against the public index: what a release must show.

    make real

1. Fetches one version with `vizfetch fetch` and compares its wheels with what plain `pip download` chooses for the
   same target tags at the same time.
2. Installs the bundle offline into fresh environments: with pip from 26.1 by pylock.toml, with an older pip by
   requirements.txt, with uv by pylock.toml; and imports pandas and plotly in each.
3. With --batch: five versions through two workers, a Valkey and a SeaweedFS S3 server; each shared wheel once.

Needs the network, the development environment, and some minutes. Exits with 1 when something does not hold.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from pathlib import Path

import pypi_simple

from bench.stack import stack
from bundles.store import open_store
from bundles.target import platforms
from config.settings import Target
from tests.support.command import VIZFETCH

PACKAGE = "moderne-visualizations-misc"
VERSIONS = ("2.2.0", "2.1.0", "2.0.0", "1.9.0", "1.8.3")
OLD_PIP = "23.2.1"
BINARIES = Path(sys.executable).parent


def main() -> int:
    """Run what was asked for and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", default="2.2.0")
    parser.add_argument("--batch", action="store_true", help="also the batch of five versions over S3")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vizfetch-real-") as name:
        place = Path(name)
        held = [_one(place, options.version)]
        if options.batch:
            held.append(_batch(place))
    return 0 if all(held) else 1


def say(holds: bool, what: str) -> bool:  # noqa: FBT001 - reads as a sentence
    """Print whether something holds, and return it."""
    print("holds " if holds else "FAILS ", what, flush=True)
    return holds


def run(*command: str | Path, **more: object) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end with nothing of this process's environment but where programs are."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(Path.home())}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload,no-any-return]


def _one(place: Path, version: str) -> bool:
    requirement = f"{PACKAGE}=={version}"
    done = run(VIZFETCH, "fetch", requirement, "--out", place / "out", "--json")
    if not say(done.returncode == 0, f"vizfetch fetch {requirement}"):
        print(done.stdout, done.stderr)
        return False
    bundle = json.loads(done.stdout)["jobs"][0]["bundle"]
    print(
        f"       {len(bundle['wheels'])} wheels, {bundle['sizeBytes']} bytes, {bundle['visualizations']} visualizations"
    )
    folder = Path(bundle["uri"].removeprefix("file://"))
    return all([_same_as_pip(place, requirement, bundle["wheels"]), *_installs(place, folder)])


def _same_as_pip(place: Path, requirement: str, wheels: list[str]) -> bool:
    target = Target()
    names = [f"--platform={platform}" for platform in platforms(target)]
    plain = place / "plain"
    # --isolated and an explicit index: the machine's own pip settings may name others.
    pip = [sys.executable, "-m", "pip", "--isolated", "download", "--quiet", "--only-binary", ":all:"]
    chosen_by = ["--index-url", pypi_simple.PYPI_SIMPLE_ENDPOINT, "--python-version", target.python]
    done = run(*pip, *chosen_by, "--implementation", "cp", *names, "--dest", plain, requirement)
    chosen = sorted(file.name for file in plain.iterdir()) if done.returncode == 0 else []
    return say(chosen == sorted(wheels), "the same wheels as plain pip download")


def _installs(place: Path, folder: Path) -> list[bool]:
    new, old, synced = (_environment(place / name) for name in ("new", "old", "uv"))
    pip = [str(old), "-m", "pip", "--isolated"]
    run(old, "-m", "ensurepip")
    run(*pip, "install", "--quiet", f"pip=={OLD_PIP}")
    offline = ["install", "--no-index", "--no-deps", "--require-hashes"]
    links = [f"--find-links={directory}" for directory in (place / "out" / "wheels").iterdir()]
    ways: list[tuple[Path, str, list[str]]] = [
        (
            new,
            "pip, pylock.toml",
            [sys.executable, "-m", "pip", "--isolated", f"--python={new}", "install", "--no-index"],
        ),
        (old, f"pip {OLD_PIP}, requirements.txt", [*pip, *offline, *links]),
        (synced, "uv pip sync, pylock.toml", [str(BINARIES / "uv"), "pip", "sync", "--offline", f"--python={synced}"]),
    ]
    locks: list[list[str | Path]] = [
        ["-r", folder / "pylock.toml"],
        ["-r", folder / "requirements.txt"],
        [folder / "pylock.toml"],
    ]
    return [
        _installed(python, what, *command, *(str(word) for word in lock))
        for (python, what, command), lock in zip(ways, locks, strict=True)
    ]


def _environment(place: Path) -> Path:
    venv.EnvBuilder(symlinks=True).create(place)
    return place / "bin" / "python"


def _installed(python: Path, what: str, *command: str | Path) -> bool:
    done = run(*command)
    used = run(python, "-c", "import pandas, plotly; print('pandas', pandas.__version__, 'plotly', plotly.__version__)")
    holds = say(
        done.returncode == 0 and used.returncode == 0, f"installs offline with {what}, imports {used.stdout.strip()}"
    )
    if not holds:
        print(done.stderr, used.stderr)
    return holds


def _batch(place: Path) -> bool:
    with stack(place, ("one", "two")) as here:
        requirements = [f"{PACKAGE}=={version}" for version in VERSIONS]
        done = here.deployment.run("submit", *requirements, "--wait", "--json", seconds=600)
        paths = [str(path) for path in open_store(here.storage).paths("wheels/")]
    return _batch_holds(done.document["jobs"], paths)


def _batch_holds(jobs: list[dict[str, object]], paths: list[str]) -> bool:
    bundles = [job["bundle"] for job in jobs if isinstance(job["bundle"], dict)]
    counted = Counter(job["worker"] for job in jobs)
    distinct = {wheel for bundle in bundles for wheel in bundle["wheels"]}
    size = sum(bundle["sizeBytes"] for bundle in bundles)
    uploaded = sum(bundle["uploadedBytes"] for bundle in bundles)
    print(f"       {dict(counted)}; {sum(len(b['wheels']) for b in bundles)} wheels, {len(distinct)} distinct")
    print(f"       {size} bytes in bundles, {uploaded} uploaded")
    return all(
        [
            say(len(bundles) == len(VERSIONS), "five bundles through two workers"),
            say(set(counted) == {"one", "two"}, "both workers took part"),
            say(len(paths) == len(set(paths)) == len(distinct), f"each wheel stored once: {len(paths)} objects"),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
