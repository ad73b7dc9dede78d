import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from config.names import match_variable
from tests.deploy.files import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FLOORS: list[str] = PROJECT["tool"]["importlinter"]["root_packages"]
INSTRUCTIONS = re.findall(r"^([A-Z]+)((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)
FINAL = INSTRUCTIONS[max(n for n, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM") :]


def of(word: str) -> list[str]:
    return [rest.strip() for name, rest in FINAL if name == word]


def test_it_runs_as_a_user_of_its_own_whom_kubernetes_can_tell_from_root() -> None:
    assert of("USER") == ["10001:10001"]


def test_signals_reach_the_service() -> None:
    assert of("ENTRYPOINT") == ['["tini", "--", "vizfetch"]']


def test_it_has_a_health_check_and_labels() -> None:
    (check,) = of("HEALTHCHECK")
    assert "/opt/vizfetch/health.py" in check
    (labels,) = of("LABEL")
    assert "org.opencontainers.image.version" in labels


def test_dependencies_come_by_hash() -> None:
    assert "--require-hashes --requirement /build/requirements.txt" in DOCKERFILE
    assert len(re.findall(r"^FROM python:3\.11-slim-bookworm\b", DOCKERFILE, re.MULTILINE)) == 2


def test_its_version_is_that_of_the_project() -> None:
    version = PROJECT["project"]["version"]
    assert of("ARG")[0] == f"VERSION={version}"
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert f"vizfetch:${{VIZFETCH_VERSION:-{version}}}" in compose
    kustomization = (ROOT / "deploy/kubernetes/kustomization.yaml").read_text(encoding="utf-8")
    assert f"newTag: {version}\n" in kustomization


def test_the_settings_it_brings_exist() -> None:
    names = re.findall(r"\b(MODERNE_\w+)=", DOCKERFILE)
    assert names
    assert [name for name in names if match_variable(name) is None] == []


def test_only_what_is_named_gets_into_the_build() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert lines[0] == "*"
    wanted = {"pyproject.toml", "README.md", "requirements.txt", "deploy/health.py", *FLOORS}
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == wanted


def test_every_package_of_ours_is_installed() -> None:
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    there = {
        ".".join(module.parent.relative_to(ROOT).parts) for floor in FLOORS for module in (ROOT / floor).rglob("*.py")
    }
    assert {name for name in there if not any(fnmatch(name, pattern) for pattern in include)} == set()
    assert {name for name in there if not ROOT.joinpath(*name.split("."), "__init__.py").is_file()} == set()


def package_of(file: Path) -> Path:
    """Return the folder of the package that a file belongs to."""
    return next(folder for folder in file.parents if (folder / "__init__.py").is_file())


def test_every_file_that_a_package_needs_is_installed() -> None:
    data: dict[str, list[str]] = PROJECT["tool"]["setuptools"]["package-data"]
    missing = []
    for file in (file for floor in FLOORS for file in (ROOT / floor).rglob("*") if file.is_file()):
        if file.suffix in {".py", ".pyc"}:
            continue
        package = package_of(file)
        patterns = data["*"] + data.get(".".join(package.relative_to(ROOT).parts), [])
        if not any(fnmatch(str(file.relative_to(package)), pattern) for pattern in patterns):
            missing.append(str(file.relative_to(ROOT)))
    assert missing == []
