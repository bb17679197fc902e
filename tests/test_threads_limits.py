"""How many threads a call takes: n_jobs, OpenMP's and joblib's limits, and forks."""

import os
import subprocess
import sys

import joblib
import pytest

from stochnet import _threads
from stochnet._kernels import engine
from stochnet._threads import effective_n_threads

OPENMP = engine.build_info()["openmp"]

needs_openmp = pytest.mark.skipif(not OPENMP, reason="a serial build")


def run(code, **environment):
    """Standard output of a fresh process."""
    process = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.split()


@pytest.fixture
def machine(monkeypatch):
    """One with eight CPUs, of which OpenMP may use six."""
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    monkeypatch.setattr(_threads, "max_threads", lambda: 6)
    monkeypatch.setattr(_threads._Process, "used_openmp", False)
    monkeypatch.setattr(_threads._Process, "serial", False)


@pytest.mark.parametrize(
    ("n_jobs", "n_threads"),
    [(None, 6), (1, 1), (2, 2), (7, 7), (100, 100)]
    + [(-1, 8), (-2, 7), (-7, 2), (-8, 1), (-9, 1), (-1000, 1)],
)
def test_numbers(machine, n_jobs, n_threads):
    assert effective_n_threads(n_jobs) == n_threads


def test_no_more_than_there_are_cpus(machine, monkeypatch):
    monkeypatch.setattr(_threads, "max_threads", lambda: 32)
    assert effective_n_threads(None) == 8


def test_cpus_are_counted_again_where_that_may_matter(machine, monkeypatch):
    counts = iter([8, 5])
    monkeypatch.setattr(joblib, "cpu_count", lambda: next(counts))
    assert [effective_n_threads(-1) for _ in range(3)] == [8, 8, 8]
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "5")
    assert [effective_n_threads(-1) for _ in range(3)] == [5, 5, 5]


def test_zero_has_no_meaning(machine):
    with pytest.raises(ValueError, match="n_jobs == 0 has no meaning"):
        effective_n_threads(0)


@pytest.mark.parametrize("n_jobs", [None, -1, -8, 1, 5])
def test_here(n_jobs):
    """What is not told depends on this machine."""
    n_threads = effective_n_threads(n_jobs)
    if n_jobs is None:
        assert n_threads == min(joblib.cpu_count(), engine.max_threads())
    elif n_jobs > 0:
        assert n_threads == n_jobs
    else:
        assert n_threads == max(1, joblib.cpu_count() + 1 + n_jobs)


PRINT = """
from joblib import cpu_count
from stochnet._threads import effective_n_threads
print(*(effective_n_threads(n) for n in (None, 1, 3, -1)), cpu_count())
"""


def test_omp_num_threads_one():
    default, one, three, every, cpus = run(PRINT, OMP_NUM_THREADS="1")
    assert (default, one, three, every) == ("1", "1", "3", cpus)


@needs_openmp
def test_omp_num_threads_two():
    default, *_, cpus = run(PRINT, OMP_NUM_THREADS="2")
    assert int(default) == min(2, int(cpus))


@pytest.mark.parametrize("n_jobs", [None, -1, -2])
def test_in_worker_threads(machine, n_jobs):
    """joblib's threads run beside each other: one thread each."""
    with joblib.Parallel(n_jobs=2, backend="threading") as parallel:
        counts = parallel(joblib.delayed(effective_n_threads)(n_jobs) for _ in range(8))
    assert counts == [1] * 8


def test_in_worker_threads_a_number_is_taken_as_it_is(machine):
    with joblib.Parallel(n_jobs=2, backend="threading") as parallel:
        counts = parallel(joblib.delayed(effective_n_threads)(3) for _ in range(4))
    assert counts == [3] * 4


def test_a_parallel_with_one_job_is_no_limit(machine):
    with joblib.Parallel(n_jobs=1) as parallel:
        counts = parallel(joblib.delayed(effective_n_threads)(None) for _ in range(2))
    assert counts == [6, 6]


def test_in_worker_processes():
    """Two of them share the CPUs; only a number asked for is exempt."""
    share = max(1, joblib.cpu_count() // 2)
    tasks = [None, -1, None, -1, 3]
    with joblib.Parallel(n_jobs=2, backend="loky") as parallel:
        counts = parallel(joblib.delayed(effective_n_threads)(n) for n in tasks)
    assert 1 <= min(counts)
    assert max(counts[:4]) <= share
    assert counts[4] == 3


@needs_openmp
def test_worker_processes_may_have_more_threads():
    """joblib's own setting reaches the engine of a worker."""
    config = joblib.parallel_config(backend="loky", inner_max_num_threads=2)
    with config, joblib.Parallel(n_jobs=2) as parallel:
        counts = parallel(joblib.delayed(effective_n_threads)(None) for _ in range(2))
    assert counts == [min(2, joblib.cpu_count())] * 2


# ---------------------------------------------------------------------------
# fork
# ---------------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")

# A child whose OpenMP hangs is ended by the alarm, not by the test's timeout.
FORK = """
import hashlib, os, signal, sys, warnings
import numpy as np
from sklearn.datasets import make_classification
from stochnet import GatedMLPClassifier
from stochnet._kernels.engine import serial_work
from stochnet._threads import effective_n_threads

assert 32 * 320 * (40 + 400) > serial_work()
warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
X, y = make_classification(96, 40, n_informative=9, n_classes=3, random_state=0)

def fit():
    return GatedMLPClassifier(
        (400,), gater_hidden_size=320, max_iter=2, n_iter_no_change=2,
        random_state=0, n_jobs=2,
    ).fit(X, y)

def fingerprint(estimator):
    arrays = [*estimator.coefs_, estimator.predict_proba(X)]
    return hashlib.sha256(b"".join(map(bytes, arrays))).hexdigest()

def child(task):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        print(*task(), flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, "the child has not finished"

if BEFORE:
    estimator = fit()
    print(fingerprint(estimator))
    child(lambda: (effective_n_threads(2), fingerprint(estimator)))
    child(lambda: (effective_n_threads(None), fingerprint(fit())))
    grandchild = lambda: child(lambda: (fingerprint(fit()),)) or ()
    child(grandchild)
    print(effective_n_threads(2), fingerprint(fit()))
else:
    child(lambda: (effective_n_threads(2), fingerprint(fit())))
    print(effective_n_threads(2), fingerprint(fit()))
"""


@needs_fork
def test_children_of_a_process_that_has_run_openmp():
    """They predict and fit with one thread, and the same bits."""
    words = run("BEFORE = True\n" + FORK)
    expected = words[0]
    assert len(expected) == 64
    assert words == [expected, "1", expected, "1", expected, expected, "2", expected]


@needs_fork
def test_children_of_a_process_that_has_not_run_openmp():
    """They have their own threads, and so has the parent afterwards."""
    words = run("BEFORE = False\n" + FORK)
    assert len(words[1]) == 64
    assert words == ["2", words[1]] * 2


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("serial", [False, True])
def test_what_a_fork_changes(machine, used, serial):
    _threads._Process.used_openmp, _threads._Process.serial = used, serial
    _threads._after_fork()
    assert effective_n_threads(4) == (1 if used or serial else 4)


def test_only_several_threads_are_openmp(machine):
    effective_n_threads(1)
    assert not _threads._Process.used_openmp
    effective_n_threads(2)
    assert _threads._Process.used_openmp
    effective_n_threads(1)
    assert _threads._Process.used_openmp
