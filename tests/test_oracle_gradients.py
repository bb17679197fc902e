"""The oracle's gradients against finite differences and exact sums.

Where the training criterion is differentiable given the noise, every parameter's
gradient is compared with central differences. Where it is not, the estimator is
compared with what it claims to be: straight-through with the differences of a
relaxed criterion, REINFORCE with the exact gradient of the expected loss, summed
over all configurations of the gates.
"""

import copy
import itertools

import numpy as np
import oracle
import pytest
from oracle import Gater, LayerNoise
from oracle_problems import (
    N_CLASSES,
    N_ROWS,
    NOISY_LOGISTIC,
    SEED,
    SIGMOID,
    STS_DRAW,
    random_parameters,
    random_problem,
)
from scipy.special import expit

# The error of central differences is of order STEP^2 (truncation) plus 1e-16 / STEP
# (rounding). At this step the two balance: over all cases of this file the deviation
# is at most a quarter of RTOL |gradient| + ATOL.
STEP = 3e-6
RTOL = 2e-7
ATOL = 4e-9


def differences(function, params):
    """Central differences of `function(params)`, in the shape of `params`."""
    params = copy.deepcopy(params)
    gradient = copy.deepcopy(params)
    pairs = zip(params.named_arrays(), gradient.named_arrays(), strict=True)
    for (_, array), (_, slot) in pairs:
        for index in np.ndindex(array.shape):
            original = array[index]
            array[index] = original + STEP
            above = function(params)
            array[index] = original - STEP
            below = function(params)
            array[index] = original
            slot[index] = (above - below) / (2 * STEP)
    return gradient


def assert_same_gradient(actual, expected, may_vanish=()):
    """Compare two gradients, none of whose arrays may be trivially zero."""
    pairs = zip(actual.named_arrays(), expected.named_arrays(), strict=True)
    for (name, array), (_, reference) in pairs:
        np.testing.assert_allclose(array, reference, rtol=RTOL, atol=ATOL, err_msg=name)
        if name not in may_vanish:
            assert np.abs(reference).max() > 1e-4, f"{name}: nothing was compared"


def subtract(first, second):
    """Difference of two gradients."""
    result = copy.deepcopy(first)
    pairs = zip(result.named_arrays(), second.named_arrays(), strict=True)
    for (_, array), (_, other) in pairs:
        array -= other
    return result


def criterion_with_fixed_gates(X, y, gaters, noises, base):
    """Criterion as a function of the parameters; gates may not switch.

    A difference across a kink of a rectifier or a jump of a draw would be
    meaningless, so it fails here rather than as a small deviation.
    """

    def function(params):
        result = oracle.forward(params, X, y, gaters, noises)
        for layer, original in zip(result.layers, base.layers, strict=True):
            assert np.array_equal(layer.active, original.active)
        return result.criterion

    return function


def assert_gates_are_mixed(result, gaters):
    """Both fired and silent gates occur, or the comparison shows little."""
    for layer, gater in zip(result.layers, gaters, strict=True):
        if gater.unit not in oracle.DENSE:
            assert 0.1 < layer.active.mean() < 0.9


def assert_not_clipped(result, gaters):
    """No KL penalty is flat because its q is clipped, where q can move."""
    for layer, gater in zip(result.layers, gaters, strict=True):
        if gater.penalty == "kl" and gater.unit not in (*oracle.DENSE, "rectifier"):
            q = layer.probability.mean(axis=1)
            assert np.all((q > 0.01) & (q < 0.99))


# ---------------------------------------------------------------------------
# Pathwise gradients
# ---------------------------------------------------------------------------


def pathwise_cases():
    """Every combination whose criterion is differentiable given the noise."""
    for noise, chosen in itertools.product(("gaussian", "logistic"), ("l1", "kl")):
        gater = Gater(
            "noisy_rectifier",
            "pathwise",
            chosen,
            density=0.2,
            penalty_weight=0.3,
            noise=noise,
            noise_scale=0.7,
        )
        yield pytest.param(gater, True, id=f"noisy rectifier-{noise}-{chosen}")
    for chosen in (None, "l1", "kl"):
        for unit in ("rectifier", "sigmoid"):
            gater = Gater(unit, "pathwise", chosen, penalty_weight=0.3)
            yield pytest.param(gater, False, id=f"{unit}-{chosen}")
        noisy = Gater("sigmoid", "pathwise", chosen, penalty_weight=0.3)
        yield pytest.param(noisy, True, id=f"sigmoid with noise-{chosen}")
        for unit, temperature in itertools.product(
            ("concrete", "hard_concrete"), (0.5, 1.2)
        ):
            gater = Gater(
                unit, "pathwise", chosen, penalty_weight=0.3, temperature=temperature
            )
            name = f"{unit} at {temperature}-{chosen}"
            yield pytest.param(gater, unit == "concrete", id=name)
        for noise_on, with_additive in (
            ("gate", False),
            ("draw", False),
            ("gate", True),
            ("draw", True),
        ):
            gater = Gater(
                "sts", "pathwise", chosen, penalty_weight=0.3, noise_on=noise_on
            )
            name = f"sts-{noise_on if with_additive else f'no noise {noise_on}'}"
            yield pytest.param(gater, with_additive, id=f"{name}-{chosen}")


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize(("gater", "with_additive"), list(pathwise_cases()))
def test_pathwise_gradient_equals_differences(gater, with_additive, n_layers):
    """Every parameter of every layer, penalties included."""
    params, X, y, gaters, noises = random_problem([gater] * n_layers, with_additive)
    result = oracle.loss_and_gradient(params, X, y, gaters, noises)
    assert_gates_are_mixed(result, gaters)
    assert_not_clipped(result, gaters)
    function = criterion_with_fixed_gates(X, y, gaters, noises, result)
    assert_same_gradient(result.gradient, differences(function, params))


def test_pathwise_gradient_of_layers_that_differ():
    """Each layer uses its own gater and its own noise."""
    params, X, y, gaters, noises = random_problem(
        [NOISY_LOGISTIC, SIGMOID, STS_DRAW], with_additive=True
    )
    result = oracle.loss_and_gradient(params, X, y, gaters, noises)
    assert_gates_are_mixed(result, gaters)
    assert_not_clipped(result, gaters)
    function = criterion_with_fixed_gates(X, y, gaters, noises, result)
    assert_same_gradient(result.gradient, differences(function, params))


def test_clipped_unit_has_a_constant_penalty_and_is_still_pulled_back():
    """KL is flat, not infinite, within 1e-6 of 0 and 1; its gradient goes on."""
    a = np.array([[-18.0, -16.0], [0.3, -1.0], [16.0, 18.0]])
    gater = Gater("bernoulli", "reinforce", "kl", density=0.1, penalty_weight=2.0)
    _, gate = oracle.apply_unit(a, LayerNoise(uniform=np.full((3, 2), 0.5)), gater)
    q = np.array([1e-6, expit(a[1]).mean(), 1 - 1e-6])
    expected = -2.0 * (0.1 * np.log(q) + 0.9 * np.log(1 - q)).sum()
    assert oracle.penalty(gate, gater) == pytest.approx(expected, rel=1e-12)

    gradient = oracle.penalty_gradient(gate, gater)
    slope = 2.0 * (0.9 / (1 - q) - 0.1 / q) / 2
    p = np.exp(-np.abs(a)) / (1 + np.exp(-np.abs(a)))
    np.testing.assert_allclose(gradient, slope[:, None] * p * (1 - p), rtol=1e-9)
    # Down on a would silence a dead unit further, up would saturate a full one.
    assert np.all(gradient[0] < -1e-4)
    assert np.all(gradient[2] > 1e-4)


# ---------------------------------------------------------------------------
# Straight-through
# ---------------------------------------------------------------------------


def pretended_move(gater, a, layer, noise):
    """How far a gate's value moves with a, as its estimator pretends.

    a - a_0, or sigm(a) - sigm(a_0) for the variant with the derivative; s(a) - s(a_0)
    with the concrete sample s; ReinMax's factor at a_0 times a - a_0.
    """
    if gater.estimator == "concrete_st":
        logistic = np.log((1 - noise.uniform) / noise.uniform)
        samples = [expit((v + logistic) / gater.temperature) for v in (a, layer.a)]
        return samples[0] - samples[1]
    if gater.estimator == "reinmax":
        p = expit(layer.a)
        middle = (layer.h + p) / 2
        return (2 * middle * (1 - middle) - p * (1 - p) / 2) * (a - layer.a)
    if gater.sigmoid_derivative:
        return expit(a) - expit(layer.a)
    return a - layer.a


def relaxed_criterion(X, y, gaters, noises, base):
    """Criterion in which h moves with a as the estimator pretends.

    With credit "active" only the gates that fired move.
    """

    def function(params):
        x, total_penalty = X, 0.0
        for parameters, noise, gater, layer in zip(
            params.layers, noises, gaters, base.layers, strict=True
        ):
            _, clean_a = oracle.gater_pre_activation(parameters, x)
            a, gate = oracle.apply_unit(clean_a, noise, gater)
            assert np.array_equal(gate.active, layer.active)
            total_penalty += oracle.penalty(gate, gater)
            moved = pretended_move(gater, a, layer, noise)
            if gater.credit == "active":
                moved = moved * layer.active
            if gater.credit == "probe":
                moved = moved * oracle.probe_weights(gate, noise.probe, gater)
            x = ((layer.h + moved) * oracle.expert_output(parameters, x)).T
        logits = x @ params.readout_weight + params.readout_bias
        return oracle.cross_entropy(logits, y).mean() + total_penalty

    return function


def straight_through_cases():
    """Both variants, both credits, all penalties, and units with their noise."""
    units = [
        ("bernoulli", False, "gate"),
        ("sts", True, "gate"),
        ("sts", True, "draw"),
        ("noisy_rectifier", True, "gate"),
        ("rectifier", False, "gate"),
        ("sigmoid", True, "gate"),
    ]
    for (
        unit,
        with_additive,
        noise_on,
    ), derivative, credit, chosen in itertools.product(
        units, (False, True), ("all", "active", "probe"), (None, "kl", "l1")
    ):
        if unit != "bernoulli" and chosen is None:
            continue
        gater = Gater(
            unit,
            "straight_through",
            chosen,
            density=0.2,
            penalty_weight=0.3,
            noise_on=noise_on,
            credit=credit,
            probe_rate=0.4,
            sigmoid_derivative=derivative,
        )
        variant = "derivative" if derivative else "identity"
        name = f"{unit} {noise_on}-{variant}-{credit}-{chosen}"
        yield pytest.param(gater, with_additive, id=name)
    for estimator, credit, chosen in itertools.product(
        ("reinmax", "concrete_st"), ("all", "active"), (None, "kl", "l1")
    ):
        gater = Gater("bernoulli", estimator, chosen, penalty_weight=0.3, credit=credit)
        yield pytest.param(gater, False, id=f"{estimator}-{credit}-{chosen}")


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize(("gater", "with_additive"), list(straight_through_cases()))
def test_straight_through_is_the_gradient_of_a_relaxed_criterion(
    gater, with_additive, n_layers
):
    """Every parameter of every layer, penalties included."""
    params, X, y, gaters, noises = random_problem([gater] * n_layers, with_additive)
    result = oracle.loss_and_gradient(params, X, y, gaters, noises)
    assert_gates_are_mixed(result, gaters)
    assert_not_clipped(result, gaters)
    function = relaxed_criterion(X, y, gaters, noises, result)
    assert function(params) == pytest.approx(result.criterion, rel=1e-14)
    assert_same_gradient(result.gradient, differences(function, params))


# ---------------------------------------------------------------------------
# REINFORCE
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("chosen", ["kl", "l1"])
def test_penalty_of_a_reinforce_gater_equals_differences(chosen, n_layers):
    """With gates fixed, the penalty adds its own gradient and nothing else."""
    gater = Gater("bernoulli", "reinforce", chosen, density=0.2, penalty_weight=0.3)
    params, X, y, gaters, noises = random_problem([gater] * n_layers)
    unpenalised = [Gater("bernoulli", "reinforce")] * n_layers
    result = oracle.loss_and_gradient(params, X, y, gaters, noises)
    without = oracle.loss_and_gradient(params, X, y, unpenalised, noises)
    assert_gates_are_mixed(result, gaters)
    assert_not_clipped(result, gaters)
    criterion = criterion_with_fixed_gates(X, y, gaters, noises, result)
    loss = criterion_with_fixed_gates(X, y, unpenalised, noises, without)
    # The top layer's experts and the readout are above every penalty.
    top = f"layers[{n_layers - 1}].expert_"
    assert_same_gradient(
        subtract(result.gradient, without.gradient),
        differences(lambda changed: criterion(changed) - loss(changed), params),
        may_vanish=(top + "weight", top + "bias", "readout_weight", "readout_bias"),
    )


def gate_configurations(n_gates, n_rows):
    """Yield, for every configuration, the uniforms of each layer that force it.

    The uniform 0 lies below every probability and 1 above every one.
    """
    sizes = [n_units * n_rows for n_units in n_gates]
    for bits in itertools.product((0.0, 1.0), repeat=sum(sizes)):
        parts = np.split(np.array(bits), np.cumsum(sizes)[:-1])
        yield [part.reshape(-1, n_rows) for part in parts]


def probability_of(result):
    """Probability of the configuration that a step has drawn."""
    chance = 1.0
    for layer in result.layers:
        p = layer.probability
        chance *= np.where(layer.h == 1.0, p, 1.0 - p).prod()
    return chance


def expected_loss(params, X, y, gaters, configurations):
    """Sum over configurations of probability times loss, and of probability."""
    total, total_chance = 0.0, 0.0
    for uniforms in configurations:
        noises = [LayerNoise(uniform=uniform) for uniform in uniforms]
        result = oracle.forward(params, X, y, gaters, noises)
        total += probability_of(result) * result.loss
        total_chance += probability_of(result)
    assert total_chance == pytest.approx(1.0, rel=1e-12)
    return total


def expected_estimate(params, X, y, gaters, configurations, baselines):
    """Sum over configurations of probability times estimated gradient, and da."""
    expected = copy.deepcopy(params)
    for _, array in expected.named_arrays():
        array[...] = 0.0
    expected_da = 0.0
    for uniforms in configurations:
        noises = [
            LayerNoise(uniform=uniform, baseline=baseline)
            for uniform, baseline in zip(uniforms, baselines, strict=True)
        ]
        result = oracle.loss_and_gradient(params, X, y, gaters, noises)
        chance = probability_of(result)
        expected_da = expected_da + chance * result.layers[0].da
        pairs = zip(
            expected.named_arrays(), result.gradient.named_arrays(), strict=True
        )
        for (_, array), (_, gradient) in pairs:
            array += chance * gradient
    return expected, expected_da


@pytest.mark.parametrize(
    ("n_gates", "n_rows"),
    [((4,), 1), ((2,), 2), ((2, 3), 1)],
    ids=["one layer", "two rows", "two layers"],
)
def test_reinforce_is_unbiased_for_any_baseline(n_gates, n_rows):
    """Theorem 1 and Corollary 1, exactly: all configurations of the gates.

    With two layers the lower gates learn by REINFORCE, while the lower experts
    are reached through the upper experts and through the upper gates' da.
    """
    rng = np.random.default_rng(SEED)
    params = random_parameters(rng, 2, n_gates)
    X = rng.normal(size=(n_rows, 2))
    y = rng.integers(N_CLASSES, size=n_rows)
    gaters = [Gater("bernoulli", "reinforce")] * len(n_gates)
    configurations = list(gate_configurations(n_gates, n_rows))
    assert len(configurations) == 2 ** (n_rows * sum(n_gates))

    exact = differences(
        lambda changed: expected_loss(changed, X, y, gaters, configurations), params
    )
    for baselines in (
        [None] * len(n_gates),
        [rng.normal(size=n_units) for n_units in n_gates],
        [np.full(n_units, 50.0) for n_units in n_gates],
    ):
        estimate, expected_da = expected_estimate(
            params, X, y, gaters, configurations, baselines
        )
        assert_same_gradient(estimate, exact)
        if n_rows == 1:
            # One row: the bias of a gate moves a and nothing else.
            np.testing.assert_allclose(
                expected_da[:, 0], exact.layers[0].gate_bias, rtol=RTOL, atol=ATOL
            )


def test_reinforce_uses_each_units_baseline():
    """An ignored baseline would be unbiased too: look at a single draw."""
    params, X, y, gaters, noises = random_problem([Gater("bernoulli", "reinforce")])
    centred = oracle.loss_and_gradient(params, X, y, gaters, noises).layers[0]
    plain_noises = [LayerNoise(uniform=noises[0].uniform)]
    plain = oracle.loss_and_gradient(params, X, y, gaters, plain_noises).layers[0]
    expected = -(plain.h - plain.probability) * noises[0].baseline[:, None] / N_ROWS
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(centred.da - plain.da, expected, atol=1e-14)


def test_reinforce_averages_of_two_batches():
    """Both kinds, two batches, by direct summation."""
    rng = np.random.default_rng(SEED)
    h = rng.integers(2, size=(2, 3, 4)).astype(float)
    p = rng.uniform(size=(2, 3, 4))
    row_loss = rng.uniform(1, 2, size=(2, 4))
    for kind in ("unit", "mean"):
        numerator, denominator = np.zeros(3), np.zeros(3)
        for i in range(2):
            numerator, denominator = oracle.reinforce_averages(
                h[i], p[i], row_loss[i], numerator, denominator, 0.9, kind
            )
        for k in range(3):
            sums = [0.0, 0.0]
            for i, b in itertools.product(range(2), range(4)):
                weight = (h[i, k, b] - p[i, k, b]) ** 2 if kind == "unit" else 1.0
                share = 0.1 * (0.9 if i == 0 else 1.0) / 4
                sums[0] += share * weight * row_loss[i, b]
                sums[1] += share * weight
            assert numerator[k] == pytest.approx(sums[0], rel=1e-12)
            assert denominator[k] == pytest.approx(sums[1], rel=1e-12)
    with pytest.raises(ValueError):
        oracle.reinforce_averages(
            h[0], p[0], row_loss[0], numerator, denominator, 0.9, "median"
        )


def test_reinforce_baseline_before_the_first_batch_is_zero():
    """0 / 0 is 0, without a warning; elsewhere the quotient."""
    baseline = oracle.reinforce_baseline(np.array([0.0, 3.0]), np.array([0.0, 2.0]))
    np.testing.assert_array_equal(baseline, [0.0, 1.5])


def test_eq_10_has_the_smallest_variance():
    """A batch with exact frequencies (p = 1/4): no other baseline does better."""
    # Every configuration of two gates, as often as its probability says.
    h = np.array([first for first in itertools.product((1, 0, 0, 0), repeat=2)]).T
    p = np.full(h.shape, 0.25)
    # A loss of the configuration, in which the two gates interact.
    row_loss = 1.0 + 2.0 * h[0] - 0.7 * h[1] + 1.3 * h[0] * h[1]
    zeros = np.zeros(2)
    best, other = (
        oracle.reinforce_baseline(
            *oracle.reinforce_averages(h, p, row_loss, zeros, zeros, 0.0, kind)
        )
        for kind in ("unit", "mean")
    )

    def variance(baseline):
        return ((h - p) * (row_loss - baseline[:, None])).var(axis=1)

    assert np.all(variance(best) < variance(other))
    for change in (-1e-3, 1e-3):
        assert np.all(variance(best) < variance(best + change))


# ---------------------------------------------------------------------------
# Local expectation, and probes
# ---------------------------------------------------------------------------


def test_local_expectation_is_unbiased():
    """Over all configurations of the gates of one row."""
    rng = np.random.default_rng(SEED)
    params = random_parameters(rng, 2, (4,))
    X, y = rng.normal(size=(1, 2)), np.array([1])
    gaters = [Gater("bernoulli", "local_expectation")]
    configurations = list(gate_configurations((4,), 1))
    exact = differences(
        lambda changed: expected_loss(changed, X, y, gaters, configurations), params
    )
    estimate, _ = expected_estimate(params, X, y, gaters, configurations, [None])
    assert_same_gradient(estimate, exact)


@pytest.mark.parametrize("estimator", ["straight_through", "local_expectation"])
def test_mean_over_probes_is_the_gradient_with_full_credit(estimator):
    """Both outcomes of each probe, weighed by their probability."""
    full = Gater("bernoulli", estimator)
    params, X, y, gaters, noises = random_problem([full])
    expected = oracle.loss_and_gradient(params, X, y, gaters, noises)
    assert_gates_are_mixed(expected, gaters)
    probing, mean = [Gater("bernoulli", estimator, credit="probe", probe_rate=0.3)], 0.0
    for outcome, chance in ((0.0, 0.3), (1.0, 0.7)):
        probe = np.full(noises[0].uniform.shape, outcome)
        given = [LayerNoise(uniform=noises[0].uniform, probe=probe)]
        found = oracle.loss_and_gradient(params, X, y, probing, given)
        mean = mean + chance * found.layers[0].da
    np.testing.assert_allclose(mean, expected.layers[0].da, rtol=1e-12, atol=1e-16)
