"""Proof, before anything is timed, that contenders compute the same function."""

import copy

import numpy as np

#: Largest difference, relative to the largest number of its array. Sums over tens of
#: thousands of units in float32, in another order.
TOLERANCE = 5e-4

_RATE = 0.1
_N_ROWS = 32


class DisagreementError(RuntimeError):
    """Contenders compute different functions."""


def check_close(name, mine, other):
    """Compare two arrays.

    Raises
    ------
    DisagreementError
        If they differ by more than `TOLERANCE`, or are not finite.
    """
    mine, other = np.asarray(mine, dtype=float), np.asarray(other, dtype=float)
    if mine.shape != other.shape:
        raise DisagreementError(f"{name}: shapes {mine.shape} and {other.shape}")
    scale = max(np.abs(other).max(initial=0), 1e-12)
    difference = np.abs(mine - other).max(initial=0) / scale
    if not difference <= TOLERANCE:
        raise DisagreementError(
            f"{name}: contenders differ by {difference:.2g}, relative to its largest "
            f"number; at most {TOLERANCE} was expected"
        )


def check_training(network, data, with_torch, n_threads):
    """Criterion, gradients and one step's weights, with the gates that are sampled.

    Parameters
    ----------
    network : stochnet.network.Network
    data : stochnet.bench.shapes.Data
    with_torch : module
        `stochnet.bench.with_torch`.
    n_threads : int
    """
    torch = with_torch.torch
    torch.set_float32_matmul_precision("highest")
    X, y = data.X[:_N_ROWS], data.y[:_N_ROWS]
    mine = network.gradient(X, y, n_threads=n_threads)
    # 0 fires below any probability, and 1 below none
    uniforms = [torch.from_numpy(np.float32(h.T == 0)) for h in mine["gates"]]
    parameters = with_torch.parameters_of(network)
    gater = network.layers[0].gater
    loss = with_torch.criterion(
        parameters,
        torch.from_numpy(X),
        torch.from_numpy(y).long(),
        gater.density,
        gater.penalty_weight,
        gater.credit == "active",
        uniforms,
    )
    gradients = torch.autograd.grad(loss, parameters)
    check_close("criterion", mine["criterion"], loss.item())
    pairs = _arrays(lambda name, _: mine["gradient"][name], network)
    for (name, array), gradient in zip(pairs, gradients, strict=True):
        check_close(f"gradient of {name}", array, gradient)
    twin = copy.deepcopy(network)
    twin.train(X, y, batch_size=len(X), n_threads=n_threads, rates=(_RATE, _RATE))
    pairs = list(_arrays(lambda _, p: (p.values, p.bias), twin))
    for update in (with_torch.update, with_torch.update_without_branch):
        stepped = [p.detach().clone() for p in parameters]
        update(stepped, gradients, _RATE)
        for (name, array), other in zip(pairs, stepped, strict=True):
            check_close(f"{name} after a step", array, other)


def _arrays(pair_of, network):
    """Yield names and arrays of weights and biases in the order of `with_torch`."""
    for name, parameters in network.parameters():
        weight, bias = pair_of(name, parameters)
        if name == "readout_bias":
            weight = weight[0]
        yield f"{name} weight", weight
        if name not in ("readout", "readout_bias"):
            yield f"{name} bias", bias[: len(weight)]


def check_prediction(network, data, with_torch, n_threads):
    """Class probabilities, with stochnet's gates, and that the gates are the same.

    A gate whose score is within rounding of its threshold may differ.
    """
    torch = with_torch.torch
    torch.set_float32_matmul_precision("highest")
    X = data.X[:_N_ROWS]
    mine = network.predict_proba(X, n_threads=n_threads)
    gates = gates_of(network, X, n_threads)
    parameters = with_torch.parameters_of(network)
    thresholds = [layer.threshold for layer in network.layers]
    tensors = [torch.from_numpy(h) for h in gates]
    with torch.no_grad():
        x = torch.from_numpy(X)
        given = with_torch.probabilities(parameters, x, thresholds, tensors)
        own = with_torch.probabilities(parameters, x, thresholds)
    check_close("probabilities", mine, given)
    # near-ties apart, which move a probability a little
    if np.abs(mine - own.numpy()).max() > 0.05:
        raise DisagreementError("probabilities with contenders' own gates differ")


def gates_of(network, X, n_threads):
    """Each layer's gates at prediction, (n_rows, n_gates)."""
    chunks = network.gates(X, n_threads=n_threads)
    return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]
