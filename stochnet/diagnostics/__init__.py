"""How biased, noisy and slow estimators of a gradient are.

The gradient is that of each example's expected loss by the pre-activations of the last
layer's gates, with the layers below as at prediction. The truth that estimators are put
beside is enumerated, for up to 20 binary or STS gates, or integrated, for up to 3 gates
that have a density.

`problem` has examples with gates and the exact gradient, `quadrature` the integrals,
`estimators` one file for each estimator or family and their table, `comparison` the
measurements and `display` a plot of them.
"""

from stochnet.diagnostics.comparison import compare_estimators, estimation_cost
from stochnet.diagnostics.display import GradientEstimatorDisplay
from stochnet.diagnostics.estimators import ESTIMATORS, GradientEstimator
from stochnet.diagnostics.problem import GateProblem, exact_gradient

__all__ = [
    "ESTIMATORS",
    "GateProblem",
    "GradientEstimator",
    "GradientEstimatorDisplay",
    "compare_estimators",
    "estimation_cost",
    "exact_gradient",
]
