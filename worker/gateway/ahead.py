"""Wheels that a client has asked about, fetched while it still chooses what else it needs.

pip asks for the metadata of what it is about to take, and takes something else only when that contradicts another
choice. Until it has chosen everything, the network would have nothing to do but to bring pages.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from contextvars import copy_context
from pathlib import Path

from worker.gateway.cache import FileCache, Growing, Stored, Wanted
from worker.gateway.collection import FILES_AT_ONCE, link
from worker.gateway.errors import UpstreamError
from worker.gateway.upstream import Upstream

MAX_BYTES = 64 * 2**20
"""A larger wheel costs too much where it is not taken after all."""
_SHARE_OF_CACHE = 1 / 16
"""More than that for one task could drive out what it, or another one, is going to need."""


class Ahead:
    """Puts what one task may choose into a directory of its own, as links to what is in the cache.

    Of each project only the first wheel: whoever asks about a second one has not taken that, and tries one after the
    other. Nothing is told of what fails, it is no incident and says nothing of the index: a wheel that is taken is
    asked for again. After the first failure nothing more is begun.
    """

    def __init__(self, cache: FileCache, directory: Path) -> None:
        self._cache = cache
        self._directory = directory
        self._lock = threading.Lock()
        self._stopped = False
        self._projects: set[str] = set()
        self._left_bytes = int(cache.max_size_bytes * _SHARE_OF_CACHE)
        self._pool = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="ahead")

    def begin(self, upstream: Upstream, project: str, wanted: Wanted) -> None:
        """Have a wheel brought of which the client has just got the metadata. Returns at once, and never raises.

        Nothing is fetched whose size or sha256 the page does not tell, that may be large, or where connections are
        counted: there it would have pages wait.
        """
        with suppress(OSError, RuntimeError):  # no room for a thread, or a disk that fails: whoever takes it is told
            is_here = self._cache.has(upstream, wanted)
            with self._lock:
                if self._stopped or project in self._projects or wanted.sha256 is None:
                    return
                self._projects.add(project)
                if is_here or self._may_fetch(upstream, wanted):
                    self._pool.submit(copy_context().run, self._bring, upstream, wanted)

    def stop(self) -> None:
        """Begin nothing further, and put nothing into the directory any more. What is on its way goes on."""
        with self._lock:
            self._stopped = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _may_fetch(self, upstream: Upstream, wanted: Wanted) -> bool:
        size_bytes = wanted.size_bytes
        if size_bytes is None or size_bytes > min(MAX_BYTES, self._left_bytes):
            return False
        if upstream.settings.max_connections is not None:
            return False
        self._left_bytes -= size_bytes
        return True

    def _bring(self, upstream: Upstream, wanted: Wanted) -> None:
        try:
            with closing(self._cache.open(upstream, wanted, asked_for=False)) as content:
                for _ in content.arrivals():
                    pass
                self._place(content, str(wanted.filename))
        except UpstreamError:
            self.stop()  # an index that has too much to do is asked for what is needed, and nothing else
        except OSError:
            return

    def _place(self, content: Stored | Growing, filename: str) -> None:
        with self._lock:
            if not self._stopped:
                link(content.descriptor, self._directory / filename)
