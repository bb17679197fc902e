"""Which estimator of the gates' gradient is best: bias, variance, cost.

    python examples/estimators.py [--figure FILE]

Networks whose last layer has 16 gates, each of 16 experts, are trained on digits, and
every estimator is compared with the exact gradient, from the enumeration of all 65536
configurations of the gates, on test rows: at three densities, and with one layer below.
"""

import argparse
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from stochnet import GatedMLPClassifier
from stochnet.datasets import load_digits_split
from stochnet.diagnostics import (
    GateProblem,
    GradientEstimatorDisplay,
    compare_estimators,
)

# Hidden layers and density.
CASES = [((256,), 0.1), ((256,), 0.3), ((256,), 0.5), ((256, 256), 0.3)]


def trained(sizes, density, data, seed):
    """A straight-through network after a few epochs."""
    X, y, *_ = data
    model = GatedMLPClassifier(
        sizes,
        experts_per_gate=16,
        density=density,
        max_iter=10,
        n_iter_no_change=np.inf,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, y)


def report(title, results, exact_norm):
    """A line for each estimator, least squared error per second first."""
    print(f"\n{title}; squared norm of the gradient {exact_norm:.1e}")
    print(
        f"{'estimator':<20}{'squared bias':>13}{'variance':>10}{'cosine':>8}"
        f"{'ms':>8}{'variance x s':>14}"
    )
    for name, r in sorted(
        results.items(), key=lambda item: item[1]["variance_seconds"]
    ):
        print(
            f"{name:<20}{r['squared_bias']:>13.1e}{r['variance']:>10.1e}"
            f"{r['cosine']:>8.3f}{1e3 * r['seconds']:>8.3f}"
            f"{r['variance_seconds']:>14.1e}"
        )


def main():
    """Train, compare, print; draw the second case on request."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", help="file for bias against variance")
    arguments = parser.parse_args()
    data = load_digits_split()
    X, y = data[4][: arguments.rows], data[5][: arguments.rows]
    for sizes, density in CASES:
        model = trained(sizes, density, data, arguments.seed)
        problem = GateProblem.from_network(model._ready(), X, y)
        results = compare_estimators(problem, None, arguments.draws, arguments.seed)
        exact = results["st"]["mean"] - results["st"]["bias"]
        title = f"{len(sizes)} layer{'s' * (len(sizes) > 1)}, density {density}"
        report(title, results, float((exact**2).sum(axis=1).mean()))
        if arguments.figure and (sizes, density) == CASES[1]:
            display = GradientEstimatorDisplay(results).plot()
            display.figure_.savefig(arguments.figure, dpi=120)


if __name__ == "__main__":
    main()
