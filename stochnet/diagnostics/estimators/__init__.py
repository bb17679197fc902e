"""Estimators of the gradient of the expected loss, and their table.

An estimator is a function of a problem, uniform numbers z of shape (n_draws, n_rows,
n_gates) and a generator for what else is random; keyword arguments are its options,
which alone its docstring lists. It returns estimates of each example's gradient by its
pre-activations, shaped like z. Of the problem it uses `a`, `noise_scale`, `loss`,
`slope` and `difference`.

To add one takes its function, in a file here, and its line in `ESTIMATORS`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from stochnet.diagnostics.estimators.concrete import concrete, concrete_st
from stochnet.diagnostics.estimators.disarm import disarm
from stochnet.diagnostics.estimators.hard_concrete import hard_concrete
from stochnet.diagnostics.estimators.local_expectation import (
    local_expectation,
    local_expectation_probe,
)
from stochnet.diagnostics.estimators.noisy_rectifier import noisy_rectifier
from stochnet.diagnostics.estimators.perturbation import (
    finite_differences,
    node_perturbation,
    spsa,
)
from stochnet.diagnostics.estimators.reinforce import (
    mean_baseline,
    reinforce,
    unit_baseline,
)
from stochnet.diagnostics.estimators.reinmax import reinmax
from stochnet.diagnostics.estimators.straight_through import straight_through
from stochnet.diagnostics.estimators.sts import sts


@dataclass(frozen=True)
class GradientEstimator:
    """A row of the table of estimators.

    Attributes
    ----------
    unit : str
        The unit whose expected loss it is about; see `exact_gradient`.
    function : callable
    unbiased : bool
    options : dict
        Keyword arguments of the function that make this row of it.
    prepare : callable, optional
        (problem, generator) -> options that are computed once for a problem, outside of
        what an estimate costs.
    """

    unit: str
    function: Callable
    unbiased: bool = False
    options: dict = field(default_factory=dict)
    prepare: Callable | None = None


def _row(unit, function, unbiased=False, prepare=None, **options):
    return GradientEstimator(unit, function, unbiased, options, prepare)


#: Name -> `GradientEstimator`.
ESTIMATORS = {
    "st": _row("bernoulli", straight_through),
    "st_active": _row("bernoulli", straight_through, active=True),
    "st_derivative": _row("bernoulli", straight_through, sigmoid_derivative=True),
    "reinmax": _row("bernoulli", reinmax),
    "concrete": _row("bernoulli", concrete),
    "concrete_st": _row("bernoulli", concrete_st),
    "reinforce": _row("bernoulli", reinforce, True),
    "reinforce_mean": _row("bernoulli", reinforce, True, mean_baseline),
    "reinforce_unit": _row("bernoulli", reinforce, True, unit_baseline),
    "disarm": _row("bernoulli", disarm, True),
    "local_expectation": _row("bernoulli", local_expectation, True),
    "local_expectation_probe": _row("bernoulli", local_expectation_probe, True),
    "spsa": _row("bernoulli", spsa),
    "node_perturbation": _row("bernoulli", node_perturbation),
    "finite_differences": _row("bernoulli", finite_differences),
    "sts": _row("sts", sts),
    "noisy_rectifier": _row("noisy_rectifier", noisy_rectifier, True),
    "concrete_relaxed": _row("concrete", concrete, True),
    "hard_concrete": _row("hard_concrete", hard_concrete, True),
}
