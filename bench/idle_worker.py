"""An agent whose fetches do nothing: everything around a fetch is as always. Takes the arguments of ``vizfetch``."""

from typing import Any

import worker.attempt
from cli.main import run
from jobs.models import JobSpec, PublishedBundle
from worker.fetch import Fetched
from worker.gateway.revalidation import Seen

_BUNDLE = PublishedBundle(
    id="nothing",
    name="nothing",
    version="1",
    uri="file:///",
    wheels=(),
    size_bytes=0,
    uploaded_bytes=0,
    visualizations=0,
)


def _nothing(_spec: JobSpec, _agent: object, _steps: object) -> Fetched:
    return Fetched(_BUNDLE, Seen(projects=(), digest=None))


def main() -> None:
    """Run the agent. Nothing is remembered of what has no digest, so each job goes the whole way."""
    module: Any = worker.attempt
    module.fetch = _nothing
    run()


if __name__ == "__main__":
    main()
