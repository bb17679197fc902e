"""How many threads a call uses, and BLAS kept to one thread while ours run."""

import os
import threading
from contextlib import contextmanager
from functools import lru_cache

import joblib
from joblib.parallel import get_active_backend
from threadpoolctl import ThreadpoolController

from stochnet._kernels.engine import max_threads


class _State:
    """Of this process: what has run, what it is allowed to run, who holds BLAS."""

    def __init__(self):
        self.lock = threading.Lock()
        self.used_openmp = False
        self.serial = False
        self.holders = 0
        self.limiter = None


_state = _State()


def _after_fork():
    """GNU OpenMP's threads do not survive a fork; a child that used them would hang."""
    serial = _state.serial or _state.used_openmp
    _state.__init__()
    _state.serial = serial


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def effective_n_threads(n_jobs):
    """Threads for one call of a kernel.

    Parameters
    ----------
    n_jobs : int or None
        None: what OpenMP allows (``OMP_NUM_THREADS``, threadpoolctl, the limits that
        joblib sets in its worker processes), at most the number of CPUs; one inside a
        joblib worker thread. -1: all CPUs, -2: all but one, and so on, but inside
        joblib workers not more than None. A positive number is taken as it is.

    Returns
    -------
    int
        At least 1; always 1 in a process forked after OpenMP ran in its parent.
    """
    if n_jobs is not None and n_jobs > 0:
        n_threads = n_jobs
    else:
        nested = (getattr(get_active_backend()[0], "nesting_level", None) or 0) > 0
        in_main_thread = threading.current_thread() is threading.main_thread()
        cpus = 1 if nested and not in_main_thread else joblib.cpu_count()
        n_threads = min(cpus, max_threads())
        if n_jobs is not None:
            asked = joblib.cpu_count() + 1 + n_jobs
            n_threads = min(asked, n_threads) if nested else asked
    if _state.serial:
        return 1
    _state.used_openmp |= n_threads > 1
    return max(1, n_threads)


@lru_cache(maxsize=1)
def _blas():
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def single_threaded_blas():
    """Keep BLAS to one thread: the engine calls it from its own threads.

    The limit is the process's, so concurrent users are counted: the first sets it, the
    last restores what was there before.
    """
    with _state.lock:
        if _state.holders == 0:
            _state.limiter = _blas().limit(limits=1)
        _state.holders += 1
    try:
        yield
    finally:
        with _state.lock:
            _state.holders -= 1
            if _state.holders == 0:
                _state.limiter.restore_original_limits()
                _state.limiter = None
