from typing import cast

import pytest

from config.settings import Target
from jobs.errors import ErrorKind
from jobs.models import JobSpec
from worker.errors import FetchError
from worker.fetch import Agent, Steps, fetch


@pytest.mark.parametrize(
    ("target", "kind", "words"),
    [
        (Target(python="3.99"), ErrorKind.PYTHON_INCOMPATIBLE, "Python 3.99"),
        (Target(architecture="aarch64"), ErrorKind.NO_COMPATIBLE_WHEEL, "aarch64"),
    ],
)
def test_a_job_for_another_machine_is_refused_before_anything_is_done(
    target: Target, kind: ErrorKind, words: str
) -> None:
    spec = JobSpec(requirement="acme-charts", target=target)
    with pytest.raises(FetchError, match=words) as caught:
        fetch(spec, cast("Agent", None), cast("Steps", None))
    assert caught.value.kind is kind
    assert not kind.retryable


@pytest.mark.parametrize("marker", ["python_version < '3'", "sys_platform == 'win32'", "extra == 'more'"])
def test_a_requirement_for_another_target_is_refused_before_anything_is_done(marker: str) -> None:
    spec = JobSpec(requirement=f"acme-charts; {marker}", target=Target())
    with pytest.raises(FetchError, match="asks for nothing on the target") as caught:
        fetch(spec, cast("Agent", None), cast("Steps", None))
    assert caught.value.kind is ErrorKind.INVALID_REQUIREMENT
