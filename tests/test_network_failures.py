"""What is not finite is noticed in the mini-batch that it comes from."""

import numpy as np
import pytest
from helpers import (
    Shape,
    assert_same_bits,
    copy_of_state,
    make,
    make_batch,
    make_network,
)
from network_checks import DEPTHS, SPARSE_NAMES

from stochnet._kernels.network import NetworkKernels
from stochnet.gaters import GATERS
from stochnet.network import Optimizer


def group(network, name):
    return dict(network.parameters())[name]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("0.hidden", "layer 1 (hidden)"),
        ("0.gate", "layer 1 (gate)"),
        ("0.expert", "layer 1 (expert)"),
        ("1.gate", "layer 2 (gate)"),
        ("1.expert", "layer 2 (expert)"),
        ("readout", "readout"),
        ("readout_bias", "readout"),
    ],
)
def test_first_nonfinite_names_the_lowest_group(name, called, bad):
    network = make_network(make("st"), DEPTHS[2])
    assert network.first_nonfinite() is None
    group(network, name).values[-1, -1] = bad
    assert network.first_nonfinite() == called
    if name != "readout_bias":
        group(network, "readout_bias").values[:] = bad
        assert network.first_nonfinite() == called


@pytest.mark.parametrize("name", ["0.hidden", "0.gate", "0.expert", "1.expert"])
def test_first_nonfinite_looks_at_biases(name):
    network = make_network(make("st"), DEPTHS[2])
    group(network, name).bias_values[-1] = np.nan
    assert network.first_nonfinite() is not None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["0.expert", "1.expert", "readout", "readout_bias"])
def test_failed_is_the_first_batch_that_is_not_finite(name, bad):
    """A sigmoid gater reads every expert, so that the first batch already fails."""
    network = make_network(make("sigmoid"), DEPTHS[2])
    X, y = make_batch(DEPTHS[2], n_rows=12)
    group(network, name).values[0, 0] = bad
    loss, _, failed = network.train(X, y, batch_size=4)
    assert failed == 0
    assert not np.isfinite(loss)


@pytest.mark.parametrize("name", GATERS)
def test_failed_is_where_the_bad_row_comes(name):
    """And nothing after that mini-batch is computed."""
    shape = Shape()  # above it, gaters would be closed by what is not finite
    X, y = make_batch(shape, n_rows=20)
    network = make_network(make(name), shape)
    # Gates see a saturated bottleneck, experts overflow, for row 9 and no other.
    X[:, 0], X[9, 0] = 0, 1e20
    network.layers[0].expert.values[:, 0] = 1e20
    snapshot = network.snapshot()
    order = np.array([0, 1, 2, 3, 4, 5, 9, 7, 8, 10, 11, 12])
    loss, _, failed = network.train(X, y, order=order, batch_size=3)
    assert failed == 2
    assert not np.isfinite(loss)
    state = copy_of_state(network)
    network.restore(snapshot)
    network.step = 0
    network.train(X, y, order=order[:9], batch_size=3)
    assert_same_bits(copy_of_state(network), state)


@pytest.mark.parametrize("name", SPARSE_NAMES)
def test_a_gate_that_is_not_a_number_is_closed(name):
    """The loss does not show it, but the step of its weights does."""
    X, y = make_batch(Shape())
    network = make_network(make(name), Shape())
    network.layers[0].gate.values[:] = np.nan
    loss, _, failed = network.train(X, y, batch_size=len(X))
    assert failed == 0
    assert np.isfinite(loss)
    assert not network.layers[0].fired.any()
    assert network.first_nonfinite() == "layer 1 (hidden)"


LARGEST = np.finfo(np.float32).max


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize(
    ("max_norm", "share", "expected"),
    [(None, 1 / 3, 1), (None, 0.9, 0), (1.0, 1 / 3, -1), (1.0, 0.9, 0)],
)
@pytest.mark.parametrize("name", ["0.hidden", "0.gate", "0.expert", "readout"])
def test_failed_is_the_batch_that_leaves_a_bad_weight(
    name, max_norm, share, expected, momentum
):
    """Inputs are zeros and a class is never met: decay alone moves weights, to twice.

    A limit on the norm saves those that are still finite. The readout has none.
    """
    X, y = np.zeros((8, Shape().n_inputs), np.float32), np.zeros(8, np.int32)
    if name == "readout":
        expected = int(share < 0.5)
    for alpha in (0.0, -4.0):
        growing = Optimizer(
            learning_rate=1.0, alpha=alpha, momentum=momentum, max_norm=max_norm
        )
        network = make_network(
            make("sigmoid"), Shape(), main=growing, gater_optimizer=growing
        )
        for biased in ("0.hidden", "0.gate", "0.expert"):
            group(network, biased).bias_values[:] = 0.0
        network.readout_bias.values[0, -1] = -1e4
        group(network, name).values[-1, -1] = share * LARGEST
        loss, _, failed = network.train(X, y, batch_size=4)
        assert failed == (expected if alpha else -1)
        assert np.isfinite(loss)


@pytest.mark.parametrize(("scale", "failed"), [(1e-3, -1), (8.0, 0)])
def test_failed_is_the_batch_that_leaves_a_bad_bias(scale, failed):
    """Inputs and outputs of the experts are zeros: their biases alone move.

    Each row's part of the larger step is finite, so that zeros remain zeros.
    """
    X, y = np.zeros((4, Shape().n_inputs), np.float32), np.zeros(4, np.int32)
    network = make_network(make("sigmoid"), Shape())
    network.layers[0].expert.bias_values[:] = 0.0
    network.readout.values[:] = scale
    network.readout.values[:, 0] = -scale
    loss, _, found = network.train(X, y, batch_size=4, rates=(1e38, 0.1))
    assert found == failed
    assert np.isfinite(loss)
    assert network.first_nonfinite() == (None if failed else "layer 1 (expert)")
    assert np.isfinite(network.layers[0].expert.values).all()


@pytest.mark.parametrize(("input_value", "failed"), [(1e-3, -1), (100.0, 0)])
@pytest.mark.parametrize("experts_per_gate", [1, 16])
def test_failed_is_the_batch_that_leaves_a_bad_block(
    experts_per_gate, input_value, failed
):
    """Experts are zeros, so that they alone move, and by as much as their inputs."""
    shape = Shape(21, 20, (7, 5), (160, 48), 4, (16, experts_per_gate))
    network = make_network(make("st", credit="active"), shape, main=Optimizer())
    below, above = network.layers
    below.expert.values[:], below.expert.bias_values[:] = 0.0, input_value
    above.expert.values[:], above.expert.bias_values[:] = 0.0, 0.0
    network.readout.values[:] = np.sign(network.readout.values)
    X, y = make_batch(shape)
    loss, _, found = network.train(X, y, batch_size=len(X), rates=(1e38, 0.1))
    assert found == failed
    assert np.isfinite(loss)
    assert network.first_nonfinite() == (None if failed else "layer 2 (expert)")
    assert np.isfinite(above.expert.bias_values).all()


def test_failed_is_the_batch_that_leaves_a_bad_bias_of_the_readout():
    """It alone takes a step of the main path where no gate fires."""
    X, y = make_batch(Shape())
    network = make_network(make("st"), Shape())
    network.layers[0].gate.bias_values[:] = -1e4
    _, _, failed = network.train(X, y, batch_size=len(X), rates=(np.inf, 0.1))
    assert failed == 0
    assert network.first_nonfinite() == "readout"
    assert np.isfinite(network.readout.values).all()


@pytest.mark.parametrize("rates", [(np.inf, 0.1), (0.1, np.inf)])
@pytest.mark.parametrize("name", GATERS)
def test_failed_is_the_batch_whose_step_is_infinite(name, rates):
    X, y = make_batch(Shape())
    network = make_network(make(name), Shape())
    loss, _, failed = network.train(X, y, batch_size=len(X), rates=rates)
    assert failed == 0
    assert np.isfinite(loss)


@pytest.mark.parametrize("name", GATERS)
def test_a_huge_learning_rate_fails_and_says_so(name):
    X, y = make_batch(Shape(), n_rows=64)
    network = make_network(make(name), Shape())
    loss, _, failed = network.train(X, y, batch_size=8, rates=(1e25, 1e25))
    assert 0 < failed < 8
    assert not np.isfinite(loss)
    assert network.first_nonfinite() is not None


def test_wrong_arguments_are_refused():
    network = make_network(make("st"), Shape())
    X, y = make_batch(Shape())
    for bad_X, bad_y in ((X[:, :-1].copy(), y), (X, y[:-1])):
        with pytest.raises(ValueError, match="do not fit"):
            network.train(bad_X, bad_y, batch_size=4)
    for bad in (-1, Shape().n_classes):
        with pytest.raises(ValueError, match="y holds values outside"):
            network.train(X, np.full_like(y, bad), batch_size=4)
    for bad in (-1, len(X)):
        with pytest.raises(ValueError, match="order holds values outside"):
            network.train(X, y, order=np.array([0, bad]), batch_size=4)
    with pytest.raises(ValueError, match="does not fit"):
        network.predict_proba(X[:, :-1].copy())
    kernels = NetworkKernels(network, len(X), 1, False)
    for shape in ((len(X) - 1, Shape().n_classes), (len(X), Shape().n_classes + 1)):
        with pytest.raises(ValueError, match="out does not fit"):
            kernels.predict(X, out=np.empty(shape, dtype=np.float32))
