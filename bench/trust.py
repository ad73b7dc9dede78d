"""Show of ten real versions that their bundles are right, install, and that a changed byte is noticed.

    make trust

1. Fetches ten versions from the public index into one folder, two of them with packages that exist as source only.
2. Pulls each, installs it offline by its pylock.toml into a fresh environment, imports its package, and executes the
   imports of one of its notebooks.
3. Compares its wheels with those that plain pip chooses at the same moment (for built ones by name and version).
4. Changes one byte in an object of each kind: `verify` and `pull` must name it.
5. Says how many bytes are stored for how many bytes of bundles.

Needs the network, the development environment, two gigabytes of disk and about ten minutes. Exits with 1 when something
does not hold.
"""

import json
import shutil
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pypi_simple
from packaging.utils import canonicalize_name, parse_wheel_filename

from bench.real import PACKAGE, run, say
from bundles.target import platforms
from config.settings import Target
from tests.support.command import VIZFETCH

WHEELS_ONLY = ("2.2.0", "2.0.0", "1.9.0", "1.8.3", "1.6.0", "1.4.0", "1.3.0", "1.2.2")
WITH_SOURCE = ("1.1.2", "0.76.0")
PIP = (sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check")

# A notebook of a package imports its neighbours by their own names.
USE = """
import ast, importlib, json, pathlib, sys
place = pathlib.Path(importlib.import_module(sys.argv[1]).__file__).parent
sys.path.insert(0, str(place))
notebooks = sorted(place.glob("*.ipynb"))
notebook = notebooks[len(notebooks) // 2]
found = []
for cell in json.loads(notebook.read_text())["cells"]:
    if cell["cell_type"] == "code":
        source = "".join(line for line in cell["source"] if not line.lstrip().startswith(("%", "!")))
        found += [node for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))]
for node in found:
    exec(compile(ast.Module([node], []), notebook.name, "exec"))
assert found
print(f"{len(found)} imports of {notebook.name}")
"""


def main() -> int:
    """Run all of it and return the exit code."""
    with tempfile.TemporaryDirectory(prefix="vizfetch-trust-") as name:
        place = Path(name)
        fetched = _fetch(place, WHEELS_ONLY, "never") + _fetch(place, WITH_SOURCE, "allow")
        held = [say(len(fetched) == len(WHEELS_ONLY + WITH_SOURCE), f"{len(fetched)} versions fetched")]
        for bundle in fetched:
            held += [_usable(place, bundle), _same_as_pip(place, bundle)]
        _say_sizes(place, fetched)
        held += _tampering(place, fetched[0])
    return 0 if all(held) else 1


def _vizfetch(place: Path, *words: str | Path) -> Any:  # noqa: ANN401 - a finished process
    return run(VIZFETCH, *words, f"-Dmoderne.agent.visualization.storage.uri={(place / 'store').as_uri()}")


def _fetch(place: Path, versions: tuple[str, ...], sdists: str) -> list[dict[str, Any]]:
    requirements = [f"{PACKAGE}=={version}" for version in versions]
    allowed = f"-Dmoderne.agent.visualization.sdists={sdists}"
    done = _vizfetch(place, "fetch", *requirements, "--out", place / "store", "--json", allowed)
    jobs = json.loads(done.stdout)["jobs"]
    for job in jobs:
        if job["error"]:
            print(f"       {job['requirement']}: {job['error']['message']}")
    return [job["bundle"] for job in jobs if job["bundle"]]


def _usable(place: Path, bundle: dict[str, Any]) -> bool:
    pulled, fresh = place / "pulled", place / "fresh"
    taken = _vizfetch(place, "pull", f"{PACKAGE}=={bundle['version']}", pulled)
    venv.EnvBuilder(symlinks=True).create(fresh)
    python = fresh / "bin" / "python"
    installed = run(*PIP, f"--python={python}", "install", "--quiet", "--no-index", "-r", pulled / "pylock.toml")
    used = run(python, "-I", "-c", USE, PACKAGE.replace("-", "_"))
    shutil.rmtree(pulled, ignore_errors=True)
    shutil.rmtree(fresh)
    holds = taken.returncode == installed.returncode == used.returncode == 0
    if not holds:
        print(taken.stderr, installed.stderr, used.stderr)
    return say(holds, f"{bundle['version']}: pulled, installed offline, imported; {used.stdout.strip()}")


def _same_as_pip(place: Path, bundle: dict[str, Any]) -> bool:
    requirement = f"{PACKAGE}=={bundle['version']}"
    index = ("--index-url", pypi_simple.PYPI_SIMPLE_ENDPOINT)
    if bundle["version"] in WITH_SOURCE:
        ours = {_project(wheel) for wheel in bundle["wheels"]}
        report = ("--dry-run", "--ignore-installed", "--prefer-binary", "--report", "-")
        done = run(*PIP, "install", "--quiet", *report, *index, requirement)
        metadata = [each["metadata"] for each in json.loads(done.stdout or '{"install":[]}')["install"]]
        plain = {f"{canonicalize_name(each['name'])} {each['version']}" for each in metadata}
    else:
        ours, folder = set(bundle["wheels"]), place / "plain"
        target = Target()
        tags = ("--implementation", "cp", "--python-version", target.python)
        named = (f"--platform={platform}" for platform in platforms(target))
        only = ("--only-binary", ":all:", "--dest", folder)
        run(*PIP, "download", "--quiet", *index, *tags, *named, *only, requirement)
        plain = {file.name for file in folder.iterdir()} if folder.exists() else set()
        shutil.rmtree(folder, ignore_errors=True)
    return say(ours == plain, f"{bundle['version']}: the {len(ours)} that plain pip chooses {sorted(ours ^ plain)}")


def _project(filename: str) -> str:
    name, version, *_ = parse_wheel_filename(filename)
    return f"{name} {version}"


def _say_sizes(place: Path, bundles: list[dict[str, Any]]) -> None:
    stored = sum(file.stat().st_size for file in (place / "store" / "wheels").rglob("*.whl"))
    beside = sum(file.stat().st_size for file in (place / "store" / "bundles").rglob("*") if file.is_file())
    print(f"       {sum(bundle['sizeBytes'] for bundle in bundles)} bytes in {len(bundles)} bundles,")
    print(f"       {stored} bytes of wheels stored once, {beside} bytes of documents and images")


def _objects(store: Path, bundle: dict[str, Any]) -> Iterator[Path]:
    """Yield one object of each kind."""
    folder = store / "bundles" / PACKAGE / bundle["version"] / bundle["id"]
    yield from (folder / name for name in ("bundle.json", "pylock.toml", "requirements.txt", "sbom.cdx.json"))
    yield next((folder / "images").rglob("*.png"))
    yield next(path for path in (store / "wheels").rglob("*.whl") if path.name in bundle["wheels"])


def _tampering(place: Path, bundle: dict[str, Any]) -> list[bool]:
    wanted = f"{PACKAGE}=={bundle['version']}"
    held = [say(_vizfetch(place, "verify", wanted).returncode == 0, "verify finds nothing before")]
    for changed in _objects(place / "store", bundle):
        content = changed.read_bytes()
        middle = len(content) // 2
        changed.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        for command in (["verify", wanted], ["pull", wanted, place / "tampered"]):
            done = _vizfetch(place, *command)
            named = done.returncode == 1 and changed.name in done.stdout + done.stderr
            held.append(say(named, f"{command[0]} names {changed.name} with one byte changed"))
        changed.write_bytes(content)
        shutil.rmtree(place / "tampered", ignore_errors=True)
    return held


if __name__ == "__main__":
    sys.exit(main())
