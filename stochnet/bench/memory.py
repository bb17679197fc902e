"""Peak memory of `fit`, in a process that does nothing else.

``python -m stochnet.bench.memory NAME CASE`` prints it, in bytes, as JSON.
"""

import json
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

from sklearn.exceptions import ConvergenceWarning

from stochnet.bench import with_sklearn
from stochnet.bench.shapes import SEED, Case, make_data
from stochnet.estimator import GatedMLPClassifier

#: More than are kept for calibration.
_ROWS = 4096


def peak_of(name, case):
    """Memory before and at the peak of one epoch of `fit`.

    Parameters
    ----------
    name : {"stochnet", "scikit-learn"}
    case : stochnet.bench.shapes.Case

    Returns
    -------
    dict with
        before : bytes with everything imported and the data in place;
        peak : bytes at the most.
    """
    module = "stochnet.bench.memory"
    command = [sys.executable, "-m", module, name, json.dumps(asdict(case))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def _model(name, case):
    if name == "scikit-learn":
        return with_sklearn.make_classifier(
            case.sizes.n_units, case.batch, max_iter=1, n_iter_no_change=1
        )
    return GatedMLPClassifier(
        case.sizes.n_units,
        gater_hidden_size=case.sizes.n_hidden,
        density=case.density,
        batch_size=case.batch,
        max_iter=1,
        random_state=SEED,
        n_jobs=case.threads,
    )


def _peak():
    """Most memory that this process had so far, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return _peak_of_usage()
    # getrusage would tell the parent's, if that was larger when it forked
    return 1024 * next(int(s.split()[1]) for s in lines if s.startswith("VmHWM"))


def _peak_of_usage():
    import resource  # not everywhere

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(name, case):
    """Fit, and print memory before and at the peak."""
    case = Case(**json.loads(case))
    data = make_data(case.sizes, case.batch, -(-_ROWS // case.batch))
    model = _model(name, case)
    before = _peak()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(data.X, data.y)
    print(json.dumps({"before": before, "peak": _peak()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
