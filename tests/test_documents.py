"""Every command in the documents is run: here it is said by what."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "SECURITY.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
_BLOCK = re.compile(r"^```(sh|bash|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

HERE = "tests/integration/test_documents.py"
RUN_BY = {
    ("README.md", "Install"): "Dockerfile",
    ("README.md", "First run"): "bench/real.py",
    ("README.md", "One machine"): HERE,
    ("README.md", "Settings"): HERE,
    ("README.md", "Services"): HERE,
    ("README.md", "With containers"): "tests/compose/prove.sh",
    ("README.md", "Development"): ".ci/run",
    ("docs/api.md", "Submit"): "tests/scheduler/api/test_document.py",
    ("docs/api.md", "Look"): "tests/scheduler/api/test_document.py",
    ("docs/api.md", "Change"): "tests/scheduler/api/test_document.py",
    ("docs/api.md", "What is published"): "tests/scheduler/api/test_document.py",
    ("docs/bundles.md", "Using bundles"): HERE,
    ("docs/operations.md", "Schedules"): HERE,
    ("docs/operations.md", "Backup and total loss"): HERE,
    ("docs/operations.md", "Containers"): "tests/compose/prove.sh",
    ("docs/operations.md", "Kubernetes"): "tests/deploy/test_kubernetes.py",
    ("docs/operations.md", "Traces"): "tests/integration/test_traces.py",
}


def blocks(document: str) -> Iterator[tuple[str, str]]:
    """Yield the heading above each block of commands, and the block."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        outside = re.sub(r"^```.*?^```$", "", text[: found.start()], flags=re.MULTILINE | re.DOTALL)
        yield _HEADING.findall(outside)[-1], found[2]


def test_of_every_block_of_commands_it_is_known_what_runs_it() -> None:
    there = {(document, heading) for document in DOCUMENTS for heading, _ in blocks(document)}
    assert there == set(RUN_BY)
    assert [name for name in RUN_BY.values() if not (ROOT / name).is_file()] == []


def test_the_tests_that_security_md_names_exist() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8")))
    assert len(named) > 10
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []
