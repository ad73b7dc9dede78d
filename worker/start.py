"""The first steps of an agent: what takes long goes on side by side."""

from collections.abc import Mapping
from contextlib import closing

from config.settings import Settings
from config.tracing import tracing_settings
from jobs.listening import listening
from worker.directories import sweep_tasks
from worker.environment import check_environment
from worker.gateway.process import GatewayProcess
from worker.gateway.startup import Rules, ca_bundle


def run(settings: Settings, environment: Mapping[str, str], *, drain: bool = False) -> int:
    """Work until SIGTERM or SIGINT and return the exit code. ``environment`` is this process's own.

    On the signal no further job is taken; running ones are given back to the queue, or finished first with ``drain``.

    Raises ``UnfitEnvironment`` and ``SettingsError`` (nothing can listen on ``api.port``) before anything is connected
    to, ``UnfitServices`` when an index, Redis or the store cannot be used, and GatewayRefused.
    """
    check_environment(settings)
    sweep_tasks(settings.temporary_directory)
    with listening(settings.api) as listener, closing(_gateway(settings, environment)) as gateway:
        gateway.begin()
        # Only now: it imports for as long as the gateway does.
        from worker.app import serve  # noqa: PLC0415

        return serve(settings, environment, gateway, listener, drain=drain)


def _gateway(settings: Settings, environment: Mapping[str, str]) -> GatewayProcess:
    return GatewayProcess(
        settings.indexes,
        settings.cache,
        ca_bundle=ca_bundle(environment),
        rules=Rules(
            sdists=settings.sdists,
            min_package_age_seconds=settings.min_package_age_seconds,
            min_package_age_unknown=settings.min_package_age_unknown,
        ),
        redis=settings.redis,
        agent=settings.nickname,
        tasks=settings.concurrency,
        environment=environment,
        traces=tracing_settings(environment),
    )
