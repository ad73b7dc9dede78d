"""The one-machine mode, as the command sees it: everything that a fetch needs lives as long as the command."""

import multiprocessing
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from cli.errors import MachineStopped
from cli.keeper import keep, settings_at
from config.settings import Settings
from jobs.connection import connect
from jobs.store import StatusStore

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Machine:
    """A running machine."""

    settings: Settings
    store: StatusStore
    keeper: Connection

    def check(self) -> None:
        """Raise ``MachineStopped`` when one of its parts is gone."""
        if self.keeper.poll():
            _receive(self.keeper)


@contextmanager
def machine(settings: Settings, environment: Mapping[str, str], out: Path) -> Iterator[Machine]:
    """Run everything that a fetch needs, with ``out`` as the store, and stop and remove it all afterwards.

    A process of its own keeps it (see ``cli.keeper``) and ends it when this one lets go of it, also by being killed.
    It is forked, which spares it the imports, and therefore before this process has any thread.
    """
    context = multiprocessing.get_context("fork")
    ours, keepers = context.Pipe()

    def run() -> None:
        ours.close()
        keep(settings, environment, out, keepers)

    process = context.Process(target=run)
    try:
        with _signals_held_back():
            process.start()
        keepers.close()
        inside = settings_at(_receive(ours), settings, out)
        redis = connect(inside.redis)
        yield Machine(inside, StatusStore(redis, prefix=inside.redis.prefix), ours)
        redis.close()
    finally:
        # From here on nothing may break off the cleaning up.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        ours.close()
        if process.pid is not None:
            process.join()


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Keep signals waiting for the length of a fork: the child has handlers of its own to set before it gets any."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _receive(keeper: Connection) -> Path:
    """Return the directory of a machine that is ready, or raise ``MachineStopped``."""
    try:
        told = keeper.recv()
    except (EOFError, ConnectionError) as error:
        raise MachineStopped("the process that keeps the embedded Valkey and the worker was killed") from error
    if isinstance(told, MachineStopped):
        raise told
    return Path(told)
