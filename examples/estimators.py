"""Which estimator of the gates' gradient is best: bias, variance, cost.

    python examples/estimators.py [--output FILE]

Networks whose last layer has 16 gates, each of 16 experts, are trained on digits, and
every estimator is compared with the exact gradient, from the enumeration of all 65536
configurations of the gates, on test rows: at three densities, and with one layer below.
Gates that have a density are compared on 3 of the 16. Then costs are measured for 4 to
512 gates: perturbing one gate after the other is of order N^2, all others of order N.
"""

import argparse
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from stochnet import GatedMLPClassifier
from stochnet.datasets import load_digits_split
from stochnet.diagnostics import (
    ESTIMATORS,
    GateProblem,
    GradientEstimatorDisplay,
    compare_estimators,
    estimation_cost,
)

# Hidden layers and density.
CASES = [((256,), density) for density in (0.1, 0.3, 0.5)]
CASES += [((256, 256), density) for density in (0.1, 0.3, 0.5)]
PLOTTED = CASES[1]

#: Estimators of the losses of gates that have a density.
CONTINUOUS = ["noisy_rectifier", "concrete_relaxed", "hard_concrete"]

COSTS = ["st", "reinforce", "spsa", "node_perturbation", "local_expectation"]
COSTS += ["finite_differences"]
N_GATES = (4, 8, 16, 32, 64, 128, 256, 512)
# Slopes are those of the largest sizes: below, what a call costs anyway shows.
N_FITTED = 4


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


def report(title, results):
    """A line for each estimator, least squared error per second first."""
    print(f"\n{title}")
    print(
        f"{'estimator':<24}{'gradient^2':>11}{'bias^2':>9}{'variance':>10}{'cosine':>8}"
        f"{'ms':>8}{'variance x s':>14}{'losses':>8}"
    )
    for name, r in sorted(
        results.items(), key=lambda item: item[1]["variance_seconds"]
    ):
        norm = ((r["mean"] - r["bias"]) ** 2).sum(axis=1).mean()
        bias = f"{r['squared_bias']:.1e}" if r["squared_bias"] > 0 else "unseen"
        bias = "none" if ESTIMATORS[name].unbiased else bias
        print(
            f"{name:<24}{norm:>11.1e}{bias:>9}{r['variance']:>10.1e}"
            f"{r['cosine']:>8.3f}{1e3 * r['seconds']:>8.3f}"
            f"{r['variance_seconds']:>14.1e}{r['loss_evaluations']:>8.1f}"
        )


def comparisons(data, n_rows, n_draws, seed):
    """Title -> results for each of `CASES`, printed as they come."""
    X, y = data[4][:n_rows], data[5][:n_rows]
    found = {}
    for sizes, density in CASES:
        model = trained(sizes, density, data, seed)
        problem = GateProblem.from_estimator(model, X, y)
        title = f"{len(sizes)} layer{'s' * (len(sizes) > 1)}, density {density}"
        found[title] = compare_estimators(problem, None, n_draws, seed)
        report(title, found[title])
        if (sizes, density) == PLOTTED:
            few = problem.restrict([0, 1, 2])
            results = compare_estimators(few, CONTINUOUS, n_draws, seed)
            report(f"{title}, 3 of the gates, each of its own expected loss", results)
    return found


def random_problem(n_gates, n_rows, seed, n_classes=2):
    """Logits of order one, whatever the number of gates.

    Two classes, so that a loss costs little beside what its gates cost.
    """
    rng = np.random.default_rng(seed)
    return GateProblem(
        a=rng.normal(-1, 1, (n_rows, n_gates)),
        base=rng.normal(size=(n_rows, n_classes)),
        contribution=rng.normal(size=(n_rows, n_gates, n_classes)) / np.sqrt(n_gates),
        target=rng.integers(n_classes, size=n_rows),
    )


def order(values):
    """Slope of log value over log number of gates, for the largest sizes."""
    sizes, values = np.log(N_GATES[-N_FITTED:]), np.log(values[-N_FITTED:])
    return round(np.polyfit(sizes, values, 1)[0], 2) + 0.0  # no minus in front of 0


def costs(n_rows, seed):
    """Print and return what an estimate costs: name -> cost -> values over N_GATES."""
    measured = [
        estimation_cost(random_problem(n, n_rows, seed), COSTS, random_state=seed)
        for n in N_GATES
    ]
    found = {}
    for key, title, factor in (
        ("seconds", f"microseconds for an estimate of {n_rows} rows", 1e6),
        ("loss_evaluations", "losses for an estimate of a row", 1),
        ("gate_contributions", "contributions of gates that these read", 1),
    ):
        print(f"\n{title}, N gates; slope in log-log from N = {N_GATES[-N_FITTED]} on")
        print(f"{'estimator':<24}", *(f"{n:>8}" for n in N_GATES), f"{'slope':>7}")
        for name in COSTS:
            values = [of[name][key] for of in measured]
            found.setdefault(name, {})[key] = values
            numbers = (f"{factor * value:>8.0f}" for value in values)
            print(f"{name:<24}", *numbers, f"{order(values):>7.2f}")
    return found


def draw(output, found, of_costs):
    """Bias against variance, variance over densities, time over numbers of gates."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(18, 5.5), layout="constrained")
    GradientEstimatorDisplay(list(found.values())[CASES.index(PLOTTED)]).plot(axes[0])
    axes[0].set_title(list(found)[CASES.index(PLOTTED)])
    for name in (
        "st",
        "st_derivative",
        "reinforce_unit",
        "disarm",
        "local_expectation",
    ):
        for n_layers, style in ((1, "o-"), (2, "s--")):
            cases = [
                (density, results[name]["variance"])
                for (sizes, density), results in zip(CASES, found.values(), strict=True)
                if len(sizes) == n_layers
            ]
            color = axes[1].lines[-1].get_color() if n_layers == 2 else None
            label = name if n_layers == 1 else None
            axes[1].plot(*zip(*cases, strict=True), style, color=color, label=label)
    axes[1].set(yscale="log", xlabel="density", ylabel="variance")
    axes[1].set_title("one layer (full) and two (dashed)")
    for name, cost in of_costs.items():
        label = f"{name}, slope {order(cost['seconds']):.2f}"
        axes[2].plot(N_GATES, cost["seconds"], "o-", label=label)
    axes[2].set(xscale="log", yscale="log", xlabel="gates", ylabel="seconds")
    for ax in axes[1:]:
        ax.legend(fontsize="small")
    figure.savefig(output, dpi=120)


def main():
    """Train, compare, time, print; draw on request."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="file for a figure; needs matplotlib")
    arguments = parser.parse_args()
    found = comparisons(
        load_digits_split(), arguments.rows, arguments.draws, arguments.seed
    )
    of_costs = costs(arguments.rows, arguments.seed)
    if arguments.output:
        draw(arguments.output, found, of_costs)


if __name__ == "__main__":
    main()
