"""What this process shows to others of the same user."""

import ctypes
import os

_PR_SET_DUMPABLE = 4


def hide_from_neighbours() -> None:
    """Keep memory and environment of this process, and of what it forks, from processes of the same user.

    Linux shows them in ``/proc`` (prctl(2), PR_SET_DUMPABLE), where a build of what strangers wrote would find the
    secrets in them. The superuser sees them nevertheless. There are no core dumps then either. A program that is
    started shows itself again. May be repeated.

    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_DUMPABLE): {os.strerror(number)}")
