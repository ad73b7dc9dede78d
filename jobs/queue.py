"""The Celery app: how a message that an attempt may be claimed gets from the scheduler to a worker.

Messages are hints. Losing one, delivering one twice, or delivering one late changes nothing: the job's hash is the
truth, and the scheduler publishes again what is still queued. So messages are acknowledged early, and no result, retry
or ETA of Celery's is used.
"""

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis

from config.settings import RedisSettings
from jobs.connection import ANSWER_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS
from jobs.models import FetchMessage
from jobs.store import PREFIX, StatusUnavailable

TASK = "vizfetch.fetch"
QUEUE = "fetch"

_CONFIG = {
    "task_default_queue": QUEUE,
    "task_acks_late": False,
    "task_ignore_result": True,
    "task_serializer": "json",
    "accept_content": ["json"],
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_hijack_root_logger": False,
    "worker_send_task_events": False,
    "broker_connection_max_retries": None,
    "broker_connection_retry_on_startup": True,
    # The scheduler's loop publishes again anyway, so a failed publication may be given up soon.
    "task_publish_retry_policy": {
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0.2,
        "interval_max": 0.2,
    },
    "broker_transport_options": {
        "global_keyprefix": f"{PREFIX}:celery:",
        "visibility_timeout": 3600,
        "socket_timeout": ANSWER_TIMEOUT_SECONDS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "health_check_interval": 10,
    },
}


def celery_app(settings: RedisSettings) -> Celery:
    """Return the app for one process: the scheduler publishes through it, the worker registers its task on it."""
    app = Celery("vizfetch", broker=_broker_url(settings), set_as_current=False)
    app.conf.update(_CONFIG)
    return app


def publish(app: Celery, message: FetchMessage) -> None:
    """Publish a message; raises ``StatusUnavailable`` when the broker does not take it. Harmless to repeat."""
    try:
        app.send_task(TASK, kwargs=message.model_dump(by_alias=True), queue=QUEUE)
    except OperationalError as error:
        raise StatusUnavailable(f"Redis as broker: {error}") from error


def length(redis: Redis) -> int:
    """Return how many messages wait for a worker."""
    return int(redis.llen(f"{PREFIX}:celery:{QUEUE}"))


def _broker_url(settings: RedisSettings) -> str:
    url = settings.url.get_secret_value()
    # kombu's own scheme for a Unix socket.
    return f"redis+socket://{url.removeprefix('unix://')}" if url.startswith("unix://") else url
