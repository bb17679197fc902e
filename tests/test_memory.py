"""Memory: what `fit` takes beside the data; that prediction does not grow with them.

Each measurement is a process of its own, after a small fit and prediction have loaded
all that is loaded once. The kernel is told to forget the highest use of memory so far.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"
)

#: Calibration rows and their scores, the order of the rows, Python itself.
SLACK = 24e6

COMMON = """
import json, sys, warnings
import numpy as np
from stochnet import GatedMLPClassifier
warnings.simplefilter("ignore")

def memory(key):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(s.split()[1]) for s in lines if s.startswith(key))

def most_of(call):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = memory("VmRSS")
    call()
    return memory("VmHWM") - before

n, dtype, n_classes, options = json.loads(sys.argv[1])
X = np.empty((n, 784), dtype=dtype)
X[:] = np.random.default_rng(0).integers(3, size=(n, 1))
y = np.arange(n) % n_classes
model = GatedMLPClassifier(2000, max_iter=1, n_jobs=1, random_state=0, **options)
small = GatedMLPClassifier(64, max_iter=1, n_jobs=1, **options)
small.fit(X[:100], y[:100] % 10).predict(X[:100])
"""

FIT = """
used = most_of(lambda: model.fit(X, y))
print(json.dumps([used, sum(f.nbytes for f in model._network._flat)]))
"""

PREDICT = """
y[:500] %= 200  # scikit-learn warns of classes of a row each
classes = np.arange(n_classes)
model.partial_fit(X[:500], y[:500], classes).predict(X[:2000])  # the workspace is kept
print(json.dumps([most_of(lambda: model.predict(X[:m])) for m in (n // 4, n)]))
"""


def measure(script, n, dtype, n_classes=10, **options):
    """What a script prints, in a fresh process."""
    settings = json.dumps([n, dtype, n_classes, options])
    command = [sys.executable, "-c", COMMON + script, settings]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def workspace(batch):
    """Bytes of a mini-batch of the paper's network: gates, experts, the gater, rows."""
    return 4 * batch * (5 * 2000 + 2 * 400 + 784)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [{}, {"solver": "adam"}, {"gater": "sts", "batch_size": 256, "momentum": 0.9}],
    ids=str,
)
def test_fit_takes_parameters_a_workspace_and_one_copy(options, dtype):
    n = 10_000
    used, parameters = measure(FIT, n, dtype, **options)
    copy = 0 if dtype == "float32" else 4 * n * 784
    batch = workspace(options.get("batch_size", 32))
    assert used < parameters + batch + copy + SLACK
    assert used > parameters, "nothing was measured"


@pytest.mark.parametrize(
    ("dtype", "n_classes"),
    [("float32", 10), ("float64", 10), ("uint8", 10), ("float32", 1000)],
)
def test_prediction_does_not_grow_with_the_rows(dtype, n_classes):
    """But for the labels."""
    n = 10_000
    quarter, whole = measure(PREDICT, n, dtype, n_classes)
    copy, labels = 4 * 784 * n, 8 * n
    assert whole < quarter + 3 * labels + 1e6 < copy / 10
