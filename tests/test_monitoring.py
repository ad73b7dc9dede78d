"""The dashboard and the alert rules ask for what there is, and each alert has its place in the documents."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.metrics import METRICS

ROOT = Path(__file__).parent.parent
RULES = ROOT / "deploy/prometheus/rules/alerts.yml"
DASHBOARD = ROOT / "deploy/grafana/dashboards/vizfetch.json"
SCALING = ROOT / "deploy/kubernetes/scaledobject.yaml"
OPERATIONS = ROOT / "docs/operations.md"

_OF_OTHERS = {"up": {"job", "instance"}, "process_resident_memory_bytes": {"job", "instance"}}
"""What Prometheus itself and its client's collector show."""
_ADDED = {"job", "instance", "le"}
"""Labels that Prometheus puts to every series, and to the buckets of histograms."""
_WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset"}
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_LABELS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-z_:][a-z0-9_:]*)\s*(?:\{([^}]*)\})?", re.IGNORECASE)


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    for rule in rules():
        yield rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"]
    for trigger in yaml.safe_load(SCALING.read_text())["spec"]["triggers"]:
        yield trigger["metadata"]["valueLocation"]


def unknown(expression: str) -> set[str]:
    """Return the names in a PromQL expression that are no metric of ours, and labels that theirs do not have."""
    known = {name: set(metric.labels) | _ADDED for metric in METRICS.values() for name in metric.series} | _OF_OTHERS
    bare = re.sub(r"\[[^\]]*\]", "", _STRING.sub('""', expression))
    found = set(used(bare))
    grouped = {label.strip() for group in _LABELS.findall(bare) for label in group.split(",") if label.strip()}
    there = set().union(*(known.get(name, set()) for name, _ in found))
    wrong = {name for name, _ in found if name not in known}
    wrong |= {
        f"{name}{{{label}}}" for name, labels in found for label in labels if label not in known.get(name, {label})
    }
    return wrong | (grouped - there)


def used(bare: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield each metric's name with the labels that are asked for; ``bare`` has no strings and ranges any more."""
    text = _LABELS.sub(" ", bare)
    for match in _SELECTOR.finditer(text):
        name, inside = match[1], match[2] or ""
        if name not in _WORDS and text[match.end() : match.end() + 1] != "(":
            yield name, frozenset(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside))


def test_dashboard_alerts_and_scaling_ask_for_metrics_that_there_are() -> None:
    asked = list(expressions())
    assert len(asked) > 40
    assert {expression: unknown(expression) for expression in asked if unknown(expression)} == {}


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("max(vizfetch_job)", {"vizfetch_job"}),
        ("rate(vizfetch_retries[5m])", {"vizfetch_retries"}),
        ('vizfetch_jobs{stat="queued"}', {"vizfetch_jobs{stat}"}),
        ("sum by (step, queue) (rate(vizfetch_step_duration_seconds_bucket[5m]))", {"queue"}),
        ('max by (state) (vizfetch_jobs{state=~"a|b"}) > 2 and on () up{job="x"} == 0', set()),
    ],
)
def test_a_name_or_label_that_is_none_is_found(expression: str, wrong: set[str]) -> None:
    assert unknown(expression) == wrong


def test_every_metric_is_shown_or_watched() -> None:
    asked = " ".join(expressions())
    hidden = {metric.name for metric in METRICS.values() if not any(name in asked for name in metric.series)}
    assert hidden == {"vizfetch_agent_info", "vizfetch_agents_concurrency", "vizfetch_agents_running_jobs"}


def test_every_alert_says_what_to_do() -> None:
    headings = re.findall(r"^#+ (Vizfetch\w+)$", OPERATIONS.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in rules())
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_every_metric_is_in_the_documents() -> None:
    text = OPERATIONS.read_text()
    rows = dict(re.findall(r"^\| `(vizfetch_\w+)`[^|]*\| (\w+) \|", text, re.MULTILINE))
    told = {metric.name + ("_total" if metric.kind == "counter" else ""): metric.kind for metric in METRICS.values()}
    assert rows == told


def test_panels_have_a_title_and_a_description_and_do_not_overlap() -> None:
    places: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & places
        assert at["x"] + at["w"] <= 24
        places |= cells
