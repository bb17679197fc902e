"""Figure 2 of Bengio, Léonard & Courville (2013): seven gaters on MNIST.

    python examples/figure2.py --data FOLDER                  # both presets, 3 seeds
    python examples/figure2.py --data FOLDER --preset best --models st --epochs 60
    python examples/figure2.py                                # digits, a minute

FOLDER holds MNIST's four IDX files; "openml" downloads them. Without --data the same is
done on scikit-learn's digits. The network is the paper's: 784 inputs, a gater of 400
tanh units, 2000 experts of which 10% are computed, 10 classes; the two sigmoid
baselines are dense and 200 wide. 50000 rows are trained on, 10000 decide which epoch's
network is kept, 10000 are tested once, with that network.

Each run, one model with one seed, is a JSON file in --output with settings, learning
curves and versions: it is written when the run ends, and a run whose file is there is
not done again. results.csv has a line for each run, curves.png the learning curves
(where matplotlib is installed).

Preset "paper" follows the text: learning rates 0.1 with a factor on the gater's, decay
by a constant each epoch, s = 0.1, max-norm 2, KL or L1 to hold the density, Beta noise
for STS. Where the text is silent, the settings of the authors' programs are taken.
Preset "best" keeps architecture, density and data. What it changes was found by errors
on the validation rows.
"""

import argparse
import csv
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning

import stochnet
from stochnet import GatedMLPClassifier
from stochnet.datasets import load_digits_split, load_mnist

#: Title, and what the paper reports: criterion in training, validation and test error.
MODELS = {
    "noisy_rectifier": ("noisy rectifier", 6.7e-4, 1.52, 1.87),
    "st": ("straight-through", 3.3e-3, 1.42, 1.39),
    "sts": ("STS", 4.4e-3, 1.86, 1.96),
    "sbn": ("stochastic binary neuron", 9.9e-3, 1.78, 1.89),
    "rectifier": ("baseline rectifier", 6.3e-5, 1.66, 1.60),
    "sigmoid_noise": ("baseline sigmoid + noise", 1.8e-3, 1.88, 1.87),
    "sigmoid": ("baseline sigmoid", 3.2e-3, 1.97, 1.92),
}

SPARSE = {"hidden_layer_sizes": 2000, "gater_hidden_size": 400, "density": 0.1}
DENSE = {"hidden_layer_sizes": 200, "gater_hidden_size": 200}
PROTOCOL = {
    "batch_size": 32,
    "learning_rate_init": 0.1,
    "early_stopping": True,
    "n_iter_no_change": np.inf,
}

#: Of each preset: what all models share, and each model's own.
PRESETS = {
    "paper": {
        "all": {
            "max_iter": 50,
            "learning_rate_decay": 0.96,
            "initialization": "authors",
            "alpha": 0.0,
            "max_norm": 2.0,
            "firing_rate_step": 0.0,
        },
        # the rectifiers' weight of L1 is moved until 10% of the gates fire
        "noisy_rectifier": {"adaptive_penalty": True, "penalty_weight": 1e-5},
        "rectifier": {"adaptive_penalty": True, "penalty_weight": 1e-5},
        "st": {"penalty_weight": 0.01},
        "sts": {"penalty_weight": 0.01, "noise": "beta"},
        "sbn": {"penalty_weight": 0.01},
        "sigmoid_noise": {"noise": "gaussian"},
        "sigmoid": {},
    },
    "best": {
        "all": {
            "max_iter": 60,
            "learning_rate_decay": 0.95,
            "input_dropout": 0.2,
            "alpha": 0.0,
        },
        "noisy_rectifier": {},
        "rectifier": {},
        "st": {},
        "sts": {},
        "sbn": {},
        "sigmoid_noise": {"noise": "gaussian", "noise_scale": 1.0},
        "sigmoid": {},
    },
}

#: Draws of the gates for errors in noisy mode, which the paper's curves show.
NOISY_ROWS = 2000


def make_model(name, preset, seed, epochs=None):
    """The estimator of one run."""
    settings = PRESETS[preset]
    dense = name.startswith("sigmoid")
    model = GatedMLPClassifier(
        gater="sigmoid" if dense else name,
        random_state=seed,
        n_jobs=1,
        **(PROTOCOL | (DENSE if dense else SPARSE) | settings["all"] | settings[name]),
    )
    return model.set_params(max_iter=epochs) if epochs else model


def error(probability, y):
    """Classification error in %; classes are 0, 1, ..."""
    return float(100 * np.mean(probability.argmax(axis=1) != y))


def run(name, preset, seed, data, epochs):
    """Train one model and return its record."""
    X, y, X_valid, y_valid, X_test, y_test = data
    model = make_model(name, preset, seed, epochs)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y, X_val=X_valid, y_val=y_valid)
    seconds = time.perf_counter() - start
    noisy = model.sample_proba(X_valid[:NOISY_ROWS], n_draws=1, random_state=0)
    probability = model.predict_proba(X_test)
    gates = model.gates(X_test)
    return {
        "model": name,
        "preset": preset,
        "seed": seed,
        "epochs": model.n_iter_,
        "best_epoch": int(np.argmax(model.validation_scores_)) + 1,
        "train_criterion": min(model.loss_curve_),
        "valid_error": 100 * (1 - model.best_validation_score_),
        "test_error": error(probability, y_test),
        "noisy_valid_error": error(noisy, y_valid[:NOISY_ROWS]),
        "density": float((gates != 0).mean()),
        "training_density": model.density_curve_[-1][0],
        "seconds": seconds,
        "loss_curve": model.loss_curve_,
        "valid_curve": [100 * (1 - s) for s in model.validation_scores_],
        "density_curve": [layers[0] for layers in model.density_curve_],
        "settings": {
            key: "inf" if value == np.inf else value
            for key, value in model.get_params().items()
        },
        "rows": [len(X), len(X_valid), len(X_test)],
        "versions": {
            "stochnet": stochnet.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }


def record_path(output, name, preset, seed):
    """The file of one run."""
    return output / f"{preset}-{name}-{seed}.json"


def run_once(name, preset, seed, data, epochs, output):
    """Do a run whose file is not there, and write it whole or not at all."""
    path = record_path(output, name, preset, seed)
    if path.exists():
        return
    record = run(name, preset, seed, data, epochs)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(path)
    write_csv(output)
    print(
        f"{preset:<6} {name:<16} seed {seed}: valid {record['valid_error']:.2f}, "
        f"test {record['test_error']:.2f}, density {record['density']:.3f}, "
        f"{record['seconds']:.0f} s",
        flush=True,
    )


def records(output):
    """All finished runs, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(output.glob("*-*.json"))]


def write_csv(output):
    """A line for each finished run."""
    found = records(output)
    columns = [
        key
        for key, value in (found[0] if found else {}).items()
        if not isinstance(value, list | dict)
    ]
    with (output / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(found)


def print_table(output, presets, models):
    """Mean and standard deviation over seeds beside the paper's numbers."""
    found = records(output)
    print(
        f"\n{'preset':<7}{'model':<26}{'seeds':>6}{'epochs':>7}{'train':>9}"
        f"{'valid %':>14}{'test %':>14}{'density':>9}   paper: train, valid, test"
    )
    for preset in presets:
        for name in models:
            mine = [r for r in found if (r["preset"], r["model"]) == (preset, name)]
            if not mine:
                continue
            title, *paper = MODELS[name]

            def cell(key, mine=mine):
                values = [r[key] for r in mine]
                return (
                    f"{np.mean(values):.2f} +- {np.std(values, ddof=1):.2f}"
                    if len(values) > 1
                    else f"{values[0]:.2f}"
                )

            print(
                f"{preset:<7}{title:<26}{len(mine):>6}"
                f"{np.mean([r['epochs'] for r in mine]):>7.0f}"
                f"{np.mean([r['train_criterion'] for r in mine]):>9.1e}"
                f"{cell('valid_error'):>14}{cell('test_error'):>14}"
                f"{np.mean([r['density'] for r in mine]):>9.3f}"
                f"   {paper[0]:.1e} {paper[1]:.2f} {paper[2]:.2f}"
            )


def draw_curves(output, presets, models):
    """Validation errors by epoch, as in the left panel of the figure."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("Install matplotlib to draw the learning curves.")
        return
    figure = Figure(figsize=(5 * len(presets), 4), layout="constrained")
    axes = figure.subplots(1, len(presets), squeeze=False, sharey=True)[0]
    found = records(output)
    for ax, preset in zip(axes, presets, strict=True):
        for name in models:
            curves = [
                r["valid_curve"]
                for r in found
                if (r["preset"], r["model"]) == (preset, name)
            ]
            if curves:
                shortest = min(map(len, curves))
                mean = np.mean([curve[:shortest] for curve in curves], axis=0)
                ax.plot(np.arange(1, shortest + 1), mean, label=MODELS[name][0])
        ax.set(title=f"preset {preset}", xlabel="epoch", yscale="log")
    axes[0].set_ylabel("validation error (%)")
    axes[0].legend(fontsize="small")
    figure.savefig(output / "curves.png", dpi=120)


def load(source):
    """X, y of training, validation and test, and whether it is MNIST."""
    if source is None:
        return load_digits_split()
    X, y, X_test, y_test = load_mnist(None if source == "openml" else source)
    return X[:50000], y[:50000], X[50000:], y[50000:], X_test, y_test


def main(arguments=None):
    """Do what is not done yet, then the table and the curves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", help="folder with MNIST's IDX files, or openml")
    parser.add_argument("--output", type=Path, help="folder for results")
    parser.add_argument("--preset", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--epochs", type=int, help="in place of the preset's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options = parser.parse_args(arguments)
    output = options.output
    if output is None:
        kept = Path(__file__).parent / "figure2"
        output = kept if options.data else Path("figure2-digits")
    if options.data is None and options.epochs is None:
        options.epochs = 20
    output.mkdir(parents=True, exist_ok=True)
    data = load(options.data)
    runs = [
        (name, preset, seed)
        for seed in range(options.seeds)
        for preset in options.preset
        for name in options.models
    ]
    Parallel(n_jobs=options.jobs)(
        delayed(run_once)(*which, data, options.epochs, output) for which in runs
    )
    write_csv(output)
    print_table(output, options.preset, options.models)
    draw_curves(output, options.preset, options.models)


if __name__ == "__main__":
    main()
