"""All gaters and baselines on scikit-learn's digits: training criterion, errors,
density of the gates, and how much of the experts' work was skipped.

    python examples/digits.py
"""

import argparse
import time
import warnings

from sklearn.exceptions import ConvergenceWarning

from stochnet import GatedMLPClassifier
from stochnet.datasets import load_digits_split
from stochnet.gaters import ESTIMATORS, GATERS

HEADER = (
    f"{'gater':<16}{'training':>10}{'valid.':>8}{'test':>7}{'density in':>12}"
    f"{'at pre-':>9}{'skipped in':>12}{'at pre-':>9}{'seconds':>9}\n"
    f"{'':<16}{'criterion':>10}{'err. %':>8}{'err. %':>7}{'training':>12}"
    f"{'diction':>9}{'training':>12}{'diction':>9}{'':>9}"
)


def skipped_in_training(gater, density):
    """Share of the experts' forward and gradient work that training leaves out."""
    dense_forward = ESTIMATORS[GATERS[gater].estimator]["credit"] == "all"
    forward = 0.0 if dense_forward else 1 - density
    return (forward + 1 - density) / 2


def main():
    """Train each gater and print one line for it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--experts", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # epochs are given
    X, y, X_valid, y_valid, X_test, y_test = load_digits_split()
    print(HEADER)
    for gater in GATERS:
        start = time.perf_counter()
        model = GatedMLPClassifier(
            arguments.experts,
            gater,
            max_iter=arguments.epochs,
            early_stopping=True,
            n_iter_no_change=20,
            random_state=arguments.seed,
        ).fit(X, y, X_val=X_valid, y_val=y_valid)
        seconds = time.perf_counter() - start
        density, training = model.density_[0], model.training_density_[0]
        print(
            f"{gater:<16}{model.loss_:>10.2e}"
            f"{100 * (1 - model.score(X_valid, y_valid)):>8.2f}"
            f"{100 * (1 - model.score(X_test, y_test)):>7.2f}"
            f"{training:>12.3f}{density:>9.3f}"
            f"{skipped_in_training(gater, training):>12.1%}{1 - density:>9.1%}"
            f"{seconds:>9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
