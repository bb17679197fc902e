"""Optimisers and max-norm on rows of parameters (csrc/update.c)."""
import numpy as np

from libc.string cimport memset
from stochnet._kernels.arrays cimport const_floats, floats, integers
from stochnet._kernels.engine cimport (
    SN_ADAM, SN_GRADIENT, SN_SGD, engine, sn_optimizer, sn_parameters,
)

from stochnet._kernels.arrays import padded_rows

SOLVERS = {"gradient": SN_GRADIENT, "sgd": SN_SGD, "adam": SN_ADAM}


cdef sn_optimizer optimizer_of(object optimizer) except *:
    """C's view of a `stochnet.network.Optimizer`."""
    cdef sn_optimizer out
    out.solver = SOLVERS[optimizer.solver]
    out.nesterov = optimizer.nesterovs_momentum
    out.learning_rate = optimizer.learning_rate
    out.momentum = optimizer.momentum
    out.beta_1, out.beta_2 = optimizer.beta_1, optimizer.beta_2
    out.epsilon = optimizer.epsilon
    out.decay = optimizer.alpha
    out.max_norm = optimizer.max_norm or 0.0
    return out


cdef sn_parameters parameters_of(object parameters) except *:
    """C's view of a `stochnet.network.Parameters`, which must outlive it."""
    cdef sn_parameters out
    memset(&out, 0, sizeof(out))
    weight = parameters.weight
    out.n_rows, out.ld = weight.shape
    out.n = parameters.n
    out.weight = floats(weight, weight.size)
    out.bias = floats(parameters.bias, weight.shape[0])
    for i, state in enumerate(parameters.weight_state):
        out.weight_state[<int>i] = floats(state, weight.size)
    for i, state in enumerate(parameters.bias_state):
        out.bias_state[<int>i] = floats(state, weight.shape[0])
    out.steps = integers(parameters.steps, weight.shape[0])
    return out


def update_rows(parameters, optimizer, rows, gradient, bias_gradient, n_rows=1):
    """One step of `optimizer` on some rows of `parameters`, in place.

    Parameters
    ----------
    parameters : stochnet.network.Parameters
    optimizer : stochnet.network.Optimizer
    rows : iterable of int
        Rows with a gradient; the others keep weights and state.
    gradient : array-like of shape (n_rows_of_parameters, n)
    bias_gradient : array-like of shape (n_rows_of_parameters,)
    n_rows : int
        Size of the mini-batch, which divides `alpha`.
    """
    cdef sn_parameters p = parameters_of(parameters)
    cdef sn_optimizer o = optimizer_of(optimizer)
    o.decay /= n_rows
    gradient = padded_rows(gradient)
    if gradient.shape != parameters.weight.shape:
        raise ValueError(
            f"gradient must be {parameters.weight.shape} with its padding, got "
            f"{gradient.shape}."
        )
    if not all(0 <= row < p.n_rows for row in rows):
        raise ValueError(f"rows must be in [0, {p.n_rows}).")
    cdef const float *g = const_floats(gradient, p.n_rows * p.ld)
    cdef float[::1] bias = np.array(bias_gradient, dtype=np.float32)
    for row in rows:
        engine.update_row(&p, row, g + <Py_ssize_t>row * p.ld, bias[row], &o)
