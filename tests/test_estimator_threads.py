"""The same bits from any number of threads, in any process, and in several at once."""

import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
from estimator_checks import assert_different, assert_same_estimator, make, make_data
from sklearn.datasets import load_digits

import stochnet.estimator
from stochnet._kernels import engine
from stochnet.gaters import GATERS


@pytest.fixture(scope="module")
def data():
    return make_data()


# Above the work below which the engine does not use threads.
LARGE = {1: {"hidden_layer_sizes": (300,)}, 2: {"hidden_layer_sizes": (300, 90)}}
for _options in LARGE.values():
    _options.update(gater_hidden_size=400, batch_size=32)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32)[:100], y[:100]


def test_large_is_above_the_serial_threshold(digits):
    n_inputs = digits[0].shape[1]
    assert 32 * 400 * (n_inputs + 300) > engine.serial_work()


@pytest.mark.parametrize("depth", LARGE)
@pytest.mark.parametrize("gater", GATERS)
def test_any_number_of_threads(digits, gater, depth):
    X, y = digits
    options = {"max_iter": 2, "momentum": 0.5, **LARGE[depth]}
    fits = [make(gater, n_jobs=n, **options).fit(X, y) for n in (1, 2, 3, 4, None)]
    serial = fits[0]
    assert len(serial.coefs_) == depth + 1
    sampled = serial.sample_proba(X, 2, random_state=0)
    for fit in fits[1:]:
        assert_same_estimator(fit, serial, X)
        np.testing.assert_array_equal(fit.sample_proba(X, 2, random_state=0), sampled)
        assert fit.density_ == serial.density_


FINGERPRINT = """
import hashlib
import numpy as np
from sklearn.datasets import load_digits
from stochnet import GatedMLPClassifier
from stochnet.gaters import GATERS

X, y = load_digits(return_X_y=True)
X, y = X[:100] / 16, y[:100]
hashes = {}
for gater in GATERS:
    estimator = GatedMLPClassifier(
        (300, 20), gater, max_iter=2, n_iter_no_change=2, gater_hidden_size=400,
        random_state=5, n_jobs=N_JOBS,
    ).fit(X, y)
    arrays = [*estimator.coefs_, *estimator.intercepts_, estimator.predict_proba(X)]
    arrays += [np.array(estimator.thresholds_), estimator.sample_proba(X, 2, 7)]
    hashes[gater] = hashlib.sha256(b"".join(map(bytes, arrays))).hexdigest()
"""


def test_a_fresh_process_gives_the_same_bits():
    here = {"N_JOBS": 1}
    exec(FINGERPRINT, here)
    hashes = here["hashes"]
    assert len(set(hashes.values())) == len(GATERS)
    code = "N_JOBS = 2\n" + FINGERPRINT + "print(hashes)"
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(hashes)


def test_random_state(data):
    X, y = data

    def fit(random_state):
        return make(random_state=random_state).fit(X, y).predict_proba(X)

    np.testing.assert_array_equal(fit(1), fit(1))
    assert_different(fit(1), fit(2))
    np.testing.assert_array_equal(fit(np.random.RandomState(1)), fit(1))
    shared = np.random.RandomState(1)
    assert_different(fit(shared), fit(shared))
    before = np.random.get_state()[1].copy()
    fit(1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert_different(fit(None), fit(None))


# ---------------------------------------------------------------------------
# Several Python threads
# ---------------------------------------------------------------------------


def in_threads(functions):
    """Their results, all started at once in a thread each."""
    barrier = threading.Barrier(len(functions))

    def run(function):
        barrier.wait(timeout=60)
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(run, functions))


@pytest.mark.parametrize("gater", GATERS)
def test_predictions_in_several_threads(digits, gater):
    X, y = digits
    estimator = make(gater, n_jobs=2, max_iter=1, **LARGE[2]).fit(X, y)
    calls = [
        lambda: estimator.predict_proba(X),
        lambda: estimator.predict_proba(X[::-1]),
        lambda: estimator.sample_proba(X, 2, random_state=0),
        lambda: estimator.gates(X)[0].toarray(),
        lambda: estimator.sample_proba(X, 2, random_state=1),
        lambda: np.array(estimator.firing_rates_[1]),
    ]
    serial = [call() for call in calls]
    for _ in range(3):
        for first, second in zip(in_threads(calls), serial, strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("gater", ["sts", "st"])
def test_first_predictions_after_partial_fit_in_several_threads(
    data, gater, monkeypatch
):
    """One thread calibrates, and none predicts before it has finished."""
    X, y = data
    estimator = make(gater).partial_fit(X, y, classes=[0, 1, 2])
    expected = pickle.loads(pickle.dumps(estimator)).predict_proba(X)
    calibrate, calls = stochnet.estimator.calibrate, []

    def slowly(network, *args, **kwargs):
        calls.append(threading.get_ident())
        network.layers[0].threshold = np.inf
        time.sleep(0.05)
        calibrate(network, *args, **kwargs)

    monkeypatch.setattr(stochnet.estimator, "calibrate", slowly)
    results = in_threads([lambda: estimator.predict_proba(X)] * 4)
    for result in results:
        np.testing.assert_array_equal(result, expected)
    assert len(calls) == 1


def test_fits_in_several_threads(digits):
    X, y = digits

    def fit(gater):
        return make(gater, n_jobs=2, max_iter=2, **LARGE[1]).fit(X, y)

    serial = [fit(gater) for gater in GATERS]
    parallel = in_threads([lambda gater=gater: fit(gater) for gater in GATERS])
    for first, second in zip(parallel, serial, strict=True):
        assert_same_estimator(first, second, X)


def test_joblib_threads_predict_the_same(data):
    X, y = data
    estimator = make().fit(X, y)
    expected = estimator.predict_proba(X)
    with joblib.Parallel(n_jobs=2, backend="threading") as parallel:
        parts = parallel(
            joblib.delayed(estimator.predict_proba)(X[start : start + 40])
            for start in range(0, 120, 40)
        )
    np.testing.assert_array_equal(np.concatenate(parts), expected)
