"""What an index says of a project as a whole (PEP 792), and what was passed over, reaches those who use the bundle."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Deployment
from tests.support.index_server import IndexServer
from tests.support.wheels import build_wheel


def fetched(machine: Deployment, directory: Path) -> dict[str, Any]:
    own = {"MODERNE_AGENT_VISUALIZATION_REQUIRESPECS": "false", "MODERNE_AGENT_VISUALIZATION_RETRY_MAXATTEMPTS": "1"}
    run = Deployment({**machine.variables, **own}, machine.directory)
    [job] = run.run("fetch", "acme-user", "--out", str(directory / "out"), "--json").document["jobs"]
    return dict(job)


@pytest.mark.parametrize("forms", [("json", "html"), ("html",)])
def test_statuses_become_warnings(
    forms: tuple[str, ...], index: IndexServer, machine: Deployment, tmp_path: Path
) -> None:
    index.forms = forms
    for name, needs in (("acme-user", ("acme-old", "acme-new")), ("acme-old", ()), ("acme-new", ())):
        wheel = build_wheel(tmp_path, name, requires=needs)
        index.add(wheel.name, wheel)
    unreadable = build_wheel(tmp_path, "acme-new", "2.0", requires=["acme-old=>1"])
    index.add(unreadable.name, unreadable)
    index.project_status["acme-old"] = {"status": "archived", "reason": 'use "acme-new"\u001b[31m & be\nhappy'}
    index.project_status["acme-new"] = {"status": "active"}
    index.project_status["acme-user"] = {"status": "deprecated"}
    job = fetched(machine, tmp_path)
    assert job["state"] == "published", job["error"]
    [document] = (tmp_path / "out" / "bundles" / "acme-user").rglob("bundle.json")
    warnings = json.loads(document.read_text())["warnings"]
    told = [warning for warning in warnings if " says of " in warning]
    assert sorted(told) == [
        'pypi[0] says of acme-old: archived: use "acme-new" [31m & be happy',
        "pypi[0] says of acme-user: deprecated",
    ]
    assert "acme-new 2.0 was passed over: nobody can read its metadata" in warnings


def test_a_quarantined_project_offers_nothing(index: IndexServer, machine: Deployment, tmp_path: Path) -> None:
    for name, needs in (("acme-user", ("acme-bad",)), ("acme-bad", ())):
        wheel = build_wheel(tmp_path, name, requires=needs)
        index.add(wheel.name, wheel)
    index.project_status["acme-bad"] = {"status": "quarantined", "reason": "malware"}
    job = fetched(machine, tmp_path)
    assert (job["state"], job["error"]["kind"], job["error"]["index"]) == ("failed", "no_compatible_wheel", "pypi[0]")
    assert "quarantined: malware" in job["error"]["message"]
    assert index.seen("/files/acme_bad") == []
