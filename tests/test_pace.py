"""The choice between one thread and all, on passes that take a given time."""

import os
import subprocess
import sys
import time

import pytest

from stochnet._kernels.pace import Pace, idle_cores

SERIAL, THREADED = 50e-6, 30e-6


def run(n_passes, threaded, serial=SERIAL, pace=None, idle=-1):
    """Total seconds and share of passes with all of two threads.

    `threaded` and `serial` are the seconds of a pass, or functions of its number among
    successive passes in this way; `idle` is what is known of idle cores.
    """
    pace = pace or Pace()
    seconds, n_threaded, n_alike = 0.0, 0, 0
    for _ in range(n_passes):
        was = pace.threaded
        cost = threaded if was else serial
        cost = cost(n_alike) if callable(cost) else cost
        pace.count_pass(32, cost)
        if pace.threaded and not was:
            pace.put_off_trial(2, idle)
        seconds += cost
        n_threaded += was
        n_alike = n_alike + 1 if pace.threaded == was else 0
    return seconds, n_threaded / n_passes


def test_begins_with_one_thread():
    assert not Pace().threaded


@pytest.mark.parametrize("n_passes", [1000, 100_000])
def test_threads_that_pay_are_used(n_passes):
    _, share = run(n_passes, THREADED)
    assert share > 0.97


@pytest.mark.parametrize("factor", [1.05, 2, 20])
def test_threads_that_cost_are_tried_seldom(factor):
    """How a trial ends is known after a run, and it is repeated now and then."""
    seconds, share = run(100_000, SERIAL * factor)
    assert share > 0
    assert seconds < 1.05 * 100_000 * SERIAL


def test_threads_that_have_to_wake_are_given_a_chance():
    def cost(n):
        return 200e-6 if n == 0 else THREADED

    _, share = run(10_000, cost)
    assert share > 0.95


@pytest.mark.parametrize("milliseconds", [3, 30])
def test_threads_that_wait_now_and_then_cost_little(milliseconds):
    """What is fast between two waits for the core does not pay for them."""

    def cost(n):
        return milliseconds * 1e-3 if n % 100 == 99 else THREADED

    seconds, _ = run(100_000, cost)
    assert seconds < 1.06 * 100_000 * SERIAL


@pytest.mark.parametrize("when", [0, 3, 2000])
def test_one_wait_is_soon_forgotten(when):
    """Also one that meets the first trial: ten milliseconds, fifty until the next."""
    pace = Pace()
    run(8, THREADED, pace=pace)
    waited = []

    def cost(n):
        if n < when or waited:
            return THREADED
        waited.append(n)
        return 10e-3

    run(5000, cost, pace=pace)
    _, share = run(10_000, cost, pace=pace)
    assert waited == [when]
    assert share > 0.95


def test_threads_are_found_again_when_the_machine_is_free():
    pace = Pace()
    run(10_000, 3e-3, pace=pace)
    _, share = run(20_000, THREADED, pace=pace)
    assert share > 0.8


def test_one_thread_is_found_again():
    """Its first passes may have been slow ones."""
    pace = Pace()
    run(1000, THREADED, serial=10 * SERIAL, pace=pace)
    _, share = run(20_000, THREADED, serial=THREADED / 2, pace=pace)
    assert share < 0.2


def test_passes_over_other_rows_begin_again():
    pace = Pace()
    run(100, THREADED, pace=pace)
    assert pace.threaded
    pace.count_pass(16, THREADED)
    assert not pace.threaded


def test_a_trial_waits_for_an_idle_core():
    """For a quarter of a second, and then for none."""
    seconds, share = run(4000, THREADED, idle=0)
    assert share == 0 and seconds < 0.25
    _, share = run(40_000, THREADED, idle=0)
    assert share > 0.8


@pytest.mark.parametrize("idle", [1, 5, -1])
def test_no_trial_waits_where_cores_are_idle_or_nobody_knows(idle):
    seconds, share = run(1000, THREADED, idle=idle)
    assert (seconds, share) == run(1000, THREADED)


def test_threads_that_pay_do_not_wait_for_an_idle_core():
    """One thread is measured again in between."""
    pace = Pace()
    run(1000, THREADED, pace=pace)
    _, share = run(100_000, THREADED, pace=pace, idle=0)
    assert share > 0.97


@pytest.mark.skipif(not os.path.exists("/proc/loadavg"), reason="Linux counts them")
def test_idle_cores():
    """This process runs on one of them; others may be busy now, but not for long."""
    cores = os.cpu_count()
    assert idle_cores() < cores
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(cores)]
    try:
        deadline = time.monotonic() + 30
        while (idle := idle_cores()) > 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert idle == 0
    finally:
        for process in others:
            process.kill()
            process.wait()
