"""What Flower needs to know of vizfetch's broker; for the profile ``flower`` of docker-compose.yml.

Read-only by its nature: workers of vizfetch take no remote commands. Their jobs stand in ``vizfetch status``.
"""

from pathlib import Path

from celery import Celery
from kombu import Queue

_PASSWORD = Path("/run/secrets/flower/redis-password").read_text(encoding="utf-8")

app = Celery("vizfetch", broker=f"redis://flower:{_PASSWORD}@valkey:6379/0")
app.conf.update(
    # As in jobs/queue.py.
    broker_transport_options={"global_keyprefix": "vizfetch:celery:", "priority_steps": [0, 3, 6]},
    broker_connection_retry_on_startup=True,
    task_queues=[Queue("fetch:3.11:x86_64")],
)
