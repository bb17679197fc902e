"""Rates, and what an epoch records."""

import numpy as np
import pytest
from helpers import DEPTHS, copy_of_state, make, make_batch, make_network

from stochnet import training
from stochnet.training import Schedule, Trainer

# ---------------------------------------------------------------------------
# Schedule
# ---------------------------------------------------------------------------


def test_rates_stay_without_decay():
    schedule = Schedule(32, learning_rate=0.3, gater_learning_rate=0.01)
    assert [schedule.rates(epoch) for epoch in (0, 1, 500)] == [(0.3, 0.01)] * 3


def test_rates_decay_down_to_a_floor():
    schedule = Schedule(
        32,
        learning_rate=0.3,
        gater_learning_rate=0.2,
        learning_rate_decay=0.5,
        learning_rate_min=0.04,
    )
    assert schedule.rates(0) == (0.3, 0.2)
    assert schedule.rates(1) == (0.15, 0.1)
    assert schedule.rates(2) == (0.075, 0.05)
    assert schedule.rates(3) == (0.04, 0.04)
    assert schedule.rates(10000) == (0.04, 0.04)


def test_the_floor_raises_no_rate():
    schedule = Schedule(
        32, learning_rate=0.3, gater_learning_rate=0.01, learning_rate_min=0.1
    )
    assert schedule.rates(0) == (0.3, 0.01)
    assert schedule.rates(9) == (0.3, 0.01)


# ---------------------------------------------------------------------------
# Trainer
# ---------------------------------------------------------------------------


def make_trainer(name="st", depth=1, **schedule):
    network = make_network(make(name), DEPTHS[depth])
    return Trainer(network, Schedule(**{"batch_size": 8, **schedule}), 1)


def test_an_epoch_is_a_pass_of_the_network():
    trainer, other = make_trainer(depth=2), make_trainer(depth=2)
    X, y = make_batch(DEPTHS[2])
    order = np.random.default_rng(0).permutation(len(X))
    expected, _, _ = other.network.train(
        X, y, order=order, batch_size=8, rates=(0.1, 0.1)
    )
    assert trainer.run_epoch(X, y, 0, order) == pytest.approx(expected, rel=1e-14)
    first, second = (copy_of_state(t.network) for t in (trainer, other))
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
    assert trainer.history.loss == [pytest.approx(expected, rel=1e-14)]
    shares = [layer.fired.mean() / len(X) for layer in trainer.network.layers]
    assert trainer.history.density == [pytest.approx(shares)]


@pytest.mark.parametrize("ordered", [False, True])
def test_an_epoch_in_several_calls(ordered, monkeypatch):
    """The engine gets a few mini-batches a call; nothing depends on how many."""
    X, y = make_batch(DEPTHS[1])
    order = np.random.default_rng(0).permutation(len(X)) if ordered else None
    trainers = []
    for n_batches in (512, 2):
        monkeypatch.setattr(training, "BATCHES_PER_CALL", n_batches)
        trainers.append(make_trainer(batch_size=6))
        trainers[-1].run_epoch(X, y, 0, order)
    losses = [trainer.history.loss[0] for trainer in trainers]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert trainers[0].history.density == trainers[1].history.density
    first, second = (copy_of_state(trainer.network) for trainer in trainers)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
    assert trainers[0].network.step == trainers[1].network.step == 7


def test_an_epochs_counts_are_its_own():
    trainer = make_trainer()
    X, y = make_batch(DEPTHS[1])
    trainer.run_epoch(X, y, 0)
    trainer.network.layers[0].fired[:] = 10**6
    trainer.run_epoch(X, y, 1)
    assert max(trainer.history.density[1]) <= 1


def test_an_epochs_rates_are_the_schedules():
    X, y = make_batch(DEPTHS[1])
    rates = {"learning_rate": 0.2, "gater_learning_rate": 0.1}
    decaying = make_trainer(**rates, learning_rate_decay=0.5)
    decaying.run_epoch(X, y, 1)
    expected = make_trainer()
    expected.network.train(X, y, batch_size=8, rates=(0.1, 0.05))
    first, second = (copy_of_state(t.network) for t in (decaying, expected))
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


@pytest.mark.parametrize(
    ("group", "place"),
    [
        ("0.hidden", r"layer 1 \(hidden\)"),
        ("0.expert", r"layer 1 \(expert\)"),
        ("1.gate", r"layer 2 \(gate\)"),
        ("readout", "readout"),
    ],
)
def test_failure_names_epoch_and_layer(group, place):
    """Of the lowest group; those above are spoiled by it or not, as the step goes."""
    trainer = make_trainer("sigmoid", depth=2, learning_rate=1e-30)
    dict(trainer.network.parameters())[group].weight[0, 0] = np.nan
    X, y = make_batch(DEPTHS[2])
    trainer.network.train = lambda *args, **kwargs: (0.0, 0.0, 0)
    with pytest.raises(ValueError, match=f"in epoch 7, in {place}\\."):
        trainer.run_epoch(X, y, 6)


def test_failure_without_a_bad_weight():
    trainer = make_trainer()
    X, y = make_batch(DEPTHS[1])
    trainer.network.train = lambda *args, **kwargs: (0.0, 0.0, 0)
    with pytest.raises(ValueError, match=r"in epoch 1, in the softmax's input\."):
        trainer.run_epoch(X, y, 0)
