"""The paper's propositions, theorem and corollary, through the compiled kernels.

Where an expectation is estimated, the deviation is stated in standard errors, as a
z-score. Keys are fixed, so that a test passes always or never. With |z| < 4, one in
16 000 correct comparisons would fail for an unlucky key; each test makes at most about
a hundred. Where an expectation is a finite sum, it is summed, in float64.
"""

import itertools
from dataclasses import replace

import numpy as np
import oracle
import pytest
from helpers import Shape, make, make_batch, make_network, oracle_parameters
from scipy.special import expit, ndtr

from stochnet._kernels import gate, random
from stochnet.gaters import Noise

KEY = (20130815, 1)
N_DRAWS = 1 << 20
Z_LIMIT = 4.0

A_GRID = (-6.0, -4.0, -2.5, -1.0, -0.3, 0.0, 0.4, 1.0, 2.0, 4.0, 6.0)


def z_of_mean(sample, expected):
    """Deviation of a sample's mean from what is expected, in standard errors."""
    sample = np.asarray(sample, dtype=np.float64)
    error = sample.std(ddof=1) / np.sqrt(len(sample))
    return (sample.mean() - expected) / error


def z_of_share(fired, probability):
    """Deviation of a share from a probability, in standard errors."""
    error = np.sqrt(probability * (1 - probability) / len(fired))
    return (fired.mean() - probability) / error


def check(z):
    """All z-scores are small; none of them is exactly zero by construction."""
    z = np.ravel(z)
    assert np.all(np.abs(z) < Z_LIMIT), f"z-scores {np.round(z, 1)}"
    assert np.any(np.abs(z) > 0.05), "no deviation at all: nothing was drawn"


# ---------------------------------------------------------------------------
# Proposition 1: the noisy rectifier
# ---------------------------------------------------------------------------


def gaussian_mean(a):
    return a * ndtr(a) + oracle.normal_density(a)


RECTIFIERS = {
    # noise: P(h > 0) and E[h] for scale 1, and pre-activations at which at least a
    # thousand of a million draws come out either way
    "logistic": (expit, lambda a: np.logaddexp(0.0, a), A_GRID),
    "gaussian": (ndtr, gaussian_mean, [a for a in A_GRID if abs(a) < 3]),
}


def rectified_draws(noise, a, step):
    """2^20 draws of max(0, a + z)."""
    z = random.additive(1, N_DRAWS, noise, KEY, step=step)[0]
    return gate.unit_forward("noisy_rectifier", noise, np.full(N_DRAWS, a), z)


@pytest.mark.parametrize("scale", [1.0, 0.6])
@pytest.mark.parametrize("kind", RECTIFIERS)
def test_proposition_1(kind, scale):
    """(a) P(h > 0) = sigm(a) and (b) E[h] = softplus(a), for logistic noise of scale 1;
    with Phi(a) and a Phi(a) + phi(a) for Gaussian noise."""
    probability, mean, grid = RECTIFIERS[kind]
    noise = Noise(kind, scale)
    shares, means = [], []
    for step, a in enumerate(grid):
        h = rectified_draws(noise, a * scale, step + round(1000 * scale))
        shares.append(z_of_share(h > 0, probability(a)))
        means.append(z_of_mean(h, scale * mean(a)))
    check(shares)
    check(means)

    a = np.array(grid)
    p, _ = gate.unit_probability("noisy_rectifier", noise, a * scale)
    value = gate.unit_value("noisy_rectifier", noise, a * scale, "mean")
    np.testing.assert_allclose(p, probability(a), rtol=5e-6)
    np.testing.assert_allclose(value, scale * mean(a), rtol=2e-5)


def test_the_noises_of_proposition_1_are_told_apart():
    """The other noise's formulas are hundreds of standard errors away."""
    h = rectified_draws(Noise("logistic"), 1.0, 0)
    assert abs(z_of_share(h > 0, ndtr(1.0))) > 100
    assert abs(z_of_mean(h, gaussian_mean(1.0))) > 100


# ---------------------------------------------------------------------------
# Proposition 2: stochastic times smooth
# ---------------------------------------------------------------------------


def test_proposition_2_a_and_b():
    """(a) E[h] = sigm(a) and (b) P(h > 0) = sqrt(sigm(a))."""
    shares, means = [], []
    for step, a in enumerate(A_GRID):
        uniform = random.uniform(1, N_DRAWS, KEY, step=step)[0]
        h = gate.unit_forward("sts", Noise(), np.full(N_DRAWS, a), uniform)
        shares.append(z_of_share(h > 0, np.sqrt(expit(a))))
        means.append(z_of_mean(h, expit(a)))
    check(shares)
    check(means)


def sts_of(p):
    """Probability, value when it fires, and mean of STS units with mean `p`, as the
    kernels have them: float32, summed over in float64."""
    a = np.log(p / (1 - p))
    q, _ = gate.unit_probability("sts", Noise(), a)
    root = gate.unit_value("sts", Noise(), a, "root")
    mean = gate.unit_value("sts", Noise(), a, "mean")
    return q.astype(np.float64), root.astype(np.float64), mean.astype(np.float64)


# Functions with f'(0) != 0 and f''(0) != 0.
SMOOTH = {
    "exp": np.exp,
    "cos": lambda x: np.cos(x + 1.0),
    "polynomial": lambda x: 1 + 2 * x - 3 * x**2 + x**3,
}

# The error is c p^1.5 (1 + O(sqrt p)): the slope is that of small p. The kernels' q,
# root and mean are off by some 1e-7 of themselves, which leaves 1e-7 p of q root - p.
# That is 1e-3 of p^1.5 at p = 1e-8, below which float32 has little to say.
SMALL_P = np.logspace(-8, -4, 41)


@pytest.mark.parametrize("f", SMOOTH.values(), ids=SMOOTH)
def test_proposition_2_c(f):
    """E[f(h)] = f(p) + O(p^1.5), by sums over the two values of b.

    A unit that draws b with probability p instead of sqrt(p) satisfies o(sqrt p) too,
    as the proposition is stated, but with slope 1.
    """

    def slope(chance):
        error = chance * f(root) + (1 - chance) * f(0.0) - f(p)
        return np.polyfit(np.log(p), np.log(np.abs(error)), 1)[0]

    q, root, p = sts_of(SMALL_P)
    assert slope(q) == pytest.approx(1.5, abs=0.02)
    assert slope(p) == pytest.approx(1.0, abs=0.02)


def test_proposition_2_c_down_from_large_p():
    """For f = exp: (E[f(h)] - f(p)) / p^1.5 goes to f''(0) / 2."""
    p = np.logspace(-1, -6, 26)
    q, root, p = sts_of(p)
    error = q * np.exp(root) + (1 - q) - np.exp(p)
    ratio = error / p**1.5
    # 1/2 - sqrt(p)/3 + O(p), and 1e-7 / sqrt(p) of float32
    np.testing.assert_allclose(ratio, 0.5 - np.sqrt(p) / 3, atol=0.001, rtol=0.1)
    assert ratio[-1] == pytest.approx(0.5, abs=1e-3)


# ---------------------------------------------------------------------------
# Theorem 1 and Corollary 1 for a whole network
# ---------------------------------------------------------------------------

# Rows of one mini-batch are independent draws of the same few inputs; mini-batches of
# different steps are independent estimates of one gradient.
N_INPUTS, N_STEPS, N_ROWS = 4, 64, 4096
NETWORKS = {
    "6 gates": Shape(N_INPUTS, 3, (3,), (6,), 3),
    "3 gates on 3 gates": Shape(N_INPUTS, 3, (3, 2), (3, 3), 3),
}


def reinforce_problem(shape, **options):
    """Network, and N_INPUTS examples."""
    options.setdefault("penalty", None)
    network = make_network(make("sbn", **options), shape, seed=4)
    X, y = make_batch(shape, seed=4)
    return network, X, y


def configurations(n_gates):
    """All (2^K, K) values of the gates."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=n_gates)))


def expected_loss(params, X, y):
    """Mean over the examples of E[L]: the exact sum over all gates of all layers."""
    X = np.asarray(X, dtype=np.float64)

    def above(x, layers, target):
        """E[L] given the input `x` (n, D) of the lowest of `layers`, (n,)."""
        if not layers:
            logits = x @ params.readout_weight + params.readout_bias
            return oracle.cross_entropy(logits, np.full(len(x), target))
        _, a = oracle.gater_pre_activation(layers[0], x)
        H = oracle.expert_output(layers[0], x)
        total = np.zeros(len(x))
        for h in configurations(len(a)):
            chance = np.prod(np.where(h[:, None], expit(a), expit(-a)), axis=0)
            total += chance * above((h[:, None] * H).T, layers[1:], target)
        return total

    losses = [above(x[None], params.layers, t)[0] for x, t in zip(X, y, strict=True)]
    return np.mean(losses)


def exact_gradient(params, X, y, step=1e-5):
    """Central differences of `expected_loss`, exact to about 1e-10."""
    gradient = {}
    for name, array in params.named_arrays():
        gradient[name] = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            original = array[index]
            values = []
            for array[index] in (original + step, original - step):
                values.append(expected_loss(params, X, y))
            array[index] = original
            gradient[name][index] = (values[0] - values[1]) / (2 * step)
    return gradient


def estimates(network, X, y, n_steps=N_STEPS, n_rows=N_ROWS):
    """Gradient estimates of independent mini-batches, named as the exact ones."""
    X, y = (np.tile(v, (n_rows // len(X),) + (1,) * (v.ndim - 1)) for v in (X, y))
    found = {}
    for step in range(n_steps):
        gradient = network.gradient(X, y, step=step)["gradient"]
        for group, (weight, bias) in gradient.items():
            layer, _, path = group.rpartition(".")
            if path == "readout":
                found.setdefault("readout_weight", []).append(weight)
            elif path == "readout_bias":
                found.setdefault("readout_bias", []).append(weight[0])
            else:
                name = f"layers[{layer}].{path}"
                found.setdefault(f"{name}_weight", []).append(weight)
                found.setdefault(f"{name}_bias", []).append(bias)
    return {name: np.array(arrays, dtype=np.float64) for name, arrays in found.items()}


def z_of_gradients(found, exact):
    """z-score of every component of every parameter."""
    assert found.keys() == exact.keys()
    return {
        name: (found[name].mean(axis=0) - exact[name])
        / (found[name].std(axis=0, ddof=1) / np.sqrt(len(found[name])))
        for name in exact
    }


@pytest.mark.parametrize("baseline", ["none", "constant"])
@pytest.mark.parametrize("shape", NETWORKS)
def test_theorem_1_and_corollary_1_unbiased(shape, baseline):
    """64 estimates from 4096 draws each, 2.6e5 in all, of every parameter's gradient.

    Gater, experts and readout, one layer and two: with two, the upper gater's estimate
    reaches the lower experts too. Corollary 1: another baseline for each unit.
    """
    options = {"baseline": None if baseline == "none" else "unit"}
    network, X, y = reinforce_problem(NETWORKS[shape], **options)
    for layer in network.layers:
        layer.reinforce[0] = np.linspace(-0.5, 2.5, layer.n_units)
        layer.reinforce[1] = 1.0
    exact = exact_gradient(oracle_parameters(network), X, y)
    z = z_of_gradients(estimates(network, X, y), exact)
    # Student's t with 63 degrees of freedom: 4.3 stands for the normal 4
    for name, scores in z.items():
        assert np.all(np.abs(scores) < 4.3), f"{name}: z-scores {np.round(scores, 1)}"
    assert np.abs(np.concatenate([np.ravel(v) for v in z.values()])).max() > 1
    for name in exact:
        assert np.abs(exact[name]).max() > 1e-3, f"{name}: nothing was compared"


def test_straight_through_is_biased():
    """The same check fails for an estimator that is not unbiased."""
    network, X, y = reinforce_problem(NETWORKS["6 gates"])
    for layer in network.layers:
        layer.gater = make("st", penalty=None)
    exact = exact_gradient(oracle_parameters(network), X, y)
    z = z_of_gradients(estimates(network, X, y, n_steps=20), exact)
    assert np.abs(z["layers[0].gate_bias"]).max() > 50
    assert np.abs(z["layers[0].expert_weight"]).max() < 4.3


# ---------------------------------------------------------------------------
# Corollary 1: variance
# ---------------------------------------------------------------------------


class OneExample:
    """All 64 configurations of six gates for one example, with their chances."""

    def __init__(self):
        network, X, y = reinforce_problem(NETWORKS["6 gates"])
        params = oracle_parameters(network)
        layer = params.layers[0]
        _, a = oracle.gater_pre_activation(layer, X[1:2])
        # float32, as the kernels have them
        self.a = a[:, 0].astype(np.float32)
        self.p, _ = gate.unit_probability("bernoulli", Noise(), self.a)
        self.p = self.p.astype(np.float64)
        self.h = configurations(len(a))
        self.chance = np.prod(np.where(self.h, self.p, 1 - self.p), axis=1)
        logits = (self.h * oracle.expert_output(layer, X[1:2])[:, 0]) @ (
            params.readout_weight
        ) + params.readout_bias
        self.loss = oracle.cross_entropy(logits, np.full(len(logits), y[1]))
        self.loss = self.loss.astype(np.float32).astype(np.float64)

    def expectation(self, values):
        return np.tensordot(self.chance, values, axes=(0, 0))

    def baseline(self):
        """Eq. 10 for each unit."""
        weight = (self.h - self.p) ** 2
        return self.expectation(weight * self.loss[:, None]) / self.expectation(weight)

    def gradient(self):
        """Eq. 5: p (1 - p) (E[L | h = 1] - E[L | h = 0]) for each unit."""
        losses = self.loss[:, None]
        on = self.expectation(self.h * losses) / self.p
        off = self.expectation((1 - self.h) * losses) / (1 - self.p)
        return self.p * (1 - self.p) * (on - off)

    def estimates(self, baseline, h=None, loss=None):
        """The kernel's (h - p) (L - baseline), of the configurations or of draws."""
        h = self.h if h is None else h
        loss = self.loss if loss is None else loss
        n, nothing = len(h), np.zeros(len(h))
        return np.stack(
            [
                n
                * gate.estimator_gradient(
                    "reinforce",
                    np.full(n, self.a[k]),
                    h[:, k],
                    nothing,
                    loss,
                    baseline=baseline[k],
                ).astype(np.float64)
                for k in range(len(self.a))
            ],
            axis=1,
        )

    def variance(self, baseline):
        found = self.estimates(baseline)
        return self.expectation(found**2) - self.expectation(found) ** 2

    def draw(self, n):
        """Gates of n rows through the kernels, and their losses."""
        uniform = random.uniform(len(self.a), n, KEY, step=77)
        h = np.stack(
            [
                gate.unit_forward("bernoulli", Noise(), np.full(n, a), u)
                for a, u in zip(self.a, uniform, strict=True)
            ],
            axis=1,
        )
        return h, self.loss[(h @ 2 ** np.arange(len(self.a))[::-1]).astype(int)]


EXAMPLE = OneExample()
OFFSETS = np.array([-3.0, -1.0, -0.3, -0.1, 0.1, 0.3, 1.0, 3.0])


@pytest.mark.parametrize("baseline", [-2.0, 0.0, 1.0, 7.0])
def test_theorem_1_summed_over_all_configurations(baseline):
    """Without sampling: the exact expectation of the kernel's estimates."""
    exact = EXAMPLE.gradient()
    assert np.abs(exact).min() > 1e-3
    found = EXAMPLE.expectation(EXAMPLE.estimates(np.full(6, baseline)))
    # float32 estimates of size up to 8
    np.testing.assert_allclose(found, exact, atol=2e-6)


def test_corollary_1_eq_10_has_the_least_variance():
    """Exactly, by enumeration: Var(b) - Var(b*) = (b - b*)^2 E[(h - p)^2]."""
    best = EXAMPLE.baseline()
    least = EXAMPLE.variance(best)
    assert np.all(least > 1e-4)
    second_moment = EXAMPLE.p * (1 - EXAMPLE.p)
    for offset in OFFSETS:
        excess = EXAMPLE.variance(best + offset) - least
        assert np.all(excess > 0)
        np.testing.assert_allclose(
            excess, offset**2 * second_moment, rtol=1e-3, atol=1e-6
        )
    # and it is neither zero nor the mean loss
    mean_loss = EXAMPLE.expectation(EXAMPLE.loss)
    assert np.all(np.abs(best - mean_loss) > 1e-3)
    assert np.all(EXAMPLE.variance(np.full(6, mean_loss)) > least)


def test_corollary_1_eq_10_has_the_least_variance_in_samples():
    """2^18 draws through the kernels, and a grid of baselines around Eq. 10."""
    h, loss = EXAMPLE.draw(1 << 18)
    best = EXAMPLE.baseline()
    variances = np.array(
        [
            EXAMPLE.estimates(best + offset, h, loss).var(axis=0)
            for offset in (0.0, *OFFSETS)
        ]
    )
    np.testing.assert_array_equal(variances.argmin(axis=0), 0)
    # and they are unbiased whatever the baseline
    exact = EXAMPLE.gradient()
    z = [
        z_of_mean(EXAMPLE.estimates(best + offset, h, loss)[:, k], exact[k])
        for offset in (0.0, -1.0, 3.0)
        for k in range(6)
    ]
    check(z)


@pytest.mark.parametrize("baseline", [-1.0, 0.4, 2.0])
def test_equations_11_and_12(baseline):
    """Var[(h - p)(L - b)] = Var[(h - p) L] - D, D = E[(h - p)^2 (L^2 - (L - b)^2)]."""
    weight = (EXAMPLE.h - EXAMPLE.p) ** 2
    loss = EXAMPLE.loss[:, None]
    delta = EXAMPLE.expectation(weight * (loss**2 - (loss - baseline) ** 2))
    first_form = EXAMPLE.expectation(weight * (2 * loss * baseline - baseline**2))
    np.testing.assert_allclose(delta, first_form, rtol=1e-12)
    # the kernel's estimates are float32: 1e-6 of variances of order one
    centred = EXAMPLE.variance(np.full(6, baseline))
    uncentred = EXAMPLE.variance(np.zeros(6))
    np.testing.assert_allclose(centred, uncentred - delta, atol=5e-6)
    assert np.abs(delta).min() > 1e-2


@pytest.mark.parametrize("kind", ["unit", "mean"])
def test_moving_averages_converge_to_eq_10(kind):
    """200 batches of 4096 draws without learning; decay 0.98 averages the last 99."""
    decay, n_steps = 0.98, 200
    network, X, y = reinforce_problem(NETWORKS["6 gates"], baseline=kind)
    layer = network.layers[0]
    layer.gater = replace(layer.gater, averages_decay=decay)
    layer.reinforce[:] = 0
    X, y = np.tile(X[1:2], (N_ROWS, 1)), np.repeat(y[1:2], N_ROWS)
    for _ in range(n_steps):
        network.train(X, y, batch_size=N_ROWS, rates=(0.0, 0.0))
    found = layer.reinforce[0].astype(np.float64) / layer.reinforce[1]

    weight = (EXAMPLE.h - EXAMPLE.p) ** 2 if kind == "unit" else np.ones((64, 6))
    loss = EXAMPLE.loss[:, None]
    exact = EXAMPLE.expectation(weight * loss) / EXAMPLE.expectation(weight)
    # of a quotient of means: the residual's deviation over the denominator
    residual = EXAMPLE.expectation((weight * (loss - exact)) ** 2) ** 0.5
    draws = N_ROWS * (1 + decay) / (1 - decay)
    error = residual / EXAMPLE.expectation(weight) / np.sqrt(draws)
    check((found - exact) / error)
    # standard errors that tell the two baselines apart
    difference = EXAMPLE.baseline() - EXAMPLE.expectation(loss)
    assert np.max(np.abs(difference) / error) > 50


@pytest.mark.parametrize("kind", ["unit", "mean"])
def test_baseline_excludes_the_current_batch(kind):
    """Solved for in da = (h - p) (L - baseline) / B, whatever the batch's labels."""
    shape = Shape(40, 5, (4,), (6,), 3)
    network, X, y = reinforce_problem(shape, baseline=kind)
    network.train(X, y, batch_size=8)
    layer = network.layers[0]
    expected = layer.reinforce[0] / layer.reinforce[1]
    _, a = oracle.gater_pre_activation(oracle_parameters(network).layers[0], X)

    losses = []
    for labels in (y, (y + 1) % 3, np.zeros_like(y)):
        result = network.gradient(X, labels)
        losses.append(result["loss"])
        centred = len(X) * result["da"][0] / (result["gates"][0] - expit(a))
        used = result["loss"] - centred
        # a quotient of float32 numbers: 1e-6 over the least |h - p|
        np.testing.assert_allclose(used, np.tile(expected[:, None], 40), atol=1e-4)
    assert np.abs(losses[0] - losses[1]).max() > 0.1
    # the next batch's baseline does depend on them
    twins = [network, make_network(layer.gater, shape, seed=4)]
    twins[1].restore(network.snapshot())
    twins[1].step = network.step
    for twin, labels in zip(twins, (y, (y + 1) % 3), strict=True):
        twin.train(X, labels, batch_size=40)
    assert np.all(twins[0].layers[0].reinforce[0] != twins[1].layers[0].reinforce[0])


# ---------------------------------------------------------------------------
# Section 4: straight-through
# ---------------------------------------------------------------------------

# L(h), dL/dh: increasing; their negatives decrease.
MONOTONE = {
    "linear": (lambda h: 0.3 * h, lambda h: 0.3 + 0 * h),
    "exp": (np.exp, np.exp),
    "log": (np.log1p, lambda h: 1 / (1 + h)),
    "square": (lambda h: (h + 0.1) ** 2, lambda h: 2 * (h + 0.1)),
    "saturating": (lambda h: np.tanh(3 * h), lambda h: 3 / np.cosh(3 * h) ** 2),
    "softplus": (lambda h: np.logaddexp(0, 4 * h - 3), lambda h: 4 * expit(4 * h - 3)),
}


def expected_straight_through(p, slope, sigmoid_derivative):
    """E[ST] over h, through the kernels."""
    a = np.full(2, np.log(p / (1 - p)))
    h = np.array([0.0, 1.0])
    estimate = gate.estimator_gradient(
        "straight_through",
        a,
        h,
        slope(h),
        np.zeros(2),
        sigmoid_derivative=sigmoid_derivative,
    )
    chance, _ = gate.unit_probability("bernoulli", Noise(), a)
    return float((1 - chance[0]) * estimate[0] + chance[1] * estimate[1])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("sigmoid_derivative", [False, True])
@pytest.mark.parametrize("loss", MONOTONE)
def test_straight_through_has_the_right_sign_for_a_monotone_loss(
    loss, sigmoid_derivative, sign
):
    """The true gradient p (1 - p) (L(1) - L(0)) has the sign of any mean of slopes."""
    value, slope = MONOTONE[loss]
    for p in (0.001, 0.1, 0.4, 0.5, 0.9, 0.999):
        true = sign * p * (1 - p) * (value(1.0) - value(0.0))
        found = expected_straight_through(
            p, lambda h: sign * slope(h), sigmoid_derivative
        )
        assert np.sign(found) == np.sign(true) == sign


def test_straight_through_has_the_wrong_sign_where_the_loss_turns():
    """L = (h - 0.4)^2 and p = 0.1: L(1) - L(0) = 0.2 and E[ST] = -0.6."""
    assert (1 - 0.4) ** 2 - (0 - 0.4) ** 2 == pytest.approx(0.2)
    found = expected_straight_through(0.1, lambda h: 2 * (h - 0.4), False)
    assert found == pytest.approx(-0.6, rel=1e-6)
    found = expected_straight_through(0.1, lambda h: 2 * (h - 0.4), True)
    assert found == pytest.approx(-0.6 * 0.1 * 0.9, rel=1e-6)
