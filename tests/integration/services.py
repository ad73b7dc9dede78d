"""What the tests of the services say to them."""

from tests.support.command import Deployment

READY = "ready."
"""Celery's words in a worker's log when it takes messages."""


def submit(deployment: Deployment, *requirements: str) -> str:
    """Submit a batch and return its id."""
    done = deployment.run("submit", *requirements)
    assert done.exit_code == 0, done.errors
    return done.output.strip()
