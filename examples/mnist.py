"""The paper's architecture on MNIST: 784 inputs, a gater of 400 tanh units, 2000
experts, 10 classes; 50000 rows to train on, 10000 for validation, 10000 for testing.

    python examples/mnist.py --data FOLDER           # one row for each of its gaters
    python examples/mnist.py --data FOLDER --study   # does the gater earn its keep?

FOLDER holds the four IDX files, compressed or not; without --data they come from
OpenML. The study trains on 10000 rows with several seeds and compares each stochastic
gater with the same network whose gater is left as it was drawn, and with the trained
network in which every row gets the experts that are used most often overall.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from stochnet import GatedMLPClassifier
from stochnet.datasets import load_mnist
from stochnet.gaters import GATERS

PAPERS = [name for name, gater in GATERS.items() if gater.paper]
STOCHASTIC = [name for name in PAPERS if not GATERS[name].baseline]

PAPER = {
    "hidden_layer_sizes": 2000,
    "gater_hidden_size": 400,
    "density": 0.1,
    "batch_size": 32,
    "learning_rate_decay": 0.9,
    "n_iter_no_change": np.inf,
}


def error(model, X, y):
    """Classification error in %."""
    return 100 * (1 - model.score(X, y))


def density(model, X):
    """Share of non-zero gates; share of units that fire on 1% to 50% of the rows."""
    fired = np.asarray((model.gates(X) != 0).mean(axis=0)).ravel()
    return fired.mean(), np.mean((fired >= 0.01) & (fired <= 0.5))


def constant_gates_error(model, X, y):
    """Error in % where every row gets the experts that are used most often overall."""
    gates = model.gates(X)
    fired = np.asarray((gates != 0).mean(axis=0)).ravel()
    mean = np.asarray(gates.sum(axis=0)).ravel() / np.maximum(fired * len(X), 1)
    rare = np.argsort(fired)[: round((1 - model.density) * len(fired))]
    mean[rare] = 0
    (W, V), (b, c) = model.coefs_, model.intercepts_
    logits = ((X @ W + b) * mean) @ V + c
    return 100 * np.mean(model.classes_[logits.argmax(axis=1)] != y)


def table(data, epochs, seed, firing_rate_step):
    """Train every gater of the paper and print a row for each."""
    X, y, X_test, y_test = data
    X, X_valid, y, y_valid = X[:50000], X[50000:], y[:50000], y[50000:]
    print(
        f"{'gater':<16}{'train':>9}{'valid %':>9}{'test %':>8}"
        f"{'density, epochs 3 on':>22}{'at prediction':>15}{'live units':>12}"
        f"{'seconds':>9}"
    )
    for gater in PAPERS:
        start = time.perf_counter()
        model = GatedMLPClassifier(
            gater=gater,
            max_iter=epochs,
            random_state=seed,
            firing_rate_step=firing_rate_step,
            **PAPER,
        )
        if gater == "sigmoid":
            # dense, with the same cost as 10% of 2000 experts (Sec. 5)
            model.set_params(hidden_layer_sizes=200, gater_hidden_size=200)
        model.fit(X, y)
        seconds = time.perf_counter() - start
        fired, live = density(model, X_test)
        late = [layers[0] for layers in model.density_curve_[2:]] or [np.nan]
        print(
            f"{gater:<16}{model.loss_:>9.1e}{error(model, X_valid, y_valid):>9.2f}"
            f"{error(model, X_test, y_test):>8.2f}"
            f"{f'{min(late):.3f} to {max(late):.3f}':>22}"
            f"{fired:>15.3f}{live:>12.1%}{seconds:>9.0f}",
            flush=True,
        )


def study(data, epochs, seeds):
    """Compare trained gaters with frozen ones and with constant gates."""
    X, y, X_test, y_test = data
    X, y = X[:10000], y[:10000]
    print(
        f"{'gater':<16}{'trained %':>16}{'frozen %':>16}{'difference':>16}"
        f"{'constant gates %':>20}"
    )
    for gater in STOCHASTIC:
        errors = []
        for seed in range(seeds):
            model = GatedMLPClassifier(
                gater=gater,
                max_iter=epochs,
                random_state=seed,
                **PAPER,
            ).fit(X, y)
            frozen = GatedMLPClassifier(**model.get_params()).set_params(
                gater_learning_rate_init=0.0, firing_rate_step=0.0
            )
            frozen.fit(X, y)
            errors.append(
                (
                    error(model, X_test, y_test),
                    error(frozen, X_test, y_test),
                    constant_gates_error(model, X_test, y_test),
                )
            )
        trained, frozen, constant = np.array(errors).T
        cells = (trained, frozen, frozen - trained, constant)
        print(
            f"{gater:<16}"
            + "".join(
                f"{f'{c.mean():.2f} +- {c.std(ddof=1) / np.sqrt(len(c)):.2f}':>16}"
                for c in cells
            ),
            flush=True,
        )


def main():
    """Read the data and run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", help="folder with MNIST's IDX files")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=5, help="of the study")
    parser.add_argument("--seed", type=int, default=0, help="of the table")
    parser.add_argument(
        "--firing-rate-step",
        type=float,
        default=0.02,
        help="of the table; 0.2 keeps the density in training at the target",
    )
    parser.add_argument("--study", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    data = load_mnist(arguments.data)
    if arguments.study:
        study(data, arguments.epochs, arguments.seeds)
    else:
        table(data, arguments.epochs, arguments.seed, arguments.firing_rate_step)


if __name__ == "__main__":
    main()
