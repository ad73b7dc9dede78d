"""What can go wrong around the gateway, as types with attributes."""

import structlog

from jobs.errors import ErrorKind
from worker.gateway.addresses import shown

_MAX_CHARACTERS = 600

_log = structlog.get_logger()


class GatewayError(Exception):
    """The root of everything this package raises."""


class GatewayRefused(GatewayError):
    """The gateway cannot start with these settings on this machine; the message tells why."""


class GatewayLost(GatewayError):
    """The gateway does not know this task (any more): it was restarted, or does not answer.

    What was fetched so far is not recorded anywhere, so the attempt is void. Transient: another attempt
    finds the restarted gateway.
    """


class GatewayLate(GatewayLost):
    """No answer came, in time or at all."""


class UpstreamError(GatewayError):
    """An index did not give what it was asked for, after all retries that were worth it.

    ``url`` has neither credentials nor a query. ``reason`` says what happened, without advice.
    """

    def __init__(
        self,
        kind: ErrorKind,
        reason: str,
        *,
        url: str,
        status: int | None = None,
        retry_after_seconds: float | None = None,
        worth_retrying: bool | None = None,
        again_in_seconds: float | None = None,
        asked: bool = True,
    ) -> None:
        self.kind = kind
        self.reason = _one_line(reason)
        self.url = _one_line(url)
        super().__init__(f"{kind}: {self.reason} ({self.url})")
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.worth_retrying = kind.retryable if worth_retrying is None else worth_retrying
        self.asked = asked
        """False when the index is known to be down and was left alone."""
        self.again_in_seconds = again_in_seconds if again_in_seconds is not None else retry_after_seconds
        self.attempts = int(asked)
        self.duration_seconds = 0.0


def _one_line(text: str) -> str:
    """Make text of which an index may have chosen parts fit for a log and a terminal."""
    plain = "".join(character if character.isprintable() else " " for character in text[:_MAX_CHARACTERS])
    return " ".join(plain.split())


def unexpected(error: BaseException, url: str) -> UpstreamError:
    """Make a mistake of ours a failure like any other, so that no record looks as if nothing had happened."""
    _log.error("gateway_mistake", url=shown(url), exc_info=error)
    return UpstreamError(ErrorKind.INTERNAL, f"met a mistake of the gateway ({type(error).__name__})", url=shown(url))
