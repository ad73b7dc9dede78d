"""A bare Celery app whose task does nothing, on its usual settings: what our own cost is compared with.

python -m bench.bare URL worker CONCURRENCY | send COUNT
"""

import sys

from celery import Celery


def app(url: str) -> Celery:
    """Return the app with its task."""
    found = Celery("bare", broker=url, set_as_current=False)
    found.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)

    @found.task(name="nothing")  # type: ignore[untyped-decorator,unused-ignore]
    def nothing(**_: str) -> None:
        """Do nothing."""

    return found


def main() -> None:
    """Work until SIGTERM."""
    url, _, concurrency = sys.argv[1:]
    app(url).Worker(concurrency=int(concurrency), pool_cls="prefork", without_mingle=True, without_gossip=True).start()


if __name__ == "__main__":
    main()
