"""How often Python looks for garbage."""

import gc

_COLLECT_AFTER = 100_000
"""So many objects more than before, where Python's own bound is 700."""


def search_less() -> None:
    """Have Python look for garbage less often: what a program has imported, and most of what it makes, is none.

    By default it takes a quarter of the CPU time of a command that asks Redis once.
    """
    gc.set_threshold(_COLLECT_AFTER)
