"""The deployment's files, as they stand in the checkout."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"


def document(*parts: str) -> dict[str, Any]:
    """Return a YAML file of the checkout that holds one document."""
    content: dict[str, Any] = yaml.safe_load(ROOT.joinpath(*parts).read_text(encoding="utf-8"))
    return content


def resources() -> list[dict[str, Any]]:
    """Return everything that the kustomization names, in its order."""
    names = document("deploy", "kubernetes", "kustomization.yaml")["resources"]
    return [found for name in names for found in yaml.safe_load_all((KUBERNETES / name).read_text(encoding="utf-8"))]


def resource(kind: str, name: str) -> dict[str, Any]:
    """Return one of them."""
    return next(found for found in resources() if (found["kind"], found["metadata"]["name"]) == (kind, name))


def variables(text: str) -> dict[str, str]:
    """Return what an environment file sets."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)
