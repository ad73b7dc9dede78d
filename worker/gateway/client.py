"""The gateway as a task sees it: register, learn the index's address, ask how it went."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import requests
from structlog.contextvars import get_contextvars

from config.settings import Model, Target
from config.tracing import traceparent
from worker.gateway.collection import Choice, Collected, CollectionRequest
from worker.gateway.errors import GatewayError, GatewayLate, GatewayLost
from worker.gateway.record import Progress, Record
from worker.gateway.revalidation import RevalidationRequest, Seen

CONTROL_HEADER = "X-Control-Token"
_LABELS = ("job", "batch", "attempt")
TIMEOUT_SECONDS = 30.0
"""For one call; longer than a restart of the gateway takes, during which calls wait in its backlog."""
PROGRESS_SECONDS = 5.0
"""For what is only shown."""
_TRIES = 3


class GatewayAddress(Model):
    """Where a gateway listens and what opens its control side; can be pickled and inherited."""

    url: str
    """``http://127.0.0.1:PORT``, without a slash at the end."""
    control_token: str

    def __repr__(self) -> str:
        return f"GatewayAddress(url={self.url!r})"

    __str__ = __repr__


class SessionRequest(Model):
    """What a task says of itself when it registers."""

    target: Target
    index: str | None = None
    """The only index to ask, by its name; None for all in their order."""
    ahead: Path | None = None
    """Where wheels are brought that the task's client may choose; None for nowhere."""
    labels: Mapping[str, str | int] = {}
    """What the gateway's log lines about the task carry: its job, batch and attempt."""


class Session:
    """A task's registration. Its token lives in ``index_url`` and is good for this task alone."""

    def __init__(self, address: GatewayAddress, token: str, http: requests.Session) -> None:
        self.index_url = f"{address.url}/{token}/simple/"
        self._control_url = f"{address.url}/control/sessions/{token}"
        self._http = http

    def collect(self, files: Sequence[Choice], directory: Path) -> Collected:
        """Have these files put into ``directory``, or go on waiting for it, a moment each time.

        What an index did not deliver is in the record. Raises GatewayLost, and OSError when this machine is to blame.
        """
        request = CollectionRequest(directory=directory, files=tuple(files))
        answer = _call(self._http, "POST", f"{self._control_url}/files", request.model_dump_json())
        return Collected.model_validate_json(answer)

    def progress(self) -> Progress:
        """Count what went to the client so far. Raises GatewayLost, and GatewayLate after a short while."""
        answer = _once(self._http, "GET", f"{self._control_url}/progress", None, PROGRESS_SECONDS)
        return Progress.model_validate_json(answer)

    def record(self) -> Record:
        """Tell everything seen so far; may be asked for any number of times. Raises GatewayLost."""
        return Record.model_validate_json(_call(self._http, "GET", f"{self._control_url}/record"))

    def seen(self) -> Seen:
        """Tell what the indexes said so far, to compare it with what they say another time. Raises GatewayLost."""
        return Seen.model_validate_json(_call(self._http, "GET", f"{self._control_url}/seen"))

    def close(self) -> None:
        """Deregister. Harmless when the gateway is lost or the session already gone."""
        with suppress(GatewayError):
            _once(self._http, "DELETE", self._control_url, None, TIMEOUT_SECONDS)


class GatewayClient:
    """Registers tasks with the gateway of this agent."""

    def __init__(self, address: GatewayAddress) -> None:
        self._address = address

    @contextmanager
    def session(self, target: Target, index: str | None = None, ahead: Path | None = None) -> Iterator[Session]:
        """Register a task for the length of the block. Wheels that its client may choose are brought to ``ahead``.

        Raises GatewayLost when the gateway does not answer, GatewayError when it refuses (an index that is
        not configured).
        """
        with _http(self._address) as http:
            session = Session(self._address, self._register(http, target, index, ahead), http)
            try:
                yield session
            finally:
                session.close()

    def look_again(self, request: RevalidationRequest) -> Seen:
        """Ask the indexes for these projects as a task would, and return what they say now.

        Waits for the indexes, as long as one call may take. Raises GatewayLost and GatewayError.
        """
        with _http(self._address) as http:
            body = request.model_copy(update={"labels": _labels()}).model_dump_json()
            answer = _once(http, "POST", f"{self._address.url}/control/revalidations", body, TIMEOUT_SECONDS)
        return Seen.model_validate_json(answer)

    def _register(self, http: requests.Session, target: Target, index: str | None, ahead: Path | None) -> str:
        body = SessionRequest(target=target, index=index, ahead=ahead, labels=_labels()).model_dump_json()
        return _call(http, "POST", f"{self._address.url}/control/sessions", body).decode("ascii")


def _labels() -> dict[str, str | int]:
    bound = get_contextvars()
    return {name: bound[name] for name in _LABELS if name in bound}


def _http(address: GatewayAddress) -> requests.Session:
    http = requests.Session()
    http.trust_env = False  # neither a proxy nor a netrc entry has a say on loopback
    http.headers[CONTROL_HEADER] = address.control_token
    if parent := traceparent():
        http.headers["traceparent"] = parent
    return http


def _call(http: requests.Session, method: str, url: str, body: str | None = None) -> bytes:
    """Ask, and ask again when no answer comes: a machine that has too much to do must not look like a lost gateway.

    For calls that are harmless to repeat. A gateway that was restarted meanwhile says that it knows nothing.
    """
    for _ in range(_TRIES - 1):
        with suppress(GatewayLate):
            return _once(http, method, url, body, TIMEOUT_SECONDS)
    return _once(http, method, url, body, TIMEOUT_SECONDS)


def _once(http: requests.Session, method: str, url: str, body: str | None, timeout_seconds: float) -> bytes:
    try:
        response = http.request(method, url, data=body, timeout=timeout_seconds)
        content = response.content
    except requests.RequestException as error:
        raise GatewayLate(f"The index gateway does not answer: {type(error).__name__}") from error
    if response.status_code == requests.codes.not_found:
        raise GatewayLost("The index gateway does not know this task any more; it was restarted.")
    if not response.ok:
        reason = content.decode("utf-8", "replace")
        raise GatewayError(f"The index gateway refused ({response.status_code}): {reason}")
    return content
