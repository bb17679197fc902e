"""How many threads a call of the engine uses."""

import os
import threading
from functools import lru_cache

import joblib
from joblib.parallel import get_active_backend

from stochnet._kernels.engine import max_threads


class _Process:
    """What this process has run and may run."""

    used_openmp = False
    serial = False


def _after_fork():
    """GNU OpenMP's threads do not survive a fork; a child that used them would hang."""
    _Process.serial = _Process.serial or _Process.used_openmp


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@lru_cache(maxsize=1)
def _count(count, *_setting):
    return count()


def _cpu_count():
    """CPUs that joblib counts, again where affinity or joblib's own limit has changed.

    It would read files each time, which takes longer than to predict a row.
    """
    limit = os.environ.get("LOKY_MAX_CPU_COUNT")
    affinity = getattr(os, "sched_getaffinity", lambda _: ())(0)
    return _count(joblib.cpu_count, limit, frozenset(affinity))


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
    if n_jobs == 0:
        raise ValueError("n_jobs == 0 has no meaning.")
    if n_jobs is not None and n_jobs > 0:
        n_threads = n_jobs
    else:
        nested = (getattr(get_active_backend()[0], "nesting_level", None) or 0) > 0
        in_main_thread = threading.current_thread() is threading.main_thread()
        cpus = 1 if nested and not in_main_thread else _cpu_count()
        n_threads = min(cpus, max_threads())
        if n_jobs is not None:
            asked = _cpu_count() + 1 + n_jobs
            n_threads = min(asked, n_threads) if nested else asked
    if _Process.serial:
        return 1
    _Process.used_openmp |= n_threads > 1
    return max(1, n_threads)
