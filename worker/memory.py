"""Answers a job from memory: when an equal one was published, and the indexes still say what they said then.

What a result depends on is in two places. The key holds what the job and the agent bring along: requirement, target,
settings, the interpreter that evaluates markers, pip and this program. The digest holds what the indexes told, whatever
the credentials they were asked with. Where both are equal and the bundle is in the store, fetching would make it again.
"""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import structlog
from packaging.markers import default_environment

from bundles.errors import BundleError
from bundles.layout import BUNDLES, MANIFEST
from config.tracing import span
from jobs.agents import fingerprint
from jobs.memory import Memory
from jobs.models import JobSpec, PublishedBundle, Recollection
from jobs.store import StatusUnavailable
from worker.background import patiently
from worker.fetch import Agent, Fetched
from worker.gateway.errors import GatewayError
from worker.gateway.revalidation import RevalidationRequest, Seen

_DECIDES_NOTHING = frozenset({"max_attempts", "priority", "anew"})

_log = structlog.get_logger()


class Recollections:
    """What an agent may answer from memory. Whatever is away or doubtful is no error: the job is done then."""

    def __init__(self, memory: Memory, agent: Agent) -> None:
        self._memory = memory
        self._agent = agent
        self._maker = [
            fingerprint(agent.settings),
            agent.pip.version,
            version("vizfetch"),
            dict(default_environment()),
        ]

    def recall(self, spec: JobSpec, check: Callable[[], None]) -> PublishedBundle | None:
        """Return the bundle that fetching would make again; None when it has to be done.

        ``check`` is called several times a second; what it raises is raised.
        """
        known = None if spec.anew else self._known(spec)
        if known is None:
            return None
        with span("look_again"):
            if not self._still_right(spec, known, check):
                return None
            if not patiently(partial(self._in_store, known.bundle), check):
                return None
        return known.bundle.model_copy(update={"unchanged": True, "uploaded_bytes": 0})

    def remember(self, spec: JobSpec, fetched: Fetched) -> None:
        """Remember what was published, unless what it was made from cannot be told."""
        if fetched.seen.digest is None:
            return
        known = Recollection(projects=fetched.seen.projects, digest=fetched.seen.digest, bundle=fetched.bundle)
        try:
            self._memory.remember(self._key(spec), known)
        except StatusUnavailable as error:
            _log.info("not_remembered", reason=str(error))

    def _key(self, spec: JobSpec) -> str:
        asked = spec.model_dump(mode="json", exclude=set(_DECIDES_NOTHING))
        return hashlib.sha256(json.dumps([asked, self._maker], sort_keys=True).encode()).hexdigest()

    def _known(self, spec: JobSpec) -> Recollection | None:
        try:
            return self._memory.recall(self._key(spec))
        except StatusUnavailable as error:
            _log.info("not_recalled", reason=str(error))
            return None

    def _still_right(self, spec: JobSpec, known: Recollection, check: Callable[[], None]) -> bool:
        request = RevalidationRequest(target=spec.target, index=spec.index, projects=known.projects)

        try:
            now = patiently(partial(self._agent.gateway.look_again, request), check)
        except GatewayError as error:
            _log.info("not_revalidated", reason=str(error))
            return False
        return now == Seen(projects=known.projects, digest=known.digest)

    def _in_store(self, bundle: PublishedBundle) -> bool:
        try:
            place = f"{BUNDLES}/{bundle.name}/{bundle.version}/{bundle.id}/{MANIFEST}"
            return self._agent.store.size(place) is not None
        except BundleError as error:
            _log.info("not_revalidated", reason=str(error))
            return False
