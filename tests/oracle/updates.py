"""Updates of parameters."""

from dataclasses import dataclass, fields

import numpy as np

from oracle.arguments import Float64Arrays, require


@dataclass
class OptimiserState(Float64Arrays):
    """State of the optimiser of one 2-D array.

    Attributes
    ----------
    velocity : ndarray of shape (rows, columns)
        SGD.
    first_moment, second_moment : ndarray of shape (rows, columns)
        Adam.
    step_count : ndarray of shape (rows,)
        Adam: how often each row has been updated.
    """

    velocity: np.ndarray
    first_moment: np.ndarray
    second_moment: np.ndarray
    step_count: np.ndarray


def new_optimiser_state(weight):
    """State before the first update of `weight`: zeros."""
    return OptimiserState(
        velocity=np.zeros(weight.shape),
        first_moment=np.zeros(weight.shape),
        second_moment=np.zeros(weight.shape),
        step_count=np.zeros(len(weight)),
    )


def update(
    weight,
    gradient,
    state,
    active_rows,
    *,
    solver,
    learning_rate,
    momentum,
    nesterovs_momentum,
    beta_1,
    beta_2,
    epsilon,
):
    """One lazy update: inactive rows keep their weights and their state.

    Parameters
    ----------
    weight, gradient : ndarray of shape (rows, columns)
    state : OptimiserState
    active_rows : bool ndarray of shape (rows,)
    solver : {"sgd", "adam"}
    learning_rate : float
    momentum : float
    nesterovs_momentum : bool
        `momentum` and `nesterovs_momentum` are read by SGD, see `sgd_rows`.
    beta_1, beta_2, epsilon : float
        Read by Adam, see `adam_rows`.

    Returns
    -------
    weight : ndarray of shape (rows, columns)
        A new array; the arguments are not changed.
    state : OptimiserState
        Likewise new.
    """
    require("solver", solver, ("sgd", "adam"))
    weight = np.array(weight, dtype=np.float64)
    gradient = np.asarray(gradient, dtype=np.float64)
    state = OptimiserState(*(getattr(state, f.name).copy() for f in fields(state)))
    # Indexing with the mask, not multiplying by it: the gradient of an inactive
    # row is not even read.
    rows = np.flatnonzero(active_rows)
    if solver == "sgd":
        change, state.velocity[rows] = sgd_rows(
            gradient[rows],
            state.velocity[rows],
            learning_rate,
            momentum,
            nesterovs_momentum,
        )
    else:
        state.step_count[rows] += 1
        change, state.first_moment[rows], state.second_moment[rows] = adam_rows(
            gradient[rows],
            state.first_moment[rows],
            state.second_moment[rows],
            state.step_count[rows],
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
        )
    weight[rows] += change
    return weight, state


def sgd_rows(gradient, velocity, learning_rate, momentum, nesterovs_momentum):
    """Stochastic gradient descent with momentum.

    v <- momentum v - learning_rate g; the weights change by v, or, with
    Nesterov's momentum, by momentum v - learning_rate g with the new v.

    Parameters
    ----------
    gradient, velocity : ndarray of shape (rows, columns)
    learning_rate, momentum : float
    nesterovs_momentum : bool

    Returns
    -------
    change, velocity : ndarray of shape (rows, columns)
    """
    velocity = momentum * velocity - learning_rate * gradient
    if nesterovs_momentum:
        return momentum * velocity - learning_rate * gradient, velocity
    return velocity, velocity


def adam_rows(
    gradient,
    first_moment,
    second_moment,
    step_count,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
):
    """Adam, with a step count t for each row.

    m <- beta_1 m + (1 - beta_1) g, v <- beta_2 v + (1 - beta_2) g^2, and the
    weights change by -r m / (sqrt(v) + epsilon), where
    r = learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t).

    Parameters
    ----------
    gradient, first_moment, second_moment : ndarray of shape (rows, columns)
    step_count : ndarray of shape (rows,)
        Including this update: 1 at the first.
    learning_rate, beta_1, beta_2, epsilon : float

    Returns
    -------
    change, first_moment, second_moment : ndarray of shape (rows, columns)
    """
    first_moment = beta_1 * first_moment + (1.0 - beta_1) * gradient
    second_moment = beta_2 * second_moment + (1.0 - beta_2) * gradient**2
    corrections = np.sqrt(1.0 - beta_2**step_count) / (1.0 - beta_1**step_count)
    rate = learning_rate * corrections[:, None]
    change = -rate * first_moment / (np.sqrt(second_moment) + epsilon)
    return change, first_moment, second_moment


def max_norm(weight, limit, active_rows):
    """Rescale active rows whose Euclidean norm exceeds `limit` to `limit`.

    Parameters
    ----------
    weight : ndarray of shape (rows, columns)
    limit : float
    active_rows : bool ndarray of shape (rows,)

    Returns
    -------
    ndarray of shape (rows, columns)
        A new array.
    """
    weight = np.array(weight, dtype=np.float64)
    norms = np.linalg.norm(weight, axis=1)
    too_long = np.asarray(active_rows, dtype=bool) & (norms > limit)
    weight[too_long] *= limit / norms[too_long, None]
    return weight
