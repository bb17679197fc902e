"""Every row of the table of estimators, for every unit that it is defined for."""

import numpy as np
import oracle
import pytest
from scipy.special import logit

from stochnet import gaters
from stochnet._kernels import gate

ESTIMATORS = gate.estimators()
LENGTHS = (1, 3, 16, 31, 32, 257)


def is_defined(unit, estimator):
    try:
        oracle.Gater(unit, estimator)
    except ValueError:
        return False
    return True


def cases():
    for estimator, facts in ESTIMATORS.items():
        derivatives = (False, True) if estimator == "straight_through" else (False,)
        temperatures = (0.5, 1.3) if facts["default_temperature"] else (1.0,)
        choices = [
            {"credit": credit, "sigmoid_derivative": derivative, "temperature": t}
            for credit in (("all", "active") if facts["credit_choice"] else ("all",))
            for derivative in derivatives
            for t in temperatures
        ]
        for unit in gate.units():
            if is_defined(unit, estimator):
                for options in choices:
                    name = "-".join([estimator, unit, *map(str, options.values())])
                    yield pytest.param(unit, estimator, options, id=name)


def random_layer(rng, gater, n):
    """A gate's row with float32 values, as the oracle's layer of one unit."""

    def single(values):
        return np.asarray(values, dtype=np.float32).astype(float)

    a = single(rng.normal(-0.5, 2, (1, n)))
    needs = oracle.REQUIRED_NOISE[gater.unit]
    noise = oracle.LayerNoise(
        uniform=single(rng.uniform(size=a.shape)) if "uniform" in needs else None,
        additive=rng.normal(size=a.shape) if "additive" in needs else None,
    )
    output = oracle.apply_unit(a, noise, gater)[1]
    output.h = single(output.h)
    if output.derivative is not None:
        output.derivative = single(output.derivative)
    dh, loss = single(rng.normal(size=(1, n))), single(rng.exponential(2.0, n))
    layer = oracle.LayerResult(None, None, a, output, None, None)
    return layer, noise.uniform, dh, loss


def test_table_is_that_of_the_package():
    assert gaters.ESTIMATORS == ESTIMATORS
    assert {row.estimator for row in gaters.GATERS.values()} <= set(ESTIMATORS)
    indices = [facts["index"] for facts in ESTIMATORS.values()]
    assert indices == list(range(len(indices)))
    for facts in ESTIMATORS.values():
        assert facts["credit"] in gate.CREDIT
    for row in gaters.GATERS.values():
        assert is_defined(row.unit, row.estimator)


def test_every_estimator_is_compared_with_the_oracle():
    assert {case.values[1] for case in cases()} == set(ESTIMATORS)


@pytest.mark.parametrize("baseline", [0.0, 1.75])
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize(("unit", "estimator", "options"), list(cases()))
def test_against_the_oracle(unit, estimator, options, n, baseline):
    gater = oracle.Gater(unit, estimator, **options)
    layer, z, dh, loss = random_layer(np.random.default_rng(n), gater, n)
    expected = oracle.estimate_da(layer, dh, loss, np.array([baseline]), gater)[0]

    # credit is given by the caller: dl_dh is zero where none reaches
    known = dh[0] if gater.credit == "all" else np.where(layer.active[0], dh[0], 0.0)
    slope = layer.gate.derivative
    da = gate.estimator_gradient(
        estimator,
        layer.a[0],
        layer.h[0],
        known,
        loss,
        dh_da=None if slope is None else slope[0],
        z=None if z is None else z[0],
        baseline=baseline,
        temperature=gater.temperature,
        sigmoid_derivative=gater.sigmoid_derivative,
    )
    assert da.dtype == np.float32
    # A few roundings of products; h - p and L - baseline cancel, so that sigm(a) errs
    # by 3e-7 of 1 and not of the difference.
    rounding = 1e-6 * np.abs(expected)
    if ESTIMATORS[estimator]["credit"] == "loss":
        rounding += 6e-7 * np.abs(loss - baseline) / n
    if ESTIMATORS[estimator]["needs_z"]:
        # the rounding of a + l, and log's error of 3e-7, which exp makes relative
        size = (np.abs(layer.a[0]) + np.abs(logit(z[0]))) / gater.temperature
        rounding += 5e-7 * size * np.abs(expected)
    assert np.all(np.abs(da - expected) <= rounding)
    assert np.any(expected) or n < 16


def test_straight_through_sees_gates_that_did_not_fire():
    """With credit "all" (Eq. 13 asks for dL/dh also where h = 0)."""
    da = gate.estimator_gradient("straight_through", [-1.0], [0.0], [2.0], [0.0])
    assert da == 2.0


def test_mean_of_reinforce_is_the_gradient_of_the_expected_loss():
    """Theorem 1, both outcomes weighed by their probability: p (1 - p) (L1 - L0)."""
    a, p = np.log(0.2 / 0.8), 0.2
    da = gate.estimator_gradient(
        "reinforce", [a, a], [0.0, 1.0], [0.0, 0.0], [3.0, 5.0], baseline=7.0
    )
    # times 2: the criterion is the mean of two losses
    mean = 2 * ((1 - p) * da[0] + p * da[1])
    assert mean == pytest.approx(p * (1 - p) * (5.0 - 3.0), rel=1e-5)
