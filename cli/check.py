"""``vizfetch check``: whether the settings, this machine and everything a worker talks to can be used."""

from __future__ import annotations  # models are imported when a command runs: the others start faster

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli.invocation import AsJson, ConfigFile, Invocation, invocation
from cli.output import console, print_json
from config.problems import Problem, SettingsError

if TYPE_CHECKING:
    from config.sources import Reading
    from worker.findings import Finding

EXIT_CODES = {"holds": 0, "unreachable": 69, "wrong": 78}
_STYLES = {"holds": "green", "unreachable": "red", "wrong": "red"}


def check(context: typer.Context, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Look at settings, machine, indexes, Redis and store, and say what to do about what does not hold.

    Exits with 78 when settings or machine have to be changed, and with 69 when a service cannot be reached.
    """
    from worker.findings import worst

    findings = _findings(invocation(context), config)
    verdict = worst(findings)
    if as_json:
        print_json({"verdict": verdict, "findings": [_document(finding) for finding in findings]})
    else:
        _print(findings)
    raise typer.Exit(EXIT_CODES[verdict])


def _findings(called: Invocation, config: Path | None) -> tuple[Finding, ...]:
    """Look at everything that can be looked at: with wrong settings the machine, but nobody else."""
    from worker.connectivity import asking
    from worker.contract import examine

    try:
        reading = called.reading(config)
    except SettingsError as error:
        machine = examine(error.machine) if error.machine else ()
        return (*map(_of_problem, error.problems), *_for_java(called), *machine)
    settings, environment = reading.settings, called.environment
    # In this order: the store is asked by a fork, and a spinner is a thread.
    with (
        asking(settings, environment, everything=True) as services,
        console(error=True).status("asking all indexes, Redis and the store"),
    ):
        notes = (*_proxies(reading, environment), *_for_java(called))
        return (_settings(reading), *notes, *examine(settings), *services())


def _of_problem(problem: Problem) -> Finding:
    from worker.findings import wrong

    place = problem.source if problem.line is None else f"{problem.source} line {problem.line}"
    return wrong("settings", f"{place}: {problem.name}", problem.message)


def _settings(reading: Reading) -> Finding:
    from worker.findings import holds

    written = sum(row.written is not None for row in reading.effective)
    names = ", ".join(index.name for index in reading.settings.indexes)
    return holds("settings", f"{written or 'none'} set, the others have their defaults; indexes in order: {names}")


def _proxies(reading: Reading, environment: Mapping[str, str]) -> list[Finding]:
    """Say which variables have no meaning here, although they have for other programs."""
    from worker.findings import Finding, Verdict
    from worker.index_check import unused_proxies

    names = unused_proxies(environment)
    without = [index for index in reading.settings.indexes if index.proxy is None]
    if not names or not without:
        return []
    found = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} set, and not used"
    prefix = without[0].setting("proxy").removesuffix(".proxy")
    if not without[0].name.startswith("pypi["):
        prefix = "moderne.agent.pypi[{index}]"
    advice = f"If an index is behind a proxy, set {prefix}.proxy.host and {prefix}.proxy.port."
    return [Finding("proxy variables", Verdict.WRONG, found, advice, required=False)]


_FOR_JAVA = ("SPRING_APPLICATION_JSON", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
"""Variables in which the agent, a Spring Boot program, finds settings as well."""


def _for_java(called: Invocation) -> list[Finding]:
    """Say what was written for the agent's Java or Spring and is not read, without values: they may be secret."""
    from worker.findings import Finding, Verdict

    variables = [name for name in _FOR_JAVA if "moderne" in called.environment.get(name, "").lower()]
    found = []
    if variables:
        holds = f"{' and '.join(variables)} {'holds' if len(variables) == 1 else 'hold'} settings of the agent"
        advice = "Write those about visualizations as arguments, as variables of their own, or in a file for --config."
        found.append(
            Finding("variables for Java", Verdict.WRONG, f"{holds}, and nobody reads them", advice, required=False)
        )
    if called.foreign:
        advice = (
            "For a proxy, moderne.agent.pypi[i].proxy.host and .port are; for a company's own authority, "
            "REQUESTS_CA_BUNDLE."
        )
        told = f"{', '.join(called.foreign)}: not read here"
        found.append(Finding("arguments for Java", Verdict.WRONG, told, advice, required=False))
    return found


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "subject": finding.subject,
        "verdict": finding.verdict,
        "required": finding.required,
        "step": finding.step or None,
        "found": finding.found,
        "advice": finding.advice or None,
    }


def _print(findings: Sequence[Finding]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("what", no_wrap=True)
    table.add_column("how", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.subject), Text(_word(finding), style=_style(finding)), Text(finding.found))
    out = console()
    out.print(table)
    for finding in findings:
        if not finding.holds:
            out.print(Text(finding.subject, style=_style(finding)), Text(finding.advice), soft_wrap=True, sep=": ")
    if all(finding.holds for finding in findings):
        out.print("everything holds", style="green")


def _word(finding: Finding) -> str:
    if finding.holds:
        return "holds"
    if not finding.required:
        return "note"
    return f"{finding.step} fails" if finding.step else "wrong"


def _style(finding: Finding) -> str:
    return "yellow" if not finding.required and not finding.holds else _STYLES[finding.verdict]
