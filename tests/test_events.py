"""What the log may say: each event has a fixed name, which docs/operations.md explains."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("bundles", "cli", "config", "jobs", "scheduler", "worker")
METHODS = {"debug", "info", "warning", "error", "critical", "exception", "log"}
LOGGERS = {"_log", "log", "line"}


def logged() -> Iterator[tuple[str, ast.expr]]:
    """Yield the place and the event of each call of a logger of ours."""
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=logger, attr=method)) if method in METHODS and of_ours(logger):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.args[1 if method == "log" else 0]


def of_ours(logger: ast.expr) -> bool:
    if isinstance(logger, ast.Call):  # structlog.get_logger(), config.logging.logger()
        return ast.unparse(logger.func) in {"structlog.get_logger", "logger"}
    return isinstance(logger, ast.Name) and logger.id in LOGGERS


def explained() -> set[str]:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.partition("\n### Events\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([a-z0-9_]+)` \|", section, re.MULTILINE))


def test_every_event_has_a_fixed_name() -> None:
    wrong = [
        place
        for place, event in logged()
        if not (isinstance(event, ast.Constant) and re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", str(event.value)))
    ]
    assert wrong == []


def test_every_event_is_explained_and_every_explained_one_exists() -> None:
    events = {str(event.value) for _, event in logged() if isinstance(event, ast.Constant)}
    assert len(events) > 40, "the search for log calls finds them"
    assert events == explained()
