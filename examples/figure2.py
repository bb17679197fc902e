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
not done again. A run that was stopped goes on from the state that it saved every few
epochs, with the results of one that was not. results.csv has a line for each run,
curves.png the learning curves (where matplotlib is installed): validation errors with
gates sampled as in training, as in the paper, and dotted those of the deterministic
network, which decide and which the table shows.

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
import pickle
import time
import warnings
from pathlib import Path

import joblib
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

#: Of each preset: what all models share, and each model's own; of all but "centered"
#: the estimator's parameters.
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
        # with momentum, says the text (App. A.4); the programs start at 0.5
        "sts": {"penalty_weight": 0.01, "noise": "beta", "momentum": 0.5},
        # the programs' factor 0.01, on a signal that they did not divide by 32 rows;
        # the curve, the noisiest of all, ends near 150 epochs
        "sbn": {
            "penalty_weight": 0.01,
            "gater_learning_rate_init": 0.032,
            "max_iter": 150,
            "learning_rate_decay": 0.99,
        },
        "sigmoid_noise": {"noise": "gaussian"},
        "sigmoid": {},
    },
    "best": {
        "all": {
            "max_iter": 60,
            "learning_rate_init": 0.05,
            "learning_rate_decay": 0.94,
            "momentum": 0.9,
            "max_norm": 4.0,
            "input_dropout": 0.3,
            "alpha": 0.0,
        },
        # their gaters learn at 10 and 5 times the rate
        "noisy_rectifier": {"learning_rate_init": 0.02, "input_dropout": 0.2},
        "rectifier": {
            "centered": True,
            "learning_rate_init": 0.02,
            "input_dropout": 0.3,
            "max_norm": 2.0,
            "averaging": 4.0,
            "density": 0.21,  # in training, with dropout: 0.10 without
            "max_iter": 40,
        },
        # p (1 - p) makes the gates' gradient small; the learning rate stays high, and
        # the average of the weights that it visits predicts; inputs less their mean are
        # learned faster than they overfit, if dropout and max-norm restrain them
        "st": {
            "centered": True,
            "sigmoid_derivative": True,
            "gater_learning_rate_init": 0.2,
            "learning_rate_decay": 0.98,
            "averaging": 4.0,
            "input_dropout": 0.4,
            "max_norm": 2.5,
            "penalty_weight": 0.003,
            "max_iter": 80,
        },
        "sts": {"input_dropout": 0.2},
        "sbn": {
            "centered": True,
            "estimator": "local_expectation",
            "gater_learning_rate_init": 0.4,
            "learning_rate_decay": 0.98,
            "averaging": 4.0,
            "input_dropout": 0.4,
            "max_norm": 2.5,
            "penalty_weight": 0.003,
        },
        "sigmoid_noise": {"noise": "gaussian", "noise_scale": 1.0},
        "sigmoid": {},
    },
}

#: Validation rows of the errors in noisy mode, which the paper's curves show.
NOISY_ROWS = 2000

#: Epochs between two saved states; a run that is stopped loses fewer than these.
EPOCHS_PER_STATE = 5


def make_model(name, preset, seed, epochs=None):
    """The estimator of one run."""
    settings = PRESETS[preset]
    own = {key: value for key, value in settings[name].items() if key != "centered"}
    dense = name.startswith("sigmoid")
    model = GatedMLPClassifier(
        gater="sigmoid" if dense else name,
        random_state=seed,
        n_jobs=1,
        **(PROTOCOL | (DENSE if dense else SPARSE) | settings["all"] | own),
    )
    return model.set_params(max_iter=epochs) if epochs else model


def centered(data):
    """The same rows less the mean of those to train on."""
    mean = data[0].mean(axis=0, dtype=float).astype(data[0].dtype)
    return tuple(part - mean if part.ndim == 2 else part for part in data)


def error(probability, y):
    """Classification error in %; classes are 0, 1, ..."""
    return float(100 * np.mean(probability.argmax(axis=1) != y))


def settings_of(model):
    """The estimator's parameters as JSON has them."""
    return {
        key: "inf" if value == np.inf else value
        for key, value in model.get_params().items()
    }


def train_epoch(model, epoch, schedule, data):
    """One more epoch of a warm model, at that epoch's learning rates."""
    factor = schedule["learning_rate_decay"] ** epoch
    rates = {"learning_rate_init": schedule["learning_rate_init"] * factor}
    if schedule["gater_learning_rate_init"] != "auto":  # else it follows
        rates["gater_learning_rate_init"] = (
            schedule["gater_learning_rate_init"] * factor
        )
    model.set_params(**rates)
    X, y, X_valid, y_valid, *_ = data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y, X_val=X_valid, y_val=y_valid)


def train(model, data, state_path, on_epoch=None):
    """Train a model epoch by epoch, going on from a saved state if there is one.

    Returns the network of the epoch with the lowest validation error, and the learning
    curves. `on_epoch` is called with the number of epochs done.
    """
    schedule, X_valid, y_valid = settings_of(model), data[2], data[3]
    state = load_state(state_path, schedule)
    if state is None:
        model.set_params(warm_start=True, max_iter=1, learning_rate_decay=1.0)
        names = ("loss", "valid", "noisy_valid", "density")
        state = {
            "schedule": schedule,
            "model": model,
            "best": None,
            "seconds": 0.0,
            "curves": {name: [] for name in names},
        }
    model, curves = state["model"], state["curves"]
    for epoch in range(len(curves["valid"]), schedule["max_iter"]):
        start = time.perf_counter()
        train_epoch(model, epoch, schedule, data)
        valid = 100 * (1 - model.best_validation_score_)
        if valid < min(curves["valid"], default=np.inf):
            state["best"] = pickle.dumps(model)
        sampled = model.sample_proba(X_valid[:NOISY_ROWS], 1, random_state=epoch)
        curves["loss"].append(model.loss_)
        curves["valid"].append(valid)
        curves["noisy_valid"].append(error(sampled, y_valid[:NOISY_ROWS]))
        curves["density"].append(model.training_density_[0])
        state["seconds"] += time.perf_counter() - start
        if (epoch + 1) % EPOCHS_PER_STATE == 0:
            save_state(state_path, state)
        if on_epoch is not None:
            on_epoch(epoch + 1)
    return pickle.loads(state["best"]), curves, state["seconds"]


def load_state(path, schedule):
    """A state saved with these settings, or None."""
    if not path.exists():
        return None
    state = joblib.load(path)
    return state if state["schedule"] == schedule else None


def save_state(path, state):
    """Write a state whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    joblib.dump(state, partial)
    partial.replace(path)


def run(model, data, state_path):
    """Train one model and return what is kept of it."""
    X_valid, y_valid, X_test, y_test = data[2:]
    settings = settings_of(model)
    best, curves, seconds = train(model, data, state_path)
    noisy = best.sample_proba(X_valid[:NOISY_ROWS], n_draws=1, random_state=0)
    probability = best.predict_proba(X_test)
    gates = best.gates(X_test)
    return best, {
        "epochs": len(curves["valid"]),
        "best_epoch": int(np.argmin(curves["valid"])) + 1,
        "train_criterion": min(curves["loss"]),
        "valid_error": min(curves["valid"]),
        "test_error": error(probability, y_test),
        "noisy_valid_error": error(noisy, y_valid[:NOISY_ROWS]),
        "density": float((gates != 0).mean()),
        "training_density": curves["density"][-1],
        "seconds": seconds,
        **{f"{name}_curve": curve for name, curve in curves.items()},
        "settings": settings,
        "rows": [len(part) for part in data[::2]],
        "versions": {
            "stochnet": stochnet.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }


def record_path(output, name, preset, seed):
    """The file of one run."""
    return output / f"{preset}-{name}-{seed}.json"


def is_done(path, now):
    """Whether a run's file is there; raises if it was not done with settings `now`."""
    if not path.exists():
        return False
    before = json.loads(path.read_text())["settings"]
    changed = [key for key in now if key in before and before[key] != now[key]]
    if changed:
        raise SystemExit(
            f"{path} was run with another {', '.join(changed)}. Remove it to run it "
            "again, or choose another --output."
        )
    return True


def write_record(path, record):
    """Write a record whole or not at all."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(path)


def run_once(name, preset, seed, data, epochs, output):
    """Do a run whose file is not there."""
    path = record_path(output, name, preset, seed)
    model = make_model(name, preset, seed, epochs)
    is_centered = PRESETS[preset][name].get("centered", False)
    settings = settings_of(model) | {"centered": is_centered}
    if is_done(path, settings):
        return
    state_path = output / "state" / f"{path.stem}.joblib"
    _, record = run(model, centered(data) if is_centered else data, state_path)
    record = {"model": name, "preset": preset, "seed": seed} | record
    record["settings"] = settings
    write_record(path, record)
    state_path.unlink(missing_ok=True)
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
    partial = output / f"results.{os.getpid()}.partial"  # other jobs write it, too
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(found)
    partial.replace(output / "results.csv")


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
        for i, name in enumerate(models):
            mine = [r for r in found if (r["preset"], r["model"]) == (preset, name)]
            title = MODELS[name][0]
            for key, style in (("noisy_valid_curve", "-"), ("valid_curve", ":")):
                curves = [r[key] for r in mine if key in r]
                if not curves:
                    continue
                shortest = min(map(len, curves))
                mean = np.mean([curve[:shortest] for curve in curves], axis=0)
                label, title = title, None  # once for a model
                epochs = np.arange(1, shortest + 1)
                ax.plot(epochs, mean, style, color=f"C{i}", label=label)
        ax.set(title=f"preset {preset}", xlabel="epoch", yscale="log")
    axes[0].set_ylabel("validation error (%)")
    axes[-1].legend(fontsize="small")
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
