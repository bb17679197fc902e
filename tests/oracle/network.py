"""A training step of the network, forward and backward."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import log_softmax, softmax

from oracle.arguments import LayerParameters, Parameters
from oracle.estimators import estimate_da, probe_weights
from oracle.penalties import penalty, penalty_gradient
from oracle.units import GateOutput, apply_unit


@dataclass
class LayerResult:
    """All quantities of one layer in one training step.

    Attributes
    ----------
    x : ndarray of shape (B, D)
        Input of the layer.
    U : ndarray of shape (B, M)
        Output of the bottleneck.
    a : ndarray of shape (K, B)
        Pre-activation. It contains the additive noise where that replaces a
        (sigmoid, concrete, and STS with noise_on="gate"), not elsewhere (noisy
        rectifier, and STS with noise_on="draw").
    gate : GateOutput
    H : ndarray of shape (E, B)
        Output of the experts, of all of them, whether their gates fired or not.
    y : ndarray of shape (B, E)
        Output of the layer.
    da : ndarray of shape (K, B) or None
        Gradient estimate, penalty included; None until the backward pass.
    """

    x: np.ndarray
    U: np.ndarray
    a: np.ndarray
    gate: GateOutput
    H: np.ndarray
    y: np.ndarray
    da: np.ndarray | None = None

    @property
    def h(self):
        """Output of the gates, ndarray of shape (K, B)."""
        return self.gate.h

    @property
    def active(self):
        """Gates that fired, bool ndarray of shape (K, B)."""
        return self.gate.active

    @property
    def probability(self):
        """Firing probability, ndarray of shape (K, B)."""
        return self.gate.probability


@dataclass
class StepResult:
    """Result of a training step, before any update of the parameters.

    Attributes
    ----------
    loss : float
        Cross-entropy, mean over rows.
    row_loss : ndarray of shape (B,)
        Cross-entropy of each row.
    criterion : float
        `loss` plus the penalties of all layers.
    logits : ndarray of shape (B, C)
    layers : list of LayerResult
    gradient : Parameters or None
        Gradient estimate of `criterion`; None after `forward` alone.
    """

    loss: float
    row_loss: np.ndarray
    criterion: float
    logits: np.ndarray
    layers: list[LayerResult]
    gradient: Parameters | None = None


def gater_pre_activation(parameters, x):
    """Bottleneck and pre-activation: U = tanh(x Wb' + bb), a = Wg U' + bg.

    Parameters
    ----------
    parameters : LayerParameters
    x : ndarray of shape (B, D)

    Returns
    -------
    U : ndarray of shape (B, M)
    a : ndarray of shape (K, B)
    """
    U = np.tanh(x @ parameters.hidden_weight.T + parameters.hidden_bias)
    return U, parameters.gate_weight @ U.T + parameters.gate_bias[:, None]


def expert_output(parameters, x):
    """Linear experts: H = We x' + be.

    Parameters
    ----------
    parameters : LayerParameters
    x : ndarray of shape (B, D)

    Returns
    -------
    ndarray of shape (E, B)
    """
    return parameters.expert_weight @ x.T + parameters.expert_bias[:, None]


def cross_entropy(logits, y):
    """Cross-entropy of the softmax: L_b = -log softmax(logits_b)[y_b].

    Parameters
    ----------
    logits : ndarray of shape (B, C)
    y : int ndarray of shape (B,)

    Returns
    -------
    ndarray of shape (B,)
    """
    # what scipy.special.log_softmax checks takes a fifth of the time of all differences
    log_total = np.logaddexp.reduce(logits, axis=1)
    return log_total - logits[np.arange(len(y)), y]


def per_expert(values, n_experts):
    """The gates' values for each expert: gate k has the experts from k G on.

    Parameters
    ----------
    values : ndarray of shape (K, ...)
    n_experts : int
        E = K G.

    Returns
    -------
    ndarray of shape (E, ...)
    """
    return np.repeat(values, n_experts // len(values), axis=0)


def forward_layer(parameters, x, noise, gater):
    """Forward pass of one layer: y = (h * H)', h that of each expert's gate.

    Parameters
    ----------
    parameters : LayerParameters
    x : ndarray of shape (B, D)
    noise : LayerNoise
    gater : Gater

    Returns
    -------
    LayerResult
    """
    U, clean_a = gater_pre_activation(parameters, x)
    a, gate = apply_unit(clean_a, noise, gater)
    H = expert_output(parameters, x)
    h = per_expert(gate.h, len(H))
    return LayerResult(x=x, U=U, a=a, gate=gate, H=H, y=(h * H).T)


def forward(params, X, y, gaters, noises):
    """Forward pass of the network: logits = y_last V + c, losses and penalties.

    criterion = mean_b L_b + sum over layers of `penalty`.

    Parameters
    ----------
    params : Parameters
    X : ndarray of shape (B, D)
    y : int ndarray of shape (B,)
    gaters : list of Gater
        One for each layer.
    noises : list of LayerNoise
        One for each layer.

    Returns
    -------
    StepResult
        Without gradients.
    """
    x = np.asarray(X, dtype=np.float64)
    layers = []
    total_penalty = 0.0
    for parameters, noise, gater in zip(params.layers, noises, gaters, strict=True):
        layers.append(forward_layer(parameters, x, noise, gater))
        total_penalty += penalty(layers[-1].gate, gater)
        x = layers[-1].y
    logits = x @ params.readout_weight + params.readout_bias
    row_loss = cross_entropy(logits, y)
    loss = float(row_loss.mean())
    return StepResult(loss, row_loss, loss + total_penalty, logits, layers)


def loss_differences(layer, logits, y, readout_weight):
    """L(h = 1) - L(h = 0) of each gate of the last layer, the others as drawn, over B.

    Parameters
    ----------
    layer : LayerResult
    logits : ndarray of shape (B, C)
    y : int ndarray of shape (B,)
    readout_weight : ndarray of shape (E, C)

    Returns
    -------
    ndarray of shape (K, B)
    """
    rows, n_gates = np.arange(len(y)), len(layer.h)
    parts = layer.H.T[:, :, None] * readout_weight
    on = parts.reshape(len(y), n_gates, -1, parts.shape[2]).sum(axis=2)
    off = logits[:, None, :] - layer.h.T[:, :, None] * on
    losses = (-log_softmax(v, axis=2)[rows, :, y] for v in (off + on, off))
    return np.subtract(*losses).T / len(y)


def backward_layer(parameters, layer, dy, row_loss, noise, gater, dh=None):
    """Backward pass of one layer.

    dh = H * dy', summed over a gate's experts, dH = h * dy', da by the estimator plus
    the penalty's gradient; then dU = da' Wg, through tanh d(x Wb' + bb) =
    dU (1 - U^2), and dx = dH' We + d(x Wb' + bb) Wb: what reaches the input through the
    experts and through the gater, the penalty's share included.

    Parameters
    ----------
    parameters : LayerParameters
    layer : LayerResult
        Of `forward_layer`.
    dy : ndarray of shape (B, E)
    row_loss : ndarray of shape (B,)
    noise : LayerNoise
    gater : Gater
    dh : ndarray of shape (K, B), optional
        Of `loss_differences`, in place of the gradient.

    Returns
    -------
    da : ndarray of shape (K, B)
    gradient : LayerParameters
    dx : ndarray of shape (B, D)
    """
    n_experts, n_gates = len(layer.H), len(layer.h)
    if dh is None:
        dh = (layer.H * dy.T).reshape(n_gates, n_experts // n_gates, -1).sum(axis=1)
    if gater.credit == "probe":
        dh = dh * probe_weights(layer.gate, noise.probe, gater)
    dH = per_expert(layer.h, n_experts) * dy.T
    da = estimate_da(layer, dh, row_loss, noise.baseline, gater)
    da = da + penalty_gradient(layer.gate, gater)
    dhidden = (da.T @ parameters.gate_weight) * (1.0 - layer.U**2)
    gradient = LayerParameters(
        hidden_weight=dhidden.T @ layer.x,
        hidden_bias=dhidden.sum(axis=0),
        gate_weight=da @ layer.U,
        gate_bias=da.sum(axis=1),
        expert_weight=dH @ layer.x,
        expert_bias=dH.sum(axis=1),
    )
    dx = dH.T @ parameters.expert_weight + dhidden @ parameters.hidden_weight
    return da, gradient, dx


def loss_and_gradient(params, X, y, gaters, noises):
    """Forward and backward pass of one training step.

    The gradient of the mean loss with respect to the logits is
    (softmax(logits_b) - onehot(y_b)) / B.

    Parameters
    ----------
    params : Parameters
    X : ndarray of shape (B, D)
    y : int ndarray of shape (B,)
    gaters : list of Gater
    noises : list of LayerNoise

    Returns
    -------
    StepResult
    """
    result = forward(params, X, y, gaters, noises)
    n_rows = len(y)
    dlogits = softmax(result.logits, axis=1)
    dlogits[np.arange(n_rows), y] -= 1.0
    dlogits /= n_rows

    dy = dlogits @ params.readout_weight.T
    layers, gradients = [], []
    for parameters, layer, noise, gater in reversed(
        list(zip(params.layers, result.layers, noises, gaters, strict=True))
    ):
        dh = None
        if gater.estimator == "local_expectation":  # of the last layer only
            dh = loss_differences(layer, result.logits, y, params.readout_weight)
        # The dx of a layer is the dy of the layer below.
        da, gradient, dy = backward_layer(
            parameters, layer, dy, result.row_loss, noise, gater, dh
        )
        layers.insert(0, replace(layer, da=da))
        gradients.insert(0, gradient)
    gradient = Parameters(
        layers=gradients,
        readout_weight=result.layers[-1].y.T @ dlogits,
        readout_bias=dlogits.sum(axis=0),
    )
    return replace(result, layers=layers, gradient=gradient)
