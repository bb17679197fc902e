"""Kernels alone, with fresh gates in each repeat and threads that share out units."""

import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from stochnet._kernels import timing
from stochnet._kernels.arrays import aligned_zeros, padded_rows, row_length
from stochnet.bench.limits import best_seconds
from stochnet.bench.shapes import EXPERTS_PER_GATE, SEED
from stochnet.bench.timing import PAUSE, make_workers, share_out

#: Most row indices that all sets of gates have together.
_MOST_INDICES = 1 << 24
_LEAST_SETS = 8

#: Pairs of a gate and a row that all sets have together, where there is room.
_LEAST_PAIRS = 2000


class Shared:
    """A kernel's repeats as a contender: threads share out units.

    Parameters
    ----------
    kernel : callable
        Takes first unit, last unit and repeats.
    n_units : int
    workers : list of Executor
        Each keeps its share.
    repeats : int
        Units of work in one call.
    """

    def __init__(self, kernel, n_units, workers, repeats):
        self.kernel, self.workers, self.repeats = kernel, workers, repeats
        edges = np.linspace(0, n_units, len(workers) + 1).astype(int)
        self.ranges = list(zip(edges[:-1], edges[1:], strict=True))

    def __call__(self):
        """Run all units `repeats` times and wait."""
        shares = [(*units, self.repeats) for units in self.ranges]
        share_out(self.workers, self.kernel, shares)


@dataclass
class Kernel:
    """What there is to time, and what it takes.

    Attributes
    ----------
    name : str
    run : callable
        Takes first unit, last unit and repeats.
    n_units : int
    flops, n_bytes, working_set : float
        Of one repeat. Each byte counts once: what is read, what is written.
    product : (ndarray, ndarray)
        The dense matrix product that does the same for all units and rows.
    gathered, inputs : float
        Bytes of the rows of x, once for every unit that reads them, and of x itself.
    """

    name: str
    run: callable
    n_units: int
    flops: float
    n_bytes: float
    working_set: float
    product: tuple
    gathered: float = 0.0
    inputs: float = 0.0

    def contender(self, workers):
        """A `Shared` contender with enough repeats for one call to last."""
        repeats = max(1, int(1e9 / max(self.flops, self.n_bytes, 1)))
        return Shared(self.run, self.n_units, workers, repeats)


def dense_rate(n_threads, repeats):
    """Operations per second of the dense kernel with panels that fit in cache."""
    n_units, n_rows, n = 256 * n_threads, 128, 1024
    x = padded_rows(np.ones((n_rows, n)))
    weight = padded_rows(np.ones((n_units, n)))
    out = np.zeros((n_units, n_rows), dtype=np.float32)

    def kernel(*part):
        timing.dense_forward(out, x, weight, *part)

    time.sleep(PAUSE)
    with make_workers(n_threads) as workers:
        run = Shared(kernel, n_units, workers, 5)
        seconds = best_seconds(run, repeats)
    return 2 * n_units * n_rows * n * run.repeats / seconds


def random_gates(n_units, n_rows, density):
    """Sets of active rows, (n_sets, n_units, n_rows), and their counts.

    As many sets as have pairs enough for their density to be about the one asked for.
    """
    generator = np.random.default_rng(SEED)
    size = n_units * n_rows
    wanted = max(_LEAST_SETS, int(np.ceil(_LEAST_PAIRS / (size * density))))
    n_sets = int(np.clip(_MOST_INDICES // size, 1, wanted))
    fires = generator.random((n_sets, n_units, n_rows), dtype=np.float32) < density
    rows = np.argsort(~fires, axis=2, kind="stable").astype(np.int32)
    return rows, fires.sum(axis=2, dtype=np.int32)


def _gated(expert, x, name, function, arguments, gates, product, passes):
    """A `Kernel` of gated experts, and the density of its gates.

    Weights of active gates are read, and written as well where `passes` is 2.
    """
    (rows, counts), D = gates, expert.n
    n_sets, n_gates, n_rows = rows.shape
    experts_per_gate = len(expert.weight) // n_gates
    # per repeat: pairs of a gate and a row, gates that are active
    pairs, active = counts.sum() / n_sets, np.count_nonzero(counts) / n_sets
    inputs = 4 * D * n_rows
    kernel = Kernel(
        name,
        partial(function, *arguments, *gates),
        n_gates,
        2 * pairs * experts_per_gate * D,
        passes * 4 * D * experts_per_gate * active + inputs,
        expert.weight.nbytes + x.nbytes,
        product,
        4 * D * pairs,
        inputs,
    )
    return kernel, float(pairs / (n_gates * n_rows))


def expert_kernels(network, X, density):
    """Yield kernels of the first layer's experts, and the density of their gates.

    Forward pass and update of single experts; forward pass and gradient of blocks of
    `EXPERTS_PER_GATE`, where the layer has whole ones.
    """
    expert, n_rows = network.layers[0].expert, len(X)
    n_units, x = len(expert.weight), padded_rows(X)
    generator = np.random.default_rng(SEED)
    # too small to move a weight anywhere
    dH = generator.standard_normal((n_units, n_rows), dtype=np.float32) * 1e-6
    optimizer = replace(network.main, learning_rate=1.0)
    forward = timing.expert_forward, (np.zeros_like(dH), x, expert)
    update = timing.expert_update, (expert, optimizer, dH, x)
    block_sum = timing.block_sum, (expert.weight, dH, x)
    outputs, gradients = (expert.values, X.T), (dH, X)

    gated = partial(_gated, expert, x)
    gates = random_gates(n_units, n_rows, density)
    yield gated("expert forward", *forward, gates, outputs, passes=1)
    yield gated("expert update", *update, gates, gradients, passes=2)
    if n_units % EXPERTS_PER_GATE == 0:
        gates = random_gates(n_units // EXPERTS_PER_GATE, n_rows, density)
        yield gated("block forward", *forward, gates, outputs, passes=1)
        yield gated("block sum", *block_sum, gates, gradients, passes=2)


def dense_kernels(network, X):
    """Yield forward pass and weight gradient of the gater's first dense layer."""
    hidden, n_rows = network.layers[0].hidden, len(X)
    M, D = hidden.values.shape
    x = padded_rows(X)
    du = np.full((M, n_rows), 1e-6, dtype=np.float32)
    out = np.zeros((M, n_rows), dtype=np.float32)
    gradient = aligned_zeros(M * row_length(D)).reshape(M, -1)
    flops, n_bytes = 2 * M * D * n_rows, 4 * (M * D + n_rows * D + M * n_rows)
    yield Kernel(
        "dense forward",
        lambda *r: timing.dense_forward(out, x, hidden.weight, *r),
        M,
        flops,
        n_bytes,
        n_bytes,
        (hidden.values, X.T),
    )
    yield Kernel(
        "dense sum",
        lambda *r: timing.dense_sum(gradient, du, x, *r),
        M,
        flops,
        n_bytes,
        n_bytes,
        (du, X),
    )
