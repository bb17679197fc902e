"""Gaters, and networks of them with rows and noise at random, for the oracle."""

import math

import numpy as np
import oracle
from oracle import Gater, LayerNoise, LayerParameters, Parameters

N_ROWS, N_INPUTS, N_HIDDEN, N_CLASSES = 5, 4, 3, 3
N_GATES = (6, 5, 4)
SEED = 3


def random_parameters(rng, n_inputs, n_gates):
    """Parameters large enough that every part of the network matters."""
    layers = []
    for n_units in n_gates:
        layers.append(
            LayerParameters(
                hidden_weight=rng.normal(size=(N_HIDDEN, n_inputs)) / n_inputs**0.5,
                hidden_bias=0.3 * rng.normal(size=N_HIDDEN),
                gate_weight=rng.normal(size=(n_units, N_HIDDEN)),
                gate_bias=0.5 * rng.normal(size=n_units),
                expert_weight=rng.normal(size=(n_units, n_inputs)),
                expert_bias=0.5 * rng.normal(size=n_units),
            )
        )
        n_inputs = n_units
    return Parameters(
        layers=layers,
        readout_weight=rng.normal(size=(n_inputs, N_CLASSES)),
        readout_bias=0.3 * rng.normal(size=N_CLASSES),
    )


def random_noise(rng, gater, n_units, n_rows, with_additive):
    """Noise that the gater's unit reads."""
    needs = oracle.REQUIRED_NOISE[gater.unit]
    shape = (n_units, n_rows)
    uniform = rng.uniform(size=shape) if "uniform" in needs else None
    additive = None
    if "additive" in needs or with_additive:
        # Not centred: the noise of Appendix A.2 is not.
        additive = rng.normal(0.2, gater.noise_scale, size=shape)
    baseline = rng.normal(size=n_units) if gater.estimator == "reinforce" else None
    probe = rng.uniform(size=shape) if gater.credit == "probe" else None
    return LayerNoise(uniform, additive, baseline, probe)


def random_problem(gaters, with_additive=False, seed=SEED):
    """Arguments of `oracle.forward` for a network of the given gaters."""
    rng = np.random.default_rng(seed)
    n_gates = N_GATES[: len(gaters)]
    params = random_parameters(rng, N_INPUTS, n_gates)
    for layer, gater in zip(params.layers, gaters, strict=True):
        if gater.unit == "hard_concrete":  # or nearly all would fire
            layer.gate_bias -= gater.temperature * math.log(11)
    X = rng.normal(size=(N_ROWS, N_INPUTS))
    y = rng.integers(N_CLASSES, size=N_ROWS)
    noises = [
        random_noise(rng, gater, n_units, N_ROWS, with_additive)
        for gater, n_units in zip(gaters, n_gates, strict=True)
    ]
    return params, X, y, gaters, noises


NOISY_GAUSSIAN = Gater("noisy_rectifier", "pathwise", "l1", penalty_weight=0.3)
NOISY_LOGISTIC = Gater(
    "noisy_rectifier",
    "pathwise",
    "kl",
    density=0.2,
    penalty_weight=0.2,
    noise="logistic",
    noise_scale=0.7,
)
STS_GATE = Gater("sts", "pathwise", "kl", penalty_weight=0.2, noise_on="gate")
STS_DRAW = Gater("sts", "pathwise", "kl", penalty_weight=0.2, noise_on="draw")
BERNOULLI = Gater("bernoulli", "straight_through", "kl", penalty_weight=0.2)
BERNOULLI_L1 = Gater("bernoulli", "straight_through", "l1", penalty_weight=0.2)
RECTIFIER = Gater("rectifier", "pathwise", "l1", penalty_weight=0.3)
SIGMOID = Gater("sigmoid", "pathwise")
REINMAX = Gater("bernoulli", "reinmax", "kl", penalty_weight=0.2)
CONCRETE = Gater("concrete", "pathwise", temperature=0.6)
CONCRETE_ST = Gater(
    "bernoulli", "concrete_st", "kl", penalty_weight=0.2, temperature=0.6
)
HARD_CONCRETE = Gater(
    "hard_concrete", "pathwise", "kl", penalty_weight=0.2, temperature=0.6
)
