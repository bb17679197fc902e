"""Each estimator of the diagnostics as all that can happen, with its probability.

One example at a time, on a grid where the noise is continuous; nothing is imported from
what these are compared with.
"""

import itertools

import numpy as np
from scipy.special import expit, log_softmax
from scipy.stats import norm


class Example:
    """One example of a problem, losses and slopes of m configurations at a time."""

    def __init__(self, problem, row):
        self.a, self.base = problem.a[row], problem.base[row]
        self.contribution = problem.contribution[row]
        self.target = problem.target[row]
        self.p = 1 / (1 + np.exp(-self.a))

    def log_probability(self, h):
        return log_softmax(self.base + h @ self.contribution, axis=1)

    def loss(self, h):
        return -self.log_probability(h)[:, self.target]

    def slope(self, h):
        delta = np.exp(self.log_probability(h))
        delta[:, self.target] -= 1
        return delta @ self.contribution.T

    def difference(self, h):
        out = np.empty(h.shape)
        for k in range(h.shape[1]):
            on, off = h.copy(), h.copy()
            on[:, k], off[:, k] = 1, 0
            out[:, k] = self.loss(on) - self.loss(off)
        return out


def product(*gates):
    """All joint outcomes of independent gates.

    Each of `gates` is (probabilities, values (n, d)); returns probabilities (m,) and d
    arrays (m, n_gates).
    """
    index = np.indices([len(w) for w, _ in gates]).reshape(len(gates), -1)
    weight = np.prod([w[i] for (w, _), i in zip(gates, index, strict=True)], axis=0)
    values = [np.asarray(v, float)[i] for (_, v), i in zip(gates, index, strict=True)]
    return weight, *np.moveaxis(np.stack(values, axis=1), -1, 0)


def binary(example):
    """Weights and gates of all configurations."""
    return product(*[(np.array([1 - p, p]), [[0], [1]]) for p in example.p])


def uniform(n):
    return (np.arange(n) + 0.5) / n, np.full(n, 1 / n)


def own_st(example, factor=lambda h, p: 1.0):
    weight, h = binary(example)
    return weight, factor(h, example.p) * example.slope(h)


def own_reinforce(baseline):
    def outcomes(example):
        weight, h = binary(example)
        loss = example.loss(h)[:, None]
        return weight, (h - example.p) * (loss - baseline(example, weight, h, loss))

    return outcomes


def own_mean_baseline(example, weight, h, loss):
    return weight @ loss


def own_unit_baseline(example, weight, h, loss):
    square = (h - example.p) ** 2
    return (weight @ (square * loss)) / (weight @ square)


def own_disarm(example):
    """b = 1[u < p] and 1[1 - u < p]: both, none, or either with equal probability."""
    gates = []
    for p in example.p:
        either = min(p, 1 - p)
        weight = np.array([max(1 - 2 * p, 0), max(2 * p - 1, 0), either, either])
        gates.append((weight, [[0, 0], [1, 1], [1, 0], [0, 1]]))
    weight, b, other = product(*gates)
    change = (example.loss(b) - example.loss(other))[:, None] / 2
    sign = np.where(other == 0, 1, -1) * (b != other)
    return weight, change * sign / (1 + np.exp(-np.abs(example.a)))


def own_local_expectation(example):
    weight, h = binary(example)
    return weight, example.p * (1 - example.p) * example.difference(h)


def own_probe(example, q=0.1):
    """Active, inactive and looked at, inactive and not."""
    weight, h, factor = product(
        *[
            (
                np.array([p, (1 - p) * q, (1 - p) * (1 - q)]),
                [[1, 1], [0, 1 / q], [0, 0]],
            )
            for p in example.p
        ]
    )
    return weight, factor * example.p * (1 - example.p) * example.difference(h)


def own_reinmax(example):
    """2 grad at (p + D)/2 minus half of straight-through with p's Jacobian."""
    weight, h = binary(example)
    p1 = (example.p + h) / 2
    step = 2 * p1 * (1 - p1) - 0.5 * example.p * (1 - example.p)
    return weight, example.slope(h) * step


def own_pair(low, high):
    """Gates with the same u at two probabilities: (fires at low, fires at high)."""
    both, one = min(low, high), abs(high - low)
    values = [[0, 0], [1, 1], [0, 1] if high > low else [1, 0]]
    return np.array([1 - both - one, both, one]), values


def own_spsa(example, size=1.0):
    """All signs, and for each the draws that can come out."""
    results = []
    for sign in itertools.product([-1, 1], repeat=len(example.a)):
        sign = np.array(sign)
        low, high = expit(example.a - size * sign), expit(example.a + size * sign)
        weight, below, above = product(*map(own_pair, low, high))
        change = (example.loss(above) - example.loss(below))[:, None]
        results.append((weight / 2 ** len(sign), change / (2 * size * sign)))
    return tuple(np.concatenate(parts) for parts in zip(*results, strict=True))


def own_node_perturbation(example, size=0.5):
    """Gaussian moves on a fine grid, with the draws before and after each."""
    u, each = uniform(150)
    gates = []
    for a, p in zip(example.a, example.p, strict=True):
        weights, values = [], []
        for move in norm.ppf(u):
            weight, pairs = own_pair(p, expit(a + size * move))
            weights += list(weight * each[0])
            values += [[*pair, move] for pair in pairs]
        gates.append((np.array(weights), values))
    weight, h, moved, move = product(*gates)
    change = (example.loss(moved) - example.loss(h))[:, None]
    return weight, change * move / size


def own_finite_differences(example, size=0.5):
    """The draws shared by all steps: where u lies among the three probabilities."""
    gates = []
    for a, p in zip(example.a, example.p, strict=True):
        low, high = expit(a - size), expit(a + size)
        weight = np.array([low, p - low, high - p, 1 - high])
        gates.append((weight, [[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]]))
    weight, below, h, above = product(*gates)
    out = np.empty(h.shape)
    for k in range(h.shape[1]):
        first, last = h.copy(), h.copy()
        first[:, k], last[:, k] = above[:, k], below[:, k]
        out[:, k] = (example.loss(first) - example.loss(last)) / (2 * size)
    return weight, out


def own_concrete(example, temperature=0.5, hard=False):
    u, each = uniform(700)
    odds = (u / (1 - u)) ** (1 / temperature)
    gates = []
    for a in example.a:
        scaled = odds * np.exp(a / temperature)
        gates.append((each, (scaled / (1 + scaled))[:, None]))
    weight, soft = product(*gates)
    h = np.round(soft) if hard else soft
    return weight, example.slope(h) * soft * (1 - soft) / temperature


def own_hard_concrete(example):
    u, each = uniform(700)
    gates = []
    for a in example.a:
        s = 1 / (1 + np.exp(-1.5 * (np.log(u / (1 - u)) + a)))
        gates.append((each, s[:, None]))
    weight, s = product(*gates)
    h = np.minimum(1, np.maximum(0, 1.2 * s - 0.1))
    moves = (h > 0) & (h < 1)
    return weight, np.where(moves, 1.2 * 1.5 * s * (1 - s), 0) * example.slope(h)


def own_noisy_rectifier(example):
    """Slices of the density above 0, all else at 0."""
    gates = []
    for a in example.a:
        edges = np.linspace(0, a + 8, 501)
        middle = (edges[1:] + edges[:-1]) / 2
        weight = norm.pdf(middle - a) * edges[1]
        gates.append((np.append(weight, 1 - weight.sum()), np.append(middle, 0)))
    weight, h = product(*[(w, v[:, None]) for w, v in gates])
    return weight, (h > 0) * example.slope(h)


def own_sts(example):
    root = np.sqrt(example.p)
    weight, b = product(*[(np.array([1 - r, r]), [[0], [1]]) for r in root])
    # d sqrt(p) / da = sqrt(p) (1 - p) / 2
    return weight, b * root * (1 - example.p) / 2 * example.slope(b * root)


DEFINITIONS = {
    "st": own_st,
    "st_active": lambda e: own_st(e, lambda h, p: h),
    "st_derivative": lambda e: own_st(e, lambda h, p: p * (1 - p)),
    "reinmax": own_reinmax,
    "concrete": own_concrete,
    "concrete_st": lambda e: own_concrete(e, hard=True),
    "reinforce": own_reinforce(lambda *_: 0.0),
    "reinforce_mean": own_reinforce(own_mean_baseline),
    "reinforce_unit": own_reinforce(own_unit_baseline),
    "disarm": own_disarm,
    "local_expectation": own_local_expectation,
    "local_expectation_probe": own_probe,
    "spsa": own_spsa,
    "node_perturbation": own_node_perturbation,
    "finite_differences": own_finite_differences,
    "sts": own_sts,
    "noisy_rectifier": own_noisy_rectifier,
    "concrete_relaxed": own_concrete,
    "hard_concrete": own_hard_concrete,
}
ON_A_GRID = {"concrete", "concrete_st", "concrete_relaxed", "hard_concrete"}
ON_A_GRID |= {"noisy_rectifier", "node_perturbation"}
