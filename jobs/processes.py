"""Processes that die with the one that started them, even when that one is killed with -9."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def dying_with_parent() -> Callable[[], None]:
    """What a child calls first (a `preexec_fn`): the kernel kills it when the thread that forked it ends.

    Made in the parent, just before the fork. Only Linux can do this; elsewhere it does nothing.
    """
    parent = os.getpid()
    if sys.platform != "linux":
        return lambda: None
    libc = ctypes.CDLL(None)  # loaded before the fork: afterwards a lock may be held for ever

    def first_of_all() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended between the fork and the prctl
            os._exit(1)

    return first_of_all
