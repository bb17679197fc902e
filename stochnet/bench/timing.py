"""Timing of contenders in turns, so that what the machine does meanwhile hits all."""

import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

#: Shortest sample, in seconds: shorter work is repeated within a sample.
SHORTEST_SAMPLE = 0.01

#: Between two contenders: OpenBLAS's threads go on running for up to 2^28 ticks of the
#: processor's time stamp counter (its THREAD_TIMEOUT), 0.11 s at 2.4 GHz, and would
#: keep the other cores.
PAUSE = 0.15


@dataclass(frozen=True)
class Timing:
    """Seconds of one unit of work.

    Attributes
    ----------
    median : float
    spread : float
        Interquartile range over median.
    n_samples : int
    """

    median: float
    spread: float
    n_samples: int


def summarize(samples):
    """The `Timing` of samples in seconds."""
    low, median, high = np.percentile(samples, [25, 50, 75])
    return Timing(float(median), float((high - low) / median), len(samples))


def interleave(
    contenders,
    *,
    seconds=3.0,
    min_rounds=5,
    max_rounds=50,
    clock=time.perf_counter,
    pause=time.sleep,
):
    """Time contenders in turns: A B C A B C ..., after a warm-up of each.

    Parameters
    ----------
    contenders : dict of str to callable
        A call does one unit of work, or as many as its attribute `repeats` says.
    seconds : float
        No further round begins after that, once there are `min_rounds`.
    min_rounds, max_rounds : int
    clock, pause : callable
        Replaceable for tests.

    Returns
    -------
    dict of str to Timing
    """
    calls = {name: _calls_per_sample(run, clock) for name, run in contenders.items()}
    samples = {name: [] for name in contenders}
    start = clock()
    for n_rounds in range(max_rounds):
        if n_rounds >= min_rounds and clock() - start > seconds:
            break
        for name, run in contenders.items():
            pause(PAUSE)
            samples[name].append(_sample(run, calls[name], clock))
    return {name: summarize(values) for name, values in samples.items()}


def _calls_per_sample(run, clock):
    """Warm up, and see how many calls make a sample that is long enough."""
    run()
    shortest = math.inf
    for _ in range(3):  # one could be interrupted, and look long
        start = clock()
        run()
        shortest = min(shortest, max(clock() - start, 1e-9))
        if shortest > 10 * SHORTEST_SAMPLE:
            break
    return max(1, math.ceil(SHORTEST_SAMPLE / shortest))


def _sample(run, n_calls, clock):
    if n_calls > 1:
        run()  # brings the contender's data and threads back; long work does it itself
    start = clock()
    for _ in range(n_calls):
        run()
    return (clock() - start) / (n_calls * getattr(run, "repeats", 1))


@contextmanager
def make_workers(n_threads):
    """Executors of one thread each.

    Each thread has a CPU of its own where that can be said: two of them may share one
    for as long as a call lasts, while another idles.
    """
    cpus = sorted(getattr(os, "sched_getaffinity", lambda _: ())(0))
    with ExitStack() as stack:
        workers = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(n_threads)]
        if len(cpus) >= n_threads:
            for worker, cpu in zip(workers, cpus, strict=False):
                worker.submit(os.sched_setaffinity, 0, {cpu}).result()
        yield workers


def share_out(workers, function, shares):
    """Call the function with each worker's arguments, all at once, and wait."""
    jobs = [
        worker.submit(function, *share)
        for worker, share in zip(workers, shares, strict=True)
    ]
    for job in jobs:
        job.result()
