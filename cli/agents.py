"""``vizfetch agents``: who works on this queue."""

from __future__ import annotations  # models are imported when a command runs: the others start faster

from contextlib import closing
from typing import TYPE_CHECKING

import typer

from cli.invocation import AsJson, ConfigFile, invocation
from cli.output import print_error, print_json, print_table
from jobs.words import size

if TYPE_CHECKING:
    from jobs.agents import AgentDocument


def agents(context: typer.Context, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the agents that live, and warn when they do not fit together."""
    from jobs.agents import Agents, disagreements
    from jobs.connection import connect

    settings = invocation(context).settings(config, logs=False)
    with closing(connect(settings.redis)) as redis:
        found = Agents(redis, settings.redis.prefix).all()
    warnings = disagreements(found)
    if as_json:
        print_json({"agents": [agent.as_document() for agent in found], "warnings": warnings})
        return
    if not found:
        typer.echo("no agent is running")
        return
    heads = ("agent", "host", "version", "target", "indexes", "settings", "jobs", "free", "last seen")
    print_table(heads, [_row(agent) for agent in found])
    for warning in warnings:
        print_error(warning)


def _row(agent: AgentDocument) -> tuple[str, ...]:
    target = agent.target
    return (
        agent.nickname,
        f"{agent.host}:{agent.pid}",
        agent.release,
        f"{target.python} glibc {target.glibc} {target.architecture}",
        ", ".join(index.name for index in agent.indexes),
        agent.fingerprint,
        f"{len(agent.running)} of {agent.concurrency}" + (", stops" if agent.draining else ""),
        size(agent.free_bytes),
        f"{agent.beat_at:%H:%M:%S} UTC",
    )
