"""What the tests of the engine share: small networks, and the oracle beside them.

Everything that the engine draws is a function of (key, step, layer, row), so its noise
can be computed apart from it and given to the oracle.
"""

import itertools
from dataclasses import dataclass, fields, replace

import numpy as np
import oracle
from scipy.special import expit

from stochnet._kernels import random as noise_kernels
from stochnet.gaters import ESTIMATORS, GATERS, PENALTIES, UNITS, make_gater
from stochnet.network import Network, Optimizer

# A draw this close to where its gate flips might fall on the other side in float32:
# pre-activations of order 1 have errors of order 1e-6. Problems whose draws come
# closer are drawn again, from the next seed.
FLIP = 1e-5


#: Relative rounding error of a float32.
EPSILON = 2.0**-24


def single(rng, *shape):
    """Normal draws in single precision, held in float64."""
    return rng.normal(size=shape).astype(np.float32).astype(float)


# ---------------------------------------------------------------------------
# Gaters
# ---------------------------------------------------------------------------

#: Those without zeros, that is, without a threshold and a density.
DENSE = [name for name, row in GATERS.items() if UNITS[row.unit]["always_fires"]]


def gater_options(name):
    """All options of a named gater that change what it computes."""
    row = GATERS[name]
    # local expectation is for networks of one layer only
    estimators = [
        e
        for e in (row.estimator, *row.estimators)
        if not ESTIMATORS[e]["needs_difference"]
    ]
    for estimator, noise in itertools.product(estimators, row.noises):
        yield from _options_of(row, estimator, noise)


def _options_of(row, name, noise):
    """Those of one estimator and noise."""
    unit, estimator = UNITS[row.unit], ESTIMATORS[name]
    straight_through = name == "straight_through"
    reinforces = estimator["credit"] == "loss"
    temperatures = unit["default_temperature"] or estimator["default_temperature"]
    halves = noise and unit["gate_noise"] and unit["z"] == "uniform"
    choices = {
        "estimator": ["auto" if name == row.estimator else name],
        "noise": [noise],
        "noise_on": ["gate", "draw"] if halves else ["gate"],
        "temperature": ["auto", 0.4] if temperatures else ["auto"],
        "credit": [
            *(["all", "active"] if estimator["credit_choice"] else ["auto"]),
            *(["probe"] if estimator["credit_probe"] else []),
        ],
        "sigmoid_derivative": [False, True] if straight_through else [False],
        "baseline": ["unit", "mean", None] if reinforces else [None],
        "penalty": [None, *(p for p in PENALTIES if _acts(unit, p))],
    }
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def _acts(unit, penalty):
    smooth = unit["smooth_probability"]
    needs_smooth = PENALTIES[penalty]["needs_smooth_probability"]
    return smooth or (unit["has_derivative"] and not needs_smooth)


def gater_cases():
    """(identifier, name, options) of every named gater with each of its options."""
    plain = ("estimator", "noise", "penalty")
    for name in GATERS:
        for options in gater_options(name):
            words = [
                str(value) if option in plain else f"{option}={value}"
                for option, value in options.items()
                if value not in (None, "auto", False)
            ]
            yield "-".join([name, *words]), name, options


def oracle_gater(gater, penalty_weight=None):
    """The oracle's description of a `stochnet.gaters.Gater`."""
    straight_through = gater.estimator == "straight_through"
    choice = gater.estimator in oracle.CREDIT_CHOICE
    probes = gater.credit == "probe"
    return oracle.Gater(
        unit=gater.unit,
        estimator=gater.estimator,
        penalty=gater.penalty,
        density=gater.density,
        penalty_weight=(
            gater.penalty_weight if penalty_weight is None else penalty_weight
        ),
        noise=gater.noise.additive or "gaussian",
        noise_scale=gater.noise.scale,
        noise_on="draw" if gater.noise.draw_only else "gate",
        temperature=gater.temperature,
        credit=gater.credit if choice or probes else "all",
        probe_rate=gater.probe_rate,
        sigmoid_derivative=straight_through and gater.sigmoid_derivative,
    )


# ---------------------------------------------------------------------------
# Networks and batches
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """Sizes of a network and of a batch."""

    n_rows: int = 9
    n_inputs: int = 7
    n_hidden: tuple = (5,)
    n_units: tuple = (11,)
    n_classes: int = 3
    experts_per_gate: tuple | None = None


#: Networks of one layer and of two, with rows enough for shares of them.
DEPTHS = {
    1: Shape(n_rows=40),
    2: Shape(n_rows=40, n_hidden=(5, 6), n_units=(11, 18)),
}


def make_network(gater, shape, *, seed=0, main=None, gater_optimizer=None):
    """A network all of whose parameters are random numbers that matter.

    Pre-activations, experts' outputs and logits are of order one; so are the
    averages of Eq. 10.
    """
    network = Network(
        shape.n_inputs,
        shape.n_classes,
        shape.n_units,
        shape.n_hidden,
        gater,
        main or Optimizer(),
        gater_optimizer or main or Optimizer(),
        experts_per_gate=shape.experts_per_gate,
        seed=seed,
    )
    rng = np.random.default_rng(seed)
    for name, group in network.parameters():
        if name == "readout_bias":
            scale = 0.3
        elif name == "readout":
            scale = 3 / len(group.weight) ** 0.5
        else:
            scale = (2 if name.endswith("gate") else 1) / group.n**0.5
        group.values[:] = scale * rng.normal(size=group.values.shape)
        if group.bias is not None:
            group.bias_values[:] = 0.3 * rng.normal(size=len(group.weight))
    for layer in network.layers:
        layer.reinforce[:] = rng.uniform(0.1, 1.0, layer.reinforce.shape)
        if gater.unit == "hard_concrete":  # or most would fire, unlike others
            shift = gater.temperature * np.log(-oracle.HIGH / oracle.LOW)
            layer.gate.bias_values[:] -= np.float32(shift)
    return network


def make_batch(shape, *, seed=0, n_rows=None, filled=1.0, nonzero=1.0):
    """Inputs and labels; the first row is all zeros, as blank pixels are.

    Of the others a share `filled` of their chunks of 16 is not, and of all inputs
    there a share `nonzero`.
    """
    rng = np.random.default_rng([seed, 1])
    n_rows = shape.n_rows if n_rows is None else n_rows
    X = rng.normal(size=(n_rows, shape.n_inputs)).astype(np.float32)
    if n_rows > 1:
        X[0] = 0
    if filled < 1:
        empty = rng.random((n_rows, -(-shape.n_inputs // 16))) >= filled
        X[np.repeat(empty, 16, axis=1)[:, : shape.n_inputs]] = 0
    if nonzero < 1:
        X[rng.random(X.shape) >= nonzero] = 0
    return X, rng.integers(shape.n_classes, size=n_rows).astype(np.int32)


def make_problem(
    gater,
    shape,
    *,
    step=0,
    flip=FLIP,
    shift=0.0,
    all_fire=False,
    filled=1.0,
    nonzero=1.0,
    **arguments,
):
    """Network and batch none of whose gates is about to flip at `step`.

    Parameters
    ----------
    flip : float
        Distance that all draws keep from where their gate flips.
    shift : float
        Added to the gates' biases.
    all_fire : bool
        Whether every gate has to fire.
    filled, nonzero : float
        As in `make_batch`.
    """
    for seed in range(100):
        network = make_network(gater, shape, seed=seed, **arguments)
        for layer in network.layers:
            layer.gate.bias_values[:] += np.float32(shift)
        X, y = make_batch(shape, seed=seed, filled=filled, nonzero=nonzero)
        *_, noises = given = oracle_arguments(network, X, y, step)
        expected = oracle.forward(*given)
        fire = all(layer.active.all() for layer in expected.layers)
        if margin(network, expected, noises) > flip and fire >= all_fire:
            return network, X, y
    raise AssertionError("No seed keeps the draws away from where the gates flip.")


# ---------------------------------------------------------------------------
# The oracle's view
# ---------------------------------------------------------------------------


def oracle_parameters(network):
    """The network's parameters in float64."""
    return oracle.Parameters(
        [
            oracle.LayerParameters(
                layer.hidden.values,
                layer.hidden.bias_values,
                layer.gate.values,
                layer.gate.bias_values,
                layer.expert.values,
                layer.expert.bias_values,
            )
            for layer in network.layers
        ],
        network.readout.values,
        network.readout_bias.values[0],
    )


def group_arrays(parameters):
    """(name, weight, bias) of each group, as `Network.parameters` names them."""
    for i, layer in enumerate(parameters.layers):
        for path in ("hidden", "gate", "expert"):
            weight, bias = (getattr(layer, f"{path}_{w}") for w in ("weight", "bias"))
            yield f"{i}.{path}", weight, bias
    yield "readout", parameters.readout_weight, None
    yield "readout_bias", parameters.readout_bias[None, :], None


def oracle_noise(network, n_rows, step, *, mode="training", row=0):
    """What each layer draws, and in training REINFORCE's baselines."""
    noises = []
    for i, layer in enumerate(network.layers):
        gater, facts = layer.gater, layer.gater.unit_facts
        draw = {"step": step, "layer": i, "mode": mode, "row": row}
        noise = oracle.LayerNoise()
        if facts["z"] == "uniform":
            noise.uniform = noise_kernels.uniform(
                layer.n_gates, n_rows, network.key, **draw
            )
        noisy = gater.noise.additive or gater.noise.quantiles is not None
        if facts["z"] == "additive" or (facts["gate_noise"] and noisy):
            noise.additive = noise_kernels.additive(
                layer.n_gates, n_rows, gater.noise, network.key, **draw
            )
        if ESTIMATORS[gater.estimator]["credit"] == "loss" and gater.baseline:
            noise.baseline = oracle.reinforce_baseline(
                *layer.reinforce.astype(np.float64)
            )
        if gater.credit == "probe":
            noise.probe = noise_kernels.uniform(
                layer.n_gates, n_rows, network.key, purpose="probe", **draw
            )
        noises.append(replace(noise))  # to float64
    return noises


def oracle_arguments(network, X, y, step):
    """What the oracle takes for mini-batch `step`; the noise is the last."""
    noises = oracle_noise(network, len(X), step)
    gaters = [
        oracle_gater(layer.gater, float(layer.penalty_weight[0]))
        for layer in network.layers
    ]
    return oracle_parameters(network), X, y, gaters, noises


def oracle_step(network, X, y, step):
    """The oracle's `StepResult` for the noise of mini-batch `step`, and that noise."""
    *_, noises = given = oracle_arguments(network, X, y, step)
    return oracle.loss_and_gradient(*given), noises


def margin(network, result, noises):
    """Least distance of a draw from where its gate would flip."""
    distances = [np.inf]
    for own, layer, noise in zip(network.layers, result.layers, noises, strict=True):
        if noise.uniform is not None:
            distances.append(np.abs(noise.uniform - layer.probability).min())
            if own.gater.unit == "hard_concrete":  # where it starts to be 1
                edge = layer.a + own.gater.temperature * np.log(
                    -oracle.LOW / oracle.HIGH
                )
                distances.append(np.abs(noise.uniform - expit(edge)).min())
        elif not own.gater.unit_facts["always_fires"]:
            z = 0.0 if noise.additive is None else noise.additive
            distances.append(np.abs(layer.a + z).min())
    return min(distances)


# ---------------------------------------------------------------------------
# Training in float64
# ---------------------------------------------------------------------------


class Simulation:
    """`Network.train` in float64, made of the oracle's functions.

    Attributes
    ----------
    parameters : oracle.Parameters
    penalty_weight : list of float
    rate : list of ndarray of shape (K,)
    averages : list of (numerator, denominator)
        Eq. 10's, of shape (K,) each.
    fired : list of ndarray of shape (K,)
    margin : float
        Least distance of any draw so far from where its gate would flip.
    """

    def __init__(self, network):
        self.network = network
        self.parameters = oracle_parameters(network)
        self.n_steps = network.step
        self.penalty_weight = [float(v.penalty_weight[0]) for v in network.layers]
        self.rate = [v.rate.astype(np.float64) for v in network.layers]
        self.averages = [tuple(v.reinforce.astype(np.float64)) for v in network.layers]
        self.fired = [v.fired.copy() for v in network.layers]
        self.margin = np.inf
        self._states = {
            (name, kind): oracle.new_optimiser_state(values.reshape(len(values), -1))
            for name, weight, bias in group_arrays(self.parameters)
            for kind, values in (("weight", weight), ("bias", bias))
            if values is not None
        }

    def train(self, X, y, *, order=None, batch_size):
        """Mini-batches over the rows; returns the means of loss and penalty."""
        order = np.arange(len(X)) if order is None else order
        loss = penalty = 0.0
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            result = self.step(X[rows], y[rows])
            loss += result.row_loss.sum()
            penalty += (result.criterion - result.loss) * len(rows)
        return loss / len(order), penalty / len(order)

    def step(self, X, y):
        """One mini-batch: gradient, updates, control of the density."""
        layers = self.network.layers
        gaters = [
            oracle_gater(layer.gater, weight)
            for layer, weight in zip(layers, self.penalty_weight, strict=True)
        ]
        noises = oracle_noise(self.network, len(X), self.n_steps)
        for noise, averages in zip(noises, self.averages, strict=True):
            if noise.baseline is not None:
                noise.baseline = oracle.reinforce_baseline(*averages)
        result = oracle.loss_and_gradient(self.parameters, X, y, gaters, noises)
        self.margin = min(self.margin, margin(self.network, result, noises))
        self._update(result, len(X))
        for i, layer in enumerate(layers):
            self._control(i, layer.gater, result.layers[i], result.row_loss)
        self.n_steps += 1
        return result

    def _update(self, result, n_rows):
        gradients = {name: gs for name, *gs in group_arrays(result.gradient)}
        for name, weight, bias in group_arrays(self.parameters):
            path = name.rpartition(".")[2]
            gater_path = path in ("hidden", "gate")
            optimizer = self.network.gater if gater_path else self.network.main
            rows = np.ones(len(weight), dtype=bool)
            if path in ("expert", "readout"):
                i = -1 if path == "readout" else int(name.partition(".")[0])
                rows = result.layers[i].active.any(axis=1)
                rows = oracle.per_expert(rows, len(weight))
            decay = 0.0 if path == "readout_bias" else optimizer.alpha / n_rows
            gradient = gradients[name][0] + decay * weight
            self._move(name, "weight", weight, gradient, rows, optimizer)
            if path in ("hidden", "gate", "expert"):
                self._move(name, "bias", bias, gradients[name][1], rows, optimizer)
                if optimizer.max_norm:
                    weight[:] = oracle.max_norm(weight, optimizer.max_norm, rows)

    def _move(self, name, kind, values, gradient, rows, optimizer):
        columns = (len(values), -1)
        moved, self._states[name, kind] = oracle.update(
            values.reshape(columns),
            gradient.reshape(columns),
            self._states[name, kind],
            rows,
            solver=optimizer.solver,
            learning_rate=optimizer.learning_rate,
            momentum=optimizer.momentum,
            nesterovs_momentum=optimizer.nesterovs_momentum,
            beta_1=optimizer.beta_1,
            beta_2=optimizer.beta_2,
            epsilon=optimizer.epsilon,
        )
        values[:] = moved.reshape(values.shape)

    def _control(self, i, gater, layer, row_loss):
        if ESTIMATORS[gater.estimator]["credit"] == "loss" and gater.baseline:
            self.averages[i] = oracle.reinforce_averages(
                layer.h,
                layer.probability,
                row_loss,
                *self.averages[i],
                gater.averages_decay,
                gater.baseline,
            )
        bias = self.parameters.layers[i].gate_bias
        bias[:], self.rate[i] = oracle.firing_rate_control(
            bias,
            self.rate[i],
            layer.active.mean(axis=1),
            gater.density,
            gater.firing_rate_step,
            gater.averages_decay,
        )
        self.fired[i] = self.fired[i] + layer.active.sum(axis=1)
        if gater.penalty_factor:
            self.penalty_weight[i] = oracle.adaptive_weight(
                self.penalty_weight[i],
                layer.active.mean(),
                gater.density,
                gater.penalty_factor,
                *gater.penalty_limits,
            )


# ---------------------------------------------------------------------------
# Comparison
# ---------------------------------------------------------------------------


def deviation(actual, expected):
    """Largest difference, in units of the largest expected element."""
    expected = np.asarray(expected)
    difference = np.abs(np.asarray(actual, dtype=np.float64) - expected)
    if not difference.size:
        return 0.0
    return float(difference.max() / max(np.abs(expected).max(), 1e-30))


def assert_near(actual, expected, bound, name=""):
    """Compare two arrays, relative to the scale of the expected one."""
    assert np.shape(actual) == np.shape(expected), name
    found = deviation(actual, expected)
    assert found <= bound, f"{name}: {found:.2e} of its scale, allowed {bound:.0e}"


def copy_of_state(network):
    """Every array that training changes, by name, copied."""
    arrays = {}
    for name, group in network.parameters():
        for field in fields(group):
            value = getattr(group, field.name)
            if isinstance(value, np.ndarray):
                arrays[f"{name}.{field.name}"] = value.copy()
            elif isinstance(value, list):
                for i, state in enumerate(value):
                    if state is not None:
                        arrays[f"{name}.{field.name}[{i}]"] = state.copy()
    for i, layer in enumerate(network.layers):
        for name in layer.STATE:
            arrays[f"{i}.{name}"] = getattr(layer, name).copy()
    return arrays


def assert_same_bits(first, second):
    """Two states are the same, NaN for NaN and sign of zero for sign of zero."""
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].tobytes() == second[name].tobytes(), name


def make(name, **options):
    """A named gater with a density and weights at which everything matters."""
    options.setdefault("penalty_weight", 0.05)
    options.setdefault("density", 0.3)
    options.setdefault("probe_rate", 0.3)
    return make_gater(name, **options)
