"""The guard at Celery's door: what a Redis list holds is read before Celery sees it, and dropped if it is not ours.

kombu takes for granted that every entry is a message of kombu's: one that is not JSON ends the worker
(``JSONDecodeError`` in its event loop), and so does JSON of another shape. Celery itself refuses other content types,
unknown tasks and broken headers, but each in a way of its own and some with a traceback. Here, all of it is dropped
with one logged reason before anything acts upon it. A message of ours uses none of Celery's own features (no ETA, no
expiry, no time limits, no groups, no compression), so whatever asks for one is no message of ours either.
"""

import base64
import binascii
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import structlog
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as kombu_redis
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.connection import said
from jobs.models import FetchMessage

TASK = "vizfetch.fetch"
TRANSPORT = "vizfetch"
SENTINEL_TRANSPORT = "vizfetch-sentinel"

_MAX_BYTES = 64 * 1024
_log = structlog.get_logger()


class NotOurs(ValueError):
    """An entry of the queue is no message of ours, or of a version that this program does not know."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class _Headers(_Part):
    task: Literal["vizfetch.fetch"]
    id: str = Field(min_length=1, max_length=255)
    eta: None = None
    expires: None = None
    compression: None = None
    timelimit: list[None] | None = None
    retries: int | None = 0
    group: None = None


class _Place(_Part):
    exchange: str
    routing_key: str


class _Properties(_Part):
    delivery_tag: str
    delivery_info: _Place
    body_encoding: Literal["base64"]


class _Envelope(_Part):
    """What kombu writes into the list (message protocol 2 of Celery)."""

    headers: _Headers
    properties: _Properties
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    body: str

    def message(self) -> FetchMessage:
        content = base64.b64decode(self.body, validate=True)
        return FetchMessage.model_validate(_Body.model_validate_json(b'{"body":%b}' % content).body[1])


class _Body(_Part):
    body: tuple[list[None], dict[str, Any], dict[str, Any]] = Field(strict=False)
    """Positional arguments, named arguments, and Celery's canvas."""


def read(entry: bytes) -> FetchMessage:
    """Return the message in an entry of the queue; raises ``NotOurs`` with the reason, which repeats nothing of it."""
    if len(entry) > _MAX_BYTES:
        raise NotOurs(f"it is larger than {_MAX_BYTES} bytes")
    try:
        return _Envelope.model_validate_json(entry).message()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise NotOurs(f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['type']}") from None
    except binascii.Error:
        raise NotOurs("its body is not base64") from None


class _Guarded(kombu_redis.PrefixedStrictRedis):  # type: ignore[misc,unused-ignore]
    """kombu's client; an entry that is not ours looks to its caller as if the queue had been empty."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:  # noqa: ANN401 - as in redis-py
        answer = super().parse_response(connection, command_name, **options)
        if command_name == "BRPOP" and answer and not _welcome(answer[1]):
            return None
        return answer


def _welcome(entry: bytes) -> bool:
    try:
        read(entry)
    except NotOurs as error:
        _log.error("message_refused", reason=str(error), size_bytes=len(entry))
        return False
    return True


class _Returning(virtual.QoS):  # type: ignore[misc,unused-ignore]
    """What was taken and not begun when a worker stops; what Redis does not take back is left.

    kombu would write it into a temporary file, for somebody to find. Nobody has to: the scheduler publishes it again.
    """

    def restore_unacked(self) -> list[Any]:  # type: ignore[override]  # the stubs do not know that it returns anything
        """Give everything back and return, as kombu's own does, what is to be written down: nothing."""
        left = super().restore_unacked()
        if left:
            _log.warning("messages_not_returned", count=len(left), error=said(left[0][0]))
        return []


class _Guarding:
    """What our channels have in common: they read through the guard, and return what they have taken in our way.

    And they keep no bindings: each of our messages names its queue, and goes straight to it. Celery binds a worker's
    queues to its default exchange whatever they were declared with. Redis may refuse to write that (out of memory),
    which would end a worker that starts or reconnects, and it may lose it.
    """

    global_keyprefix: str

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as in kombu
        super().__init__(*args, **options)
        self.QoS = _Returning  # kombu chooses among its own by whether acknowledgements are emulated

    def _get_client(self) -> Callable[..., _Guarded]:
        return partial(_Guarded, global_keyprefix=self.global_keyprefix)

    def _queue_bind(self, *_: object) -> None:
        """Do nothing."""


class GuardedChannel(_Guarding, kombu_redis.Channel):  # type: ignore[misc,unused-ignore]
    """A channel behind the guard."""


class GuardedTransport(kombu_redis.Transport):  # type: ignore[misc,unused-ignore]
    """kombu's Redis transport behind the guard."""

    Channel = GuardedChannel


class GuardedSentinelChannel(_Guarding, kombu_redis.SentinelChannel):  # type: ignore[misc,unused-ignore]
    """The same where Sentinel tells which Redis is the primary."""


class GuardedSentinelTransport(kombu_redis.SentinelTransport):  # type: ignore[misc,unused-ignore]
    """kombu's Sentinel transport behind the guard."""

    Channel = GuardedSentinelChannel


def register_transports() -> None:
    """Make both known to kombu by the names above. Harmless to repeat."""
    TRANSPORT_ALIASES[TRANSPORT] = f"{__name__}:{GuardedTransport.__name__}"
    TRANSPORT_ALIASES[SENTINEL_TRANSPORT] = f"{__name__}:{GuardedSentinelTransport.__name__}"
