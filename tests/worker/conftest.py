"""Index servers for tests of the worker."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.index_server import IndexServer

MakeIndex = Callable[..., IndexServer]


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def make_index(resources: ExitStack) -> MakeIndex:
    """Start index servers that end with the test."""
    return lambda **options: resources.enter_context(IndexServer(**options))
