"""The defaults beside `MLPClassifier(max_iter=500)`: accuracy in cross-validation with
five folds, the same for both, on four data sets that scikit-learn bundles.

    python examples/defaults.py
"""

import argparse
import warnings

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stochnet import GatedMLPClassifier

DATASETS = {
    "digits": load_digits,
    "breast_cancer": load_breast_cancer,
    "wine": load_wine,
    "iris": load_iris,
}


def accuracy(model, X, y, seed):
    """Mean accuracy in % over the folds of a seed."""
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    pipeline = make_pipeline(StandardScaler(), model)
    return 100 * cross_val_score(pipeline, X, y, cv=folds).mean()


def main():
    """Print one line for each data set and one for the mean."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--gater", default="st")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(f"{'data set':<16}{'MLPClassifier':>16}{'stochnet':>16}{'difference':>16}")
    differences = []
    for name, load in DATASETS.items():
        X, y = load(return_X_y=True)
        dense, gated = [], []
        for seed in range(arguments.seeds):
            reference = MLPClassifier(max_iter=500, random_state=seed)
            model = GatedMLPClassifier(gater=arguments.gater, random_state=seed)
            dense.append(accuracy(reference, X, y, seed))
            gated.append(accuracy(model, X, y, seed))
        differences.append(np.mean(gated) - np.mean(dense))
        cells = (dense, gated, np.subtract(gated, dense))
        print(
            f"{name:<16}"
            + "".join(f"{f'{np.mean(c):.2f} +- {np.std(c):.2f}':>16}" for c in cells),
            flush=True,
        )
    print(f"{'mean':<48}{np.mean(differences):>+16.2f}")


if __name__ == "__main__":
    main()
