import subprocess
import sys
import time

import pytest

from scheduler.api.waiting import Threads


def test_the_end_of_the_process_waits_for_nobody() -> None:
    """What waits for a dead disk never ends."""
    program = "import time; from scheduler.api.waiting import Threads; Threads(1, 'x').submit(time.sleep, 600)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


def test_answers_and_errors_come_back() -> None:
    threads = Threads(2, "x")
    assert [each.result(60) for each in [threads.submit(abs, -number) for number in range(10)]] == list(range(10))
    with pytest.raises(ValueError, match="invalid literal"):
        threads.submit(int, "x").result(60)
    threads.close()


def test_what_was_not_begun_is_given_up_at_the_end() -> None:
    threads = Threads(1, "x")
    threads.submit(time.sleep, 1)
    waiting = threads.submit(abs, -1)
    threads.close()
    assert waiting.cancelled()
    assert threads.submit(abs, -1).cancelled()
