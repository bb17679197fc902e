"""Float64 NumPy reference of one training step and of prediction.

The compiled float32 kernels are compared with these functions, and
``test_oracle*.py`` compare these functions with finite differences, exact sums
and closed formulas. Nothing here is fast, and nothing here draws random numbers:
all noise is an argument, so that kernel and oracle can be given the same.

The model is the gated network of Bengio, Leonard & Courville (2013), "Estimating
or Propagating Gradients Through Stochastic Neurons". Equation, section and
appendix numbers refer to that paper; where its text is misprinted, the corrected
formula is used and the docstring says so.

Notation
--------
B rows of the mini-batch, D inputs of a layer, M bottleneck units of the gater,
K gates, each of G successive experts, E = K G experts, C classes. ``a`` is the
pre-activation of the gates, ``h`` their output, ``H`` the output of the experts,
``U`` the output of the bottleneck. Gate quantities are unit-major, (K, B). A prefix
``d`` means "gradient of the training criterion with respect to": ``da``, ``dh``,
``dH``.
"""

from oracle.arguments import (
    CREDIT_CHOICE,
    DENSE,
    OPTIONAL_NOISE,
    REQUIRED_NOISE,
    Gater,
    LayerNoise,
    LayerParameters,
    Parameters,
)
from oracle.estimators import (
    estimate_da,
    probe_weights,
    reinforce_averages,
    reinforce_baseline,
)
from oracle.network import (
    LayerResult,
    cross_entropy,
    expert_output,
    forward,
    forward_layer,
    gater_pre_activation,
    loss_and_gradient,
    per_expert,
)
from oracle.penalties import (
    adaptive_weight,
    firing_rate_control,
    penalty,
    penalty_gradient,
)
from oracle.prediction import PREDICTION_VALUES, gate_value, predict_proba
from oracle.units import HIGH, LOW, apply_unit, normal_density
from oracle.updates import OptimiserState, max_norm, new_optimiser_state, update

__all__ = [
    "CREDIT_CHOICE",
    "DENSE",
    "Gater",
    "HIGH",
    "LOW",
    "LayerNoise",
    "LayerParameters",
    "LayerResult",
    "OPTIONAL_NOISE",
    "OptimiserState",
    "PREDICTION_VALUES",
    "Parameters",
    "REQUIRED_NOISE",
    "adaptive_weight",
    "apply_unit",
    "cross_entropy",
    "estimate_da",
    "expert_output",
    "firing_rate_control",
    "forward",
    "forward_layer",
    "gate_value",
    "gater_pre_activation",
    "loss_and_gradient",
    "max_norm",
    "new_optimiser_state",
    "normal_density",
    "penalty",
    "penalty_gradient",
    "per_expert",
    "predict_proba",
    "probe_weights",
    "reinforce_averages",
    "reinforce_baseline",
    "update",
]
