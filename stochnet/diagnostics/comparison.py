"""Bias, variance, direction and cost of estimators, measured."""

import inspect
import time

import numpy as np
from threadpoolctl import threadpool_limits

from stochnet.diagnostics.estimators import ESTIMATORS
from stochnet.diagnostics.problem import MOST_GATES_OF, exact_gradient
from stochnet.diagnostics.quadrature import RULES

#: Draws of all gates that are held at a time.
_DRAWS_AT_A_TIME = 256


def compare_estimators(
    problem, estimators=None, n_draws=2000, random_state=0, options=None
):
    """Bias, variance, direction and cost of estimators beside the exact gradient.

    Parameters
    ----------
    problem : GateProblem
        With at most 20 gates.
    estimators : iterable of str, optional
        Names in `ESTIMATORS`; by default all whose exact gradient can be computed for
        as many gates: those of units that have a density need at most 3.
    n_draws : int, default=2000
        Independent estimates, at least 2.
    random_state : int
    options : dict of str to dict, optional
        Keyword arguments for estimators by name, such as ``{"spsa": {"size": 0.1}}``;
        what they are is in the functions' docstrings. A temperature changes the exact
        gradient as well where the relaxed gate's is asked for.

    Returns
    -------
    dict of str to dict with
        mean : ndarray of shape (n_rows, n_gates);
        bias : ndarray, mean minus the exact gradient;
        standard_error : ndarray, of the mean and so of the bias;
        variance : float, summed over gates, mean over examples;
        squared_bias : float, likewise, less what the standard error explains, at
            least 0;
        cosine : float, of mean and exact gradient, over all elements;
        seconds : float, of one thread's processor time, for one estimate of all
            examples, of which up to 256 are made together;
        variance_seconds : float, variance times seconds: what an average of as many
            estimates as fit in a second has left;
        loss_evaluations : float, for one estimate of one example; the loss together
            with its derivatives by all gates counts as one;
        gate_contributions : float, vectors of contributions to the logits that these
            read.

    Raises
    ------
    ValueError
        For an unknown name or option, fewer than 2 draws, or more gates than the exact
        gradient can be computed for.
    """
    if n_draws < 2:
        raise ValueError(f"n_draws must be at least 2, got {n_draws}.")
    if estimators is None:
        estimators = _computable(problem)
    chosen = _choose(estimators, options)
    exact = _exact_gradients(problem, chosen)
    seeds = np.random.SeedSequence(random_state).spawn(len(chosen))
    _keep_freed_memory()
    with threadpool_limits(1, user_api="blas"):
        return {
            name: _measure(problem, *row, gradient, n_draws, seed)
            for (name, row), gradient, seed in zip(
                chosen.items(), exact, seeds, strict=True
            )
        }


def estimation_cost(
    problem, estimators, n_draws=64, n_repeats=5, random_state=0, options=None
):
    """What an estimate costs, for any number of gates: nothing exact is computed.

    Parameters
    ----------
    problem : GateProblem
    estimators : iterable of str
    n_draws : int, default=64
        Estimates that are made, and timed, together.
    n_repeats : int, default=5
        The fastest counts.
    random_state : int
    options : dict of str to dict, optional
        As in `compare_estimators`.

    Returns
    -------
    dict of str to dict with
        seconds, loss_evaluations, gate_contributions : float
            As in `compare_estimators`.

    Raises
    ------
    ValueError
        For an unknown name or option.
    """
    costs = {}
    _keep_freed_memory()
    for name, (row, arguments) in _choose(estimators, options).items():
        generator = np.random.default_rng(random_state)
        arguments = _prepared(problem, row, arguments, generator)
        z = generator.random((n_draws, *problem.a.shape))
        counted, seconds = _Counted(problem), []
        with threadpool_limits(1, user_api="blas"):
            for _ in range(n_repeats):
                start = time.thread_time()
                row.function(counted, z, generator, **arguments)
                seconds.append(time.thread_time() - start)
        costs[name] = {
            "seconds": min(seconds) / n_draws,
            **counted.per_example(n_draws * n_repeats),
        }
    return costs


def _keep_freed_memory():
    """Let the C library reuse memory that an estimate frees, where it has a choice.

    glibc gives pieces back to the system, and fetching them again page by page takes
    longer than the estimate itself, until a larger one has been freed once.
    """
    np.empty(30 << 20, dtype=np.uint8)


def _computable(problem):
    """Names of the estimators whose exact gradient can be computed."""
    names = [
        name
        for name, row in ESTIMATORS.items()
        if problem.n_gates <= MOST_GATES_OF[row.unit]
    ]
    # with too many gates for all of them, say so
    return names or list(ESTIMATORS)


def _choose(estimators, options):
    """Name -> (row, its options), all checked."""
    names, options = list(estimators), options or {}
    unknown = [name for name in [*names, *options] if name not in ESTIMATORS]
    if unknown:
        valid = ", ".join(map(repr, ESTIMATORS))
        raise ValueError(f"Unknown estimators {unknown}; valid: {valid}.")
    chosen = {}
    for name in names:
        row, given = ESTIMATORS[name], options.get(name, {})
        valid = [
            parameter.name
            for parameter in inspect.signature(row.function).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]
        for option in given:
            if option not in valid:
                raise ValueError(
                    f"Estimator {name!r} has no option {option!r}; valid: {valid}."
                )
        chosen[name] = row, row.options | given
    return chosen


def _exact_gradients(problem, chosen):
    """The exact gradient for each estimator, each different one computed once."""
    gradients, known = [], {}
    for name, (row, arguments) in chosen.items():
        parameters = {}
        if row.unit in RULES:
            of_the_unit = inspect.signature(RULES[row.unit]).parameters
            parameters = {k: v for k, v in arguments.items() if k in of_the_unit}
        key = row.unit, repr(sorted(parameters.items()))
        if key not in known:
            try:
                known[key] = exact_gradient(problem, row.unit, **parameters)[1]
            except ValueError as error:
                raise ValueError(f"Estimator {name!r}: {error}") from error
        gradients.append(known[key])
    return gradients


def _prepared(problem, row, arguments, generator):
    """Options with those computed for the problem; given ones take precedence."""
    if row.prepare is None:
        return arguments
    return row.prepare(problem, generator) | arguments


class _Counted:
    """A problem, for estimators, that counts what they ask of it."""

    def __init__(self, problem):
        self.problem = problem
        self.a, self.noise_scale = problem.a, problem.noise_scale
        self.loss_evaluations = self.gate_contributions = 0

    def loss(self, h):
        self._count(h.size // self.problem.n_gates, h.size)
        return self.problem.loss(h)

    def slope(self, h):
        # contributions are read forward, and again backward
        self._count(h.size // self.problem.n_gates, 2 * h.size)
        return self.problem.slope(h)

    def difference(self, h, where=None):
        flips = h.size if where is None else np.count_nonzero(where)
        self._count(h.size // self.problem.n_gates + flips, h.size + flips)
        return self.problem.difference(h, where)

    def _count(self, losses, contributions):
        self.loss_evaluations += losses
        self.gate_contributions += contributions

    def per_example(self, n_estimates):
        """Counts for one estimate of one example."""
        n = n_estimates * len(self.a)
        return {
            "loss_evaluations": self.loss_evaluations / n,
            "gate_contributions": self.gate_contributions / n,
        }


def _measure(problem, row, arguments, exact, n_draws, seed):
    """An entry of the result of `compare_estimators`."""
    generator, counted = np.random.default_rng(seed), _Counted(problem)
    arguments = _prepared(problem, row, arguments, generator)
    samples, seconds = [], 0.0
    for first in range(0, n_draws, _DRAWS_AT_A_TIME):
        n = min(_DRAWS_AT_A_TIME, n_draws - first)
        z = generator.random((n, *problem.a.shape))
        start = time.thread_time()
        samples.append(row.function(counted, z, generator, **arguments))
        seconds += time.thread_time() - start
    samples = np.concatenate(samples)
    return _summary(samples, exact, seconds / n_draws) | counted.per_example(n_draws)


def _summary(samples, exact, seconds):
    """What estimates (n_draws, n_rows, n_gates) say beside the exact gradient."""
    mean, spread = samples.mean(axis=0), samples.var(axis=0, ddof=1)
    bias, noise = mean - exact, spread / len(samples)
    variance = float(spread.sum(axis=1).mean())
    norms = np.linalg.norm(mean) * np.linalg.norm(exact)
    return {
        "mean": mean,
        "bias": bias,
        "standard_error": np.sqrt(noise),
        "variance": variance,
        "squared_bias": max(0.0, float((bias**2 - noise).sum(axis=1).mean())),
        "cosine": float((mean * exact).sum() / norms) if norms > 0 else 0.0,
        "seconds": seconds,
        "variance_seconds": variance * seconds,
    }
