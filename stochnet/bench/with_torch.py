"""PyTorch's contenders: the same gated network, every expert computed and then masked.

Plain autograd and SGD in place, eager or compiled, in float32 or with PyTorch's
"medium" precision of matrix products. Importing this needs PyTorch.
"""

import shutil
from itertools import cycle

import torch
from torch.nn import functional

from stochnet.bench.shapes import LEARNING_RATE, MAX_NORM

#: Name of a contender: (compiled, precision). The first two count as float32.
FLAVOURS = {
    "torch": (False, "highest"),
    "torch compile": (True, "highest"),
    "torch medium": (False, "medium"),
    "torch compile medium": (True, "medium"),
}


class StraightThrough(torch.autograd.Function):
    """Gates, 1 where a uniform number is below p; their gradient goes to `a`."""

    @staticmethod
    def forward(ctx, a, p, uniform, active_only):
        """Return the gates that fire."""
        fired = (uniform < p).to(p.dtype)
        ctx.save_for_backward(fired)
        ctx.active_only = active_only
        return fired

    @staticmethod
    def backward(ctx, gradient):
        """Credit to all gates, or to those that fired."""
        (fired,) = ctx.saved_tensors
        da = gradient * fired if ctx.active_only else gradient
        return da, None, None, None


def parameters_of(network):
    """Copies of a network's parameters: six tensors a layer, readout and its bias."""
    tensors = []
    for layer in network.layers:
        for group in (layer.hidden, layer.gate, layer.expert):
            tensors += [group.values, group.bias_values]
    tensors += [network.readout.values, network.readout_bias.values[0]]
    return [torch.tensor(values).requires_grad_() for values in tensors]


def _layers(parameters):
    return [parameters[i : i + 6] for i in range(0, len(parameters) - 2, 6)]


def criterion(parameters, x, y, density, weight, active_only, uniforms=None):
    """Mean cross-entropy plus the KL penalty.

    Parameters
    ----------
    density, weight : tensor
        Of the penalty; tensors, so that a compiled function serves all values.
    active_only : bool
        The credit of straight-through.
    uniforms : list of tensor of shape (n_rows, n_units), optional
        What decides which gates fire; drawn by default.
    """
    penalty = 0.0
    for i, (Wb, bb, Wg, bg, We, be) in enumerate(_layers(parameters)):
        a = functional.linear(torch.tanh(functional.linear(x, Wb, bb)), Wg, bg)
        p = torch.sigmoid(a)
        u = torch.rand_like(p) if uniforms is None else uniforms[i]
        gates = StraightThrough.apply(a, p.detach(), u, active_only)
        x = gates * functional.linear(x, We, be)
        q = p.mean(0).clamp(1e-6, 1 - 1e-6)
        entropy = density * q.log() + (1 - density) * (1 - q).log()
        penalty = penalty - weight * entropy.sum()
    logits = torch.addmm(parameters[-1], x, parameters[-2])
    return functional.cross_entropy(logits, y) + penalty


def update(parameters, gradients, rate):
    """SGD in place, then max-norm on rows that exceed it."""
    torch._foreach_add_(parameters, gradients, alpha=-rate)
    for weight in parameters[:-2:2]:
        norm = torch.linalg.vector_norm(weight, dim=1)
        over = (norm > MAX_NORM).nonzero().flatten()
        if len(over):
            weight[over] *= (MAX_NORM / norm[over])[:, None]


def update_without_branch(parameters, gradients, rate):
    """The same for the compiler, which fuses it but not around a branch."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.add_(gradient, alpha=-rate)
    for weight in parameters[:-2:2]:
        norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        weight.mul_((MAX_NORM / norm.clamp(min=1e-12)).clamp(max=1.0))


def probabilities(parameters, x, thresholds, gates=None):
    """Class probabilities with thresholded gates, or with those given."""
    for i, (Wb, bb, Wg, bg, We, be) in enumerate(_layers(parameters)):
        if gates is None:
            a = functional.linear(torch.tanh(functional.linear(x, Wb, bb)), Wg, bg)
            silent = a <= thresholds[i]
        else:
            silent = gates[i] == 0
        x = functional.linear(x, We, be).masked_fill_(silent, 0.0)
    return torch.softmax(torch.addmm(parameters[-1], x, parameters[-2]), 1)


class TrainingStep:
    """A mini-batch step, with other rows and fresh gates at every call."""

    def __init__(self, network, data, compiled, precision):
        gater = network.layers[0].gater
        self.parameters, self.precision = parameters_of(network), precision
        self.settings = (
            torch.tensor(gater.density),
            torch.tensor(gater.penalty_weight),
            gater.credit == "active",
        )
        self.batches = _batches(data)
        self.criterion, self.update = criterion, update
        if compiled:
            self.criterion = torch.compile(criterion, dynamic=False)
            self.update = torch.compile(update_without_branch, dynamic=False)

    def __call__(self):
        """Train on the next mini-batch."""
        torch.set_float32_matmul_precision(self.precision)
        x, y = next(self.batches)
        loss = self.criterion(self.parameters, x, y, *self.settings)
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            self.update(self.parameters, gradients, LEARNING_RATE)


class Prediction:
    """Class probabilities of a mini-batch."""

    def __init__(self, network, data, compiled, precision):
        self.parameters = [p.detach() for p in parameters_of(network)]
        self.precision = precision
        self.thresholds = [torch.tensor(layer.threshold) for layer in network.layers]
        self.batches = _batches(data)
        self.probabilities = probabilities
        if compiled:
            self.probabilities = torch.compile(probabilities, dynamic=False)

    def __call__(self):
        """Predict the next mini-batch."""
        torch.set_float32_matmul_precision(self.precision)
        with torch.inference_mode():
            return self.probabilities(
                self.parameters, next(self.batches)[0], self.thresholds
            )


def _batches(data):
    """Mini-batches without end, as tensors made beforehand."""
    starts = range(0, len(data.X), data.batch)
    X, y = torch.from_numpy(data.X), torch.from_numpy(data.y).long()
    return cycle(
        [(X[s : s + data.batch], y[s : s + data.batch]) for s in starts],
    )


def contenders(kind, network, data, n_threads, notes, with_compile=True):
    """All flavours that work here, by name; `notes` gets what does not and why.

    Parameters
    ----------
    kind : {TrainingStep, Prediction}
    notes : list of str
    with_compile : bool
    """
    set_threads(n_threads)
    torch._dynamo.reset()  # or old shapes would count towards its limit
    found = {}
    for name, (compiled, precision) in FLAVOURS.items():
        if compiled and not (with_compile and has_compiler(notes)):
            continue
        contender = kind(network, data, compiled, precision)
        try:
            contender()  # compiles, which is not timed
        except Exception as error:
            if not compiled:
                raise
            # A compiler can fail in as many ways as there are machines.
            notes.append(f"{name} failed: {type(error).__name__}")
            continue
        found[name] = contender
    return found


def set_threads(n_threads):
    """Threads of PyTorch, and of the code that it compiles."""
    torch.manual_seed(0)
    torch.set_num_threads(n_threads)
    torch._inductor.config.cpp.threads = n_threads


def has_compiler(notes):
    """Whether there is a C++ compiler for torch.compile; else a note says so."""
    if any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return True
    if "torch.compile: no C++ compiler" not in notes:
        notes.append("torch.compile: no C++ compiler")
    return False


def matmul(n_threads):
    """A float32 matrix product `f(a, b)` of NumPy arrays that gives tensors."""

    def product(a, b):
        torch.set_float32_matmul_precision("highest")
        return torch.from_numpy(a) @ torch.from_numpy(b)

    set_threads(n_threads)
    return product


def version():
    """PyTorch's version."""
    return torch.__version__
