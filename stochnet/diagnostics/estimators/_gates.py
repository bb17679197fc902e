"""The engine's units and estimators on arrays of any shape."""

import numpy as np

from stochnet._kernels import gate
from stochnet.gaters import Noise


def fire(unit, a, z, noise=None):
    """Gates that the engine's unit makes of a and z, which broadcast."""
    shape = np.broadcast_shapes(np.shape(a), np.shape(z))
    a, z = (np.broadcast_to(v, shape).ravel() for v in (a, z))
    return gate.unit_forward(unit, noise or Noise(), a, z).astype(float).reshape(shape)


def derivative(unit, a, h, noise=None):
    """dh/da of the engine's unit, for fixed noise, shaped like h."""
    a = np.broadcast_to(a, h.shape).ravel()
    slope = gate.unit_derivative(unit, noise or Noise(), a, h.ravel())
    return slope.astype(float).reshape(h.shape)


def estimate(name, problem, h, *, sigmoid_derivative=False, temperature=1.0, **known):
    """What the engine's estimator makes of gates h, for each example's own loss.

    `known` are arrays that broadcast to h: dl_dh, loss, dh_da, z.
    """
    zero = np.zeros(h.size)
    arrays = {
        key: np.broadcast_to(value, h.shape).ravel() for key, value in known.items()
    }
    out = gate.estimator_gradient(
        name,
        np.broadcast_to(problem.a, h.shape).ravel(),
        h.ravel(),
        sigmoid_derivative=sigmoid_derivative,
        temperature=temperature,
        **({"dl_dh": zero, "loss": zero} | arrays),
    )
    return out.astype(float).reshape(h.shape)
