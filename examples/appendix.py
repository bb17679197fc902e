"""The appendix of Bengio, Léonard & Courville (2013): what its authors compared.

    python examples/appendix.py --data FOLDER --epochs 5
    python examples/appendix.py --data FOLDER --study noise --seeds 3
    python examples/appendix.py                                # digits

Each study changes one thing in preset "paper" of figure2.py, which has the network, the
data and the rules: a run is a JSON file in --output that is not done again, a stopped
run goes on from its saved state, and validation errors alone are compared.

study       section  what changes
----------  -------  -----------------------------------------------------------------
noise       A.2      noise on the gates of STS: none, Beta over the grid of beta,
                     Gaussian, both
deviation   A.4      deviation of the noisy rectifier's noise; 0 is the baseline
rate        A.4      factor of the learning rate of the stochastic binary neuron's gater
momentum    A.4      0 and 0.5, in main path and gater, for each stochastic gater
st          A.4      straight-through with and without the sigmoid's derivative, with
                     credit for all gates and for those that fired
max_norm    A.4      limit of the norm of incoming weights, for each stochastic gater
programs    -        one by one, what the programs of the paper's authors did otherwise
                     than its text, or where it is silent

Each record has a histogram of the probabilities sigm(a) of the deterministic network,
noise replaced by its mean, on validation rows. Units that decide have p > 0.5 on about
10% of the rows (A.2); undecided ones stay near 0.1. Rectifiers have no probability.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from figure2 import (
    NOISY_ROWS,
    is_done,
    load,
    make_model,
    run,
    settings_of,
    write_record,
)
from joblib import Parallel, delayed
from scipy import special  # a ufunc of a script cannot be pickled for other jobs

STOCHASTIC = ("noisy_rectifier", "sts", "sbn", "st")
#: Of all studies, which are too short for the decay of the longer runs of some models.
SCHEDULE = {"learning_rate_decay": 0.96}

BETAS = (1.1, 2.6, 5.1, 10.1, 20.1, 40.1, 80.1, 160.1)
BINS = 20

#: Variants of each study: title, model of figure2.py, changes.
STUDIES = {
    "noise": [
        ("none", "sts", {"noise": None}),
        *((f"beta {b}", "sts", {"noise": "beta", "noise_beta": b}) for b in BETAS),
        ("gaussian", "sts", {"noise": "gaussian"}),
        *(
            (f"beta {b}+gaussian", "sts", {"noise": "beta+gaussian", "noise_beta": b})
            for b in BETAS
        ),
    ],
    "deviation": [
        ("0", "rectifier", {}),
        *((str(d), "noisy_rectifier", {"noise_scale": d}) for d in (0.5, 1.0, 2.0)),
    ],
    "rate": [
        (str(factor), "sbn", {"gater_learning_rate_init": 0.1 * factor})
        for factor in (1.0, 0.3, 0.1, 0.01, 0.001)
    ],
    "momentum": [
        (f"{name} {m}", name, {"momentum": m, "gater_momentum": m})
        for name in STOCHASTIC
        for m in (0.0, 0.5)
    ],
    "st": [
        (
            f"{credit}{', derivative' if derivative else ''}",
            "st",
            {"credit": credit, "sigmoid_derivative": derivative},
        )
        for credit in ("all", "active")
        for derivative in (False, True)
    ],
    "max_norm": [
        (f"{name} {limit}", name, {"max_norm": limit})
        for name in STOCHASTIC
        for limit in (1.0, 2.0, 4.0, None)
    ],
    "programs": [
        ("st", "st", {}),
        ("st, norm 2.1", "st", {"max_norm": 2.1}),
        ("st, Glorot", "st", {"initialization": "glorot"}),
        ("st, decay 0.998", "st", {"learning_rate_decay": 0.998}),
        ("st, factor 0.1", "st", {"gater_learning_rate_init": 0.01}),
        ("sts", "sts", {}),
        ("sts, KL 0.001", "sts", {"penalty_weight": 0.001}),
        ("sts, noise on the draw", "sts", {"noise_on": "draw"}),
        ("sts, no momentum", "sts", {"momentum": 0.0}),
        # a factor 0.01 on a signal that was not divided by the 32 rows
        ("sbn, factor 0.32", "sbn", {}),
        ("sbn, factor 1", "sbn", {"gater_learning_rate_init": 0.1}),
        ("noisy rectifier", "noisy_rectifier", {}),
        ("noisy rectifier, fixed L1", "noisy_rectifier", {"adaptive_penalty": False}),
        ("sigmoid, noise 1", "sigmoid_noise", {}),
        ("sigmoid, noise 7", "sigmoid_noise", {"noise_scale": 7.0}),
    ],
}


def histogram(model, X):
    """Shares of sigm(a) in equal bins of [0, 1], and of those above 0.5, or None."""
    if "rectifier" in model.gater:
        return None
    # what prediction compares with its threshold; the public gates are zero below it
    p = special.expit(model._network.predictor.scores(0, X))
    counts, _ = np.histogram(p, bins=BINS, range=(0, 1))
    return {
        "shares": (counts / p.size).tolist(),
        "above_half": float((p > 0.5).mean()),
    }


def record_path(output, study, title, seed):
    """The file of one run."""
    title = title.replace(" ", "_").replace(",", "").replace("+", "_and_")
    return output / f"{study}-{title}-{seed}.json"


def run_once(study, variant, seed, data, epochs, output):
    """Do a run whose file is not there."""
    title, name, changes = variant
    path = record_path(output, study, title, seed)
    model = make_model(name, "paper", seed, epochs).set_params(**SCHEDULE | changes)
    if is_done(path, settings_of(model)):
        return
    state_path = output / "state" / f"{path.stem}.joblib"
    best, record = run(model, data, state_path)
    of_run = {"study": study, "variant": title, "model": name, "seed": seed}
    probabilities = {"gate_probabilities": histogram(best, data[2][:NOISY_ROWS])}
    write_record(path, of_run | record | probabilities)
    state_path.unlink(missing_ok=True)
    print(f"{study:<10} {title:<24} seed {seed}: valid {record['valid_error']:.2f}")


def records(output, study, title):
    """Finished runs of one variant, of any seed."""
    pattern = record_path(output, study, title, "*").name
    return [json.loads(path.read_text()) for path in sorted(output.glob(pattern))]


def print_table(output, studies):
    """Mean over seeds for each variant."""
    print(
        f"\n{'study':<11}{'variant':<24}{'seeds':>6}{'train':>9}{'valid %':>9}"
        f"{'noisy %':>9}{'density in training':>21}{'p > 0.5':>9}"
    )
    for study in studies:
        for title, *_ in STUDIES[study]:
            found = records(output, study, title)
            if not found:
                continue
            mean = {
                key: np.mean([record[key] for record in found])
                for key in (
                    "train_criterion",
                    "valid_error",
                    "noisy_valid_error",
                    "training_density",
                )
            }
            above = [
                r["gate_probabilities"]["above_half"]
                for r in found
                if r["gate_probabilities"]
            ]
            print(
                f"{study:<11}{title:<24}{len(found):>6}"
                f"{mean['train_criterion']:>9.1e}{mean['valid_error']:>9.2f}"
                f"{mean['noisy_valid_error']:>9.2f}{mean['training_density']:>21.3f}"
                f"{f'{np.mean(above):.1%}' if above else '':>9}"
            )


def draw_histograms(output):
    """Gate probabilities of STS under each noise of Appendix A.2."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("Install matplotlib to draw the histograms.")
        return
    found = [(t, records(output, "noise", t)) for t, *_ in STUDIES["noise"]]
    found = [(title, runs) for title, runs in found if runs]
    if not found:
        return
    n_rows = -(-len(found) // 3)
    figure = Figure(figsize=(9, 2 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, 3, squeeze=False, sharex=True, sharey=True)
    edges = np.linspace(0, 1, BINS + 1)
    for ax, (title, runs) in zip(axes.flat, found, strict=False):
        shares = np.mean([r["gate_probabilities"]["shares"] for r in runs], axis=0)
        ax.stairs(shares, edges, fill=True)
        ax.axvline(0.5, color="black", linewidth=0.5)
        ax.set(yscale="log")
        ax.set_title(title, fontsize="small")
    figure.supxlabel("gate probability sigm(a)")
    figure.supylabel("share of gates")
    figure.savefig(output / "gates.png", dpi=120)


def main(arguments=None):
    """Do what is not done yet, then the tables and the histograms."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", help="folder with MNIST's IDX files, or openml")
    parser.add_argument("--output", type=Path, help="folder for results")
    parser.add_argument("--study", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options = parser.parse_args(arguments)
    output = options.output
    if output is None:
        kept = Path(__file__).parent / "appendix"
        output = kept if options.data else Path("appendix-digits")
    output.mkdir(parents=True, exist_ok=True)
    data = load(options.data)
    Parallel(n_jobs=options.jobs)(
        delayed(run_once)(study, variant, seed, data, options.epochs, output)
        for seed in range(options.seeds)
        for study in options.study
        for variant in STUDIES[study]
    )
    print_table(output, options.study)
    draw_histograms(output)


if __name__ == "__main__":
    main()
