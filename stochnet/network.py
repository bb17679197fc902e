"""A network of conditional layers: its parameters, and one mini-batch at a time.

Each layer has a gater (``n_hidden`` tanh units, then one gate per expert) and linear
experts; its output is gate times expert, zero where a gate is. The last layer feeds a
softmax. All arithmetic is in the C engine; this module owns the memory.
"""

import copy
from dataclasses import dataclass, field

import numpy as np

from stochnet._kernels.arrays import aligned_zeros, row_length
from stochnet._kernels.expert import forward as expert_forward
from stochnet._kernels.network import NetworkKernels
from stochnet.initialization import balance_gates, draw_weights

#: Floats that the (units, rows) arrays of one prediction call may take together.
PREDICTION_FLOATS = 1 << 26

#: Inputs of one prediction call, unless 512 rows have more: gathered experts read each
#: row many times, and take a fifth longer where the caches do not hold them all.
CACHED_INPUTS = 1 << 20

#: The same floats, and the most rows, of one call while fitting: less memory than a
#: mini-batch's. To write fresh memory takes as long as many a prediction into it.
FITTING_FLOATS = 1 << 20
FITTING_ROWS = 256


@dataclass(frozen=True)
class Optimizer:
    """Settings of one path's updates; names and meaning as in `MLPClassifier`.

    ``solver="gradient"`` stores each gradient in place of an update. ``max_norm``
    limits the Euclidean norm of each unit's incoming weights; None for no limit.
    """

    solver: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    nesterovs_momentum: bool = False
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    alpha: float = 0.0
    max_norm: float | None = None

    @property
    def n_states(self):
        """Arrays of state for each parameter."""
        if self.solver == "sgd":
            return int(self.momentum > 0)
        return {"gradient": 1, "adam": 2}[self.solver]


@dataclass
class Parameters:
    """Units with their incoming weights, one unit a row, rows padded with zeros.

    Attributes
    ----------
    n : int
        Weights of a row; what lies beyond is padding.
    weight : ndarray of shape (n_units, row_length(n)), float32
    bias : ndarray of shape (>= n_units,), float32, or None
    weight_state, bias_state : list of ndarray
        The optimiser's state, shaped like weight and bias.
    steps : ndarray of shape (n_units,), int32
        Updates that each row has taken, for Adam.
    """

    n: int
    weight: np.ndarray
    bias: np.ndarray | None
    weight_state: list = field(default_factory=list)
    bias_state: list = field(default_factory=list)
    steps: np.ndarray | None = None

    @property
    def values(self):
        """The weights without padding, (n_units, n), a view."""
        return self.weight[:, : self.n]

    @property
    def bias_values(self):
        """The biases without padding, (n_units,), a view."""
        return self.bias[: len(self.weight)]


class Layer:
    """One conditional layer: sizes, gater, parameters and the state of its gates.

    Attributes
    ----------
    hidden, gate, expert : Parameters
        (M, D) bottleneck of the gater, (K, M) gates, (E, D) experts, where gate k
        switches the G = experts_per_gate experts from k G on.
    penalty_weight : ndarray of shape (1,)
        Present weight of the penalty.
    rate : ndarray of shape (K,)
        Moving average of each gate's firing rate in training.
    reinforce : ndarray of shape (2, K)
        Moving averages of the numerator and the denominator of Eq. 10.
    fired : ndarray of shape (K,), int64
        Non-zero values of each gate since last cleared.
    threshold : float
        At prediction a gate fires where its score exceeds this.
    value : int
        Which of the unit's deterministic values a gate takes at prediction.
    """

    #: Names of the arrays that are state, beside parameters.
    STATE = ("penalty_weight", "rate", "reinforce", "fired")

    def __init__(self, n_inputs, n_hidden, n_units, experts_per_gate, gater):
        self.n_inputs, self.n_hidden, self.n_units = n_inputs, n_hidden, n_units
        self.experts_per_gate = experts_per_gate
        self.n_gates = n_units // experts_per_gate
        self.gater = gater
        self.penalty_weight = np.full(1, gater.penalty_weight, dtype=np.float32)
        self.rate = np.full(self.n_gates, gater.density, dtype=np.float32)
        self.reinforce = np.zeros((2, self.n_gates), dtype=np.float32)
        self.fired = np.zeros(self.n_gates, dtype=np.int64)
        self.threshold = -np.inf
        self.value = 0


class Network:
    """Parameters, optimiser state and random key of a gated network.

    Parameters
    ----------
    n_inputs, n_classes : int
    hidden_layer_sizes : sequence of int
        Experts of each layer, a multiple of its experts per gate.
    gater_hidden_sizes : sequence of int
        Tanh units of each layer's gater.
    gater : stochnet.gaters.Gater
    main, gater_optimizer : Optimizer
        Of experts and readout, and of the gaters. They share one solver.
    experts_per_gate : sequence of int, optional
        Experts that each gate of a layer switches, 1 by default.
    input_dropout : float in [0, 1)
        Share of the inputs that is set to zero in training.
    averaging : float, optional
        How much more later weights count in the average that predicts; see
        `add_to_average`. Without it the last weights predict.
    initialization : {"sparse", "glorot", "authors"}
    seed : int
        In [0, 2^64): the key of all that is random.
    rows : ndarray of shape (n, n_inputs), float32, optional
        Examples on which "sparse" sees how far inputs move the gates; standard normal
        numbers by default.
    n_threads : int
        That draw and scale the initial weights.
    """

    def __init__(
        self,
        n_inputs,
        n_classes,
        hidden_layer_sizes,
        gater_hidden_sizes,
        gater,
        main,
        gater_optimizer,
        experts_per_gate=None,
        input_dropout=0.0,
        averaging=None,
        initialization="sparse",
        seed=0,
        rows=None,
        n_threads=1,
    ):
        self.n_inputs, self.n_classes = n_inputs, n_classes
        self.main, self.gater = main, gater_optimizer
        self.input_dropout = input_dropout
        self.averaging, self.n_averaged, self._average = averaging, 0, None
        self.seed = int(seed)
        self.step = 0
        widths = [n_inputs, *hidden_layer_sizes]
        self.layers = [
            Layer(n_in, n_hidden, n_units, size, gater)
            for n_in, n_hidden, n_units, size in zip(
                widths[:-1],
                gater_hidden_sizes,
                widths[1:],
                experts_per_gate or [1] * len(hidden_layer_sizes),
                strict=True,
            )
        ]
        self._steps = {
            name: np.zeros(n_rows, dtype=np.int32)
            for name, n_rows, _, _ in self._groups()
        }
        n_states = max(main.n_states, gater_optimizer.n_states)
        size = sum(self._group_size(*group[1:]) for group in self._groups())
        self._flat = [aligned_zeros(size) for _ in range(1 + n_states)]
        self._make_views()
        draw_weights(self, initialization, n_threads)
        if initialization == "sparse":
            balance_gates(self, rows, n_threads)

    # ---- memory: one flat array of parameters, one of each state, named views ----

    def _groups(self):
        """Name, rows, weights per row and presence of a bias of each group."""
        for i, layer in enumerate(self.layers):
            yield f"{i}.hidden", layer.n_hidden, layer.n_inputs, True
            yield f"{i}.gate", layer.n_gates, layer.n_hidden, True
            yield f"{i}.expert", layer.n_units, layer.n_inputs, True
        yield "readout", self.layers[-1].n_units, self.n_classes, False
        yield "readout_bias", 1, self.n_classes, False

    @staticmethod
    def _group_size(n_rows, n, has_bias):
        return n_rows * row_length(n) + has_bias * row_length(n_rows)

    def _make_views(self):
        start, self._views = 0, {}
        for name, n_rows, n, has_bias in self._groups():
            middle = start + n_rows * row_length(n)
            end = start + self._group_size(n_rows, n, has_bias)
            weights = [f[start:middle].reshape(n_rows, -1) for f in self._flat]
            biases = [f[middle:end] if has_bias else None for f in self._flat]
            parameters = Parameters(
                n, weights[0], biases[0], weights[1:], biases[1:], self._steps[name]
            )
            self._views[name] = parameters
            owner, _, attribute = name.rpartition(".")
            setattr(self.layers[int(owner)] if owner else self, attribute, parameters)
            start = end
        self._training_kernels, self._prediction_kernels = None, []

    def __getstate__(self):
        """Everything but views and bound kernels."""
        state = self.__dict__.copy()
        for name, *_ in self._groups():
            if "." not in name:
                del state[name]
        state["layers"] = []
        for layer in self.layers:
            bare = copy.copy(layer)
            for name in ("hidden", "gate", "expert"):
                delattr(bare, name)
            state["layers"].append(bare)
        state["_views"] = state["_training_kernels"] = None
        state["_prediction_kernels"] = []
        return state

    def __setstate__(self, state):
        """Restore, with parameters aligned again."""
        self.__dict__.update(state)
        flat = self._flat
        self._flat = [aligned_zeros(len(f)) for f in flat]
        for mine, stored in zip(self._flat, flat, strict=True):
            mine[:] = stored
        # what was stored may be mapped read-only
        self._steps = {name: steps.copy() for name, steps in self._steps.items()}
        for layer in self.layers:
            for name in layer.STATE:
                setattr(layer, name, getattr(layer, name).copy())
        self._make_views()

    @property
    def key(self):
        """The two 32-bit words of the seed."""
        return self.seed & 0xFFFFFFFF, self.seed >> 32

    def parameters(self):
        """Yield (name, Parameters) of every group, bottom up."""
        yield from self._views.items()

    # ---- averaged weights ----------------------------------------------------------

    @property
    def predictor(self):
        """The network that predicts: of the averaged weights, if there are any."""
        return self._average or self

    def add_to_average(self):
        """Take the present weights into the average of those that predict.

        The t-th weights that are taken count in proportion to about t^averaging:
        polynomial-decay averaging, Shamir & Zhang (2013).
        """
        self.n_averaged += 1
        if self._average is None:
            self._average = self._with_own_weights()
        share = np.float32((1 + self.averaging) / (self.n_averaged + self.averaging))
        mean, now = self._average._flat[0], self._flat[0]
        for start in range(0, len(now), 1 << 16):  # no copy of all weights
            piece = slice(start, start + (1 << 16))
            mean[piece] += share * (now[piece] - mean[piece])

    def _with_own_weights(self):
        """A network for predictions, with a copy of the weights and own thresholds."""
        twin = self._twin(
            layers=[copy.copy(layer) for layer in self.layers],
            _flat=[aligned_zeros(len(self._flat[0]))],
        )
        twin._flat[0][:] = self._flat[0]
        twin._make_views()
        return twin

    def _twin(self, **changes):
        """A network that shares all of this one, except `changes` and workspaces."""
        twin = object.__new__(type(self))
        twin.__dict__.update(
            self.__dict__, _training_kernels=None, _prediction_kernels=[], **changes
        )
        return twin

    def snapshot(self):
        """What `restore` needs to bring parameters and gates back to now."""
        return (
            self._average and self._average.snapshot(),
            self.n_averaged,
            [f.copy() for f in self._flat],
            {name: steps.copy() for name, steps in self._steps.items()},
            [
                (
                    {name: getattr(layer, name).copy() for name in layer.STATE},
                    layer.threshold,
                    layer.value,
                )
                for layer in self.layers
            ],
        )

    def restore(self, snapshot):
        """Undo what happened since `snapshot`, except the count of steps."""
        average, self.n_averaged, flat, steps, layers = snapshot
        if average is None:
            self._average = None
        else:
            self._average.restore(average)
        for mine, stored in zip(self._flat, flat, strict=True):
            mine[:] = stored
        for name, stored in steps.items():
            self._steps[name][:] = stored
        for layer, (state, threshold, value) in zip(self.layers, layers, strict=True):
            for name, stored in state.items():
                getattr(layer, name)[:] = stored
            layer.threshold, layer.value = threshold, value

    # ---- randomness ----------------------------------------------------------------

    def generator(self, *stream):
        """A NumPy generator that is a function of the seed and of `stream` alone."""
        return np.random.Generator(
            np.random.Philox(np.random.SeedSequence([self.seed, *stream]))
        )

    # ---- training ------------------------------------------------------------------

    def train(
        self, X, y, *, order=None, batch_size, n_threads=1, rates=None, capacity=None
    ):
        """Mini-batch steps over the examples, in place.

        Parameters
        ----------
        X : ndarray of shape (n, n_inputs), float32, C order
        y : ndarray of shape (n,), int32
            Class indices.
        order : ndarray of int64, optional
            Rows to visit, in order.
        batch_size : int
        n_threads : int
        rates : pair of float, optional
            Learning rates of main path and gater, in place of the optimisers' own.
        capacity : int, optional
            Rows of the workspace, at least batch_size.

        Returns
        -------
        loss, penalty : float
            Means over the examples.
        failed : int
            First mini-batch whose loss is not finite, or that left weights that are
            not; or -1.
        """
        kernels = self._bind_training(max(batch_size, capacity or 0), n_threads)
        kernels.set_learning_rates(
            *(rates or (self.main.learning_rate, self.gater.learning_rate))
        )
        loss, penalty, failed = kernels.train(X, y, order, batch_size, self.step)
        n = len(X) if order is None else len(order)
        self.step += -(-n // batch_size)
        return loss / max(n, 1), penalty / max(n, 1), failed

    def _bind_training(self, n_rows, n_threads):
        bound = self._training_kernels
        if bound is None or bound[0] < n_rows or bound[1] != n_threads:
            kernels = NetworkKernels(self, n_rows, n_threads, True)
            self._training_kernels = bound = (n_rows, n_threads, kernels)
        return bound[2]

    def release(self):
        """Free the workspaces."""
        self._training_kernels, self._prediction_kernels = None, []
        if self._average is not None:
            self._average.release()

    def gradient(self, X, y, *, step=None, n_threads=1):
        """Gradient of the criterion on one mini-batch, with the gates that it samples.

        Parameters
        ----------
        X : ndarray of shape (n, n_inputs), float32
        y : ndarray of shape (n,), int32
        step : int, optional
            Mini-batch whose noise is drawn; the next one by default.

        Returns
        -------
        dict with
            loss : ndarray of shape (n,), each row's cross-entropy;
            criterion : float, mean cross-entropy plus penalties;
            gates, da : lists, one (K, n) array a layer;
            experts : list, one (E, n) array a layer, NaN where a gate is zero;
            gradient : dict of (weight, bias) by name of the parameters' group.
        """
        twin = copy.deepcopy(self)
        for layer in twin.layers:
            layer.gater = layer.gater.without_control()
        twin.main = Optimizer("gradient", alpha=self.main.alpha)
        twin.gater = Optimizer("gradient", alpha=self.gater.alpha)
        twin.step = self.step if step is None else step
        twin._flat = [twin._flat[0], aligned_zeros(len(twin._flat[0]))]
        twin._make_views()
        loss, penalty, _ = twin.train(X, y, batch_size=len(X), n_threads=n_threads)
        kernels = twin._training_kernels[2]
        n = len(X)
        gates = [w["h"][:, :n] for w in kernels.workspace]
        return {
            "loss": kernels.loss()[:n],
            "criterion": loss + penalty,
            "gates": gates,
            "experts": list(twin.expert_outputs(X, gates)),
            "da": [w["da"][:, :n] for w in kernels.workspace],
            "gradient": {
                name: (
                    p.weight_state[0][:, : p.n],
                    None if p.bias is None else p.bias_state[0][: len(p.weight)],
                )
                for name, p in twin.parameters()
            },
        }

    def expert_outputs(self, X, gates):
        """Outputs of the experts that given gates switch on, layer by layer.

        Parameters
        ----------
        X : ndarray of shape (n, n_inputs), float32
        gates : iterable of ndarray of shape (n_gates, n)
            Of each layer.

        Yields
        ------
        ndarray of shape (n_experts, n), float32
            Before their gates; NaN where the gate is 0.
        """
        for layer, h in zip(self.layers, gates, strict=True):
            expert = layer.expert
            H = expert_forward(X, expert.values, expert.bias_values, h)
            yield H
            h = np.repeat(h, layer.experts_per_gate, axis=0)
            X = np.where(h != 0, h * H, 0).T

    def with_seed(self, seed):
        """The same network with another random key; it shares this one's parameters."""
        return self._twin(seed=seed)

    def first_nonfinite(self):
        """Name of the lowest group of parameters with a NaN or infinity, or None."""
        for name, parameters in self.parameters():
            arrays = [parameters.weight, parameters.bias]
            with np.errstate(invalid="ignore"):  # infinities of both signs
                # the sums cannot overflow, and take no memory
                sums = [a.sum(dtype=float) for a in arrays if a is not None]
            if not np.isfinite(sums).all():
                layer, _, path = name.rpartition(".")
                return f"layer {int(layer) + 1} ({path})" if layer else "readout"
        return None

    # ---- prediction ------------------------------------------------------------------

    def fitting_rows(self):
        """Rows of one prediction call while fitting."""
        return min(self.prediction_rows(FITTING_FLOATS), FITTING_ROWS)

    def prediction_rows(self, floats=None):
        """Rows of one prediction call, a multiple of 16, for so many floats."""
        floats = PREDICTION_FLOATS if floats is None else floats
        widest = sum(layer.n_units for layer in self.layers)
        most = min(max(CACHED_INPUTS // self.layers[0].n_inputs, 512), 1024)
        return min(max(floats // (4 * widest), 16), most) // 16 * 16

    def _chunks(self, X, n_threads, size=None):
        """Yield (start, chunk of X in float32, kernels bound to this call's workspace).

        What a call used is kept for the next one: fresh memory costs as much as many a
        prediction.
        """
        size = self.prediction_rows() if size is None else size
        n_rows = max(1, min(size, len(X)))
        try:
            bound = self._prediction_kernels.pop()  # no other thread gets it
        except IndexError:
            bound = 0, n_threads, None
        if bound[0] < n_rows or bound[1] != n_threads:
            bound = n_rows, n_threads, NetworkKernels(self, n_rows, n_threads, False)
        kernels = bound[2]
        for i, layer in enumerate(self.layers):
            kernels.set_threshold(i, layer.threshold, layer.value)
        for start in range(0, len(X), size):
            chunk = np.ascontiguousarray(X[start : start + size], dtype=np.float32)
            yield start, chunk, kernels
        self._prediction_kernels[:] = [bound]

    def predict_proba(self, X, *, draw=None, n_threads=1, size=None):
        """Class probabilities, deterministic, or with sampled gates.

        Parameters
        ----------
        X : ndarray of shape (n, n_inputs)
        draw : int, optional
            Number of the draw of the gates.
        size : int, optional
            Rows computed at a time, `prediction_rows` by default: a multiple of 16.

        Returns
        -------
        ndarray of shape (n, n_classes), float32
        """
        out = np.empty((len(X), self.n_classes), dtype=np.float32)
        for start, chunk, kernels in self._chunks(X, n_threads, size):
            rows = out[start : start + len(chunk)]
            kernels.predict(chunk, draw=draw, row=start, out=rows)
        return out

    def predict(self, X, *, n_threads=1):
        """Index of each row's most probable class, (n,); deterministic.

        Probabilities of all rows are never held at once.
        """
        found = np.empty(len(X), dtype=np.intp)
        for start, chunk, kernels in self._chunks(X, n_threads):
            probability = kernels.predict(chunk)
            probability.argmax(axis=1, out=found[start : start + len(chunk)])
        return found

    def gates(self, X, *, n_threads=1):
        """Yield the list of layers' (n_rows, K) gates for each chunk of rows."""
        for _, chunk, kernels in self._chunks(X, n_threads):
            kernels.predict(chunk, keep_gates=True)
            yield [w["h"][:, : len(chunk)].T.copy() for w in kernels.workspace]

    def scores(self, i, X, *, n_threads=1):
        """What layer `i` compares with its threshold, (K, n)."""
        return np.concatenate(
            [
                np.empty((self.layers[i].n_gates, 0), dtype=np.float32),
                *self.scores_of_chunks(i, X, n_threads=n_threads),
            ],
            axis=1,
        )

    def scores_of_chunks(self, i, X, *, n_threads=1, size=None):
        """Yield the same for `size` rows at a time."""
        for _, chunk, kernels in self._chunks(X, n_threads, size):
            yield kernels.scores(i, chunk)
