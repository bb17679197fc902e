"""Small problems of gates for the diagnostics."""

import numpy as np

from stochnet.diagnostics import GateProblem

DENSE_UNITS = ["noisy_rectifier", "concrete", "hard_concrete"]


def make_problem(n_rows=3, n_gates=5, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return GateProblem(
        a=rng.normal(-0.5, 1, (n_rows, n_gates)),
        base=rng.normal(size=(n_rows, n_classes)),
        contribution=rng.normal(size=(n_rows, n_gates, n_classes)),
        target=rng.integers(n_classes, size=n_rows),
    )


def arrays(problem):
    return problem.a, problem.base, problem.contribution, problem.target
