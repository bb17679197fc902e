"""Whole mini-batches of a network (csrc/network.c)."""
import numpy as np

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free
from stochnet._kernels.arrays cimport Nonzeros, floats, integers, long_integers
from stochnet._kernels.engine cimport (
    SN_BASELINE_MEAN, SN_BASELINE_NONE, SN_BASELINE_UNIT, SN_CREDIT_PROBE,
    engine, padded, sn_draw, sn_examples, sn_has_many_classes, sn_hidden_columns_size,
    sn_input_columns_size,
    sn_index_count, sn_layer, sn_network, sn_partials_size, sn_piece_count,
    sn_row_length, sn_scratch_size,
)
from stochnet._kernels.random cimport draw_of, noise_of
from stochnet._kernels.update cimport optimizer_of, parameters_of

from stochnet._kernels.arrays import aligned_zeros
from stochnet._kernels.gate import CREDIT

BASELINES = {
    None: SN_BASELINE_NONE, "mean": SN_BASELINE_MEAN, "unit": SN_BASELINE_UNIT,
}


def _check_range(name, values, end):
    if values.min() < 0 or values.max() >= end:
        raise ValueError(f"{name} holds values outside [0, {end}).")


cdef class NetworkKernels:
    """A `stochnet.network.Network` bound to a workspace.

    Parameters
    ----------
    network : stochnet.network.Network
        Its arrays are read and written in place.
    n_rows : int
        Largest batch.
    n_threads : int
    training : bool
        Whether `train` will be called: more workspace, network's state writable.

    Notes
    -----
    Not for use by two threads at a time: the workspace is part of it.
    """

    cdef sn_network net
    cdef int32_t n_threads
    cdef bint training
    cdef list keep
    cdef readonly list workspace

    def __cinit__(self, network, Py_ssize_t n_rows, n_threads, bint training):
        self.net.layers = <sn_layer *>calloc(len(network.layers), sizeof(sn_layer))
        if self.net.layers == NULL:
            raise MemoryError()
        self.keep, self.workspace = [network], []
        self.n_threads, self.training = n_threads, training
        self.net.n_layers = len(network.layers)
        self.net.n_classes = network.n_classes
        self.net.ld_classes = sn_row_length(network.n_classes)
        self.net.ld_rows = sn_row_length(n_rows)
        self.net.key[0], self.net.key[1] = network.key
        self.net.readout = parameters_of(network.readout)
        self.net.readout_bias = parameters_of(network.readout_bias)
        self.net.main = optimizer_of(network.main)
        self.net.gater = optimizer_of(network.gater)
        self.net.input_dropout = network.input_dropout
        for i, layer in enumerate(network.layers):
            self._bind_layer(&self.net.layers[<int>i], layer)
        self._allocate()

    def __dealloc__(self):
        free(self.net.layers)

    cdef _bind_layer(self, sn_layer *c, layer):
        """Sizes, settings, parameters and state of one layer."""
        c.n_inputs, c.ld_inputs = layer.n_inputs, sn_row_length(layer.n_inputs)
        c.n_hidden, c.ld_hidden = layer.n_hidden, sn_row_length(layer.n_hidden)
        c.n_gates, c.experts_per_gate = layer.n_gates, layer.experts_per_gate
        c.n_units, c.ld_units = layer.n_units, sn_row_length(layer.n_units)
        c.hidden = parameters_of(layer.hidden)
        c.gate = parameters_of(layer.gate)
        c.expert = parameters_of(layer.expert)
        gater = layer.gater
        c.unit, c.estimator, c.penalty = gater.indices
        c.credit = CREDIT[gater.credit]
        c.baseline = BASELINES[gater.baseline]
        c.sigmoid_derivative = gater.sigmoid_derivative
        c.probe_rate = gater.probe_rate
        c.noise = noise_of(gater.noise)
        c.temperature = gater.temperature
        c.density = gater.density
        c.averages_decay = gater.averages_decay
        c.firing_rate_step = gater.firing_rate_step
        c.penalty_factor = gater.penalty_factor
        c.penalty_limits[0], c.penalty_limits[1] = gater.penalty_limits
        c.penalty_weight = floats(layer.penalty_weight, 1)
        c.rate = floats(layer.rate, c.n_gates)
        c.reinforce = floats(layer.reinforce, 2 * c.n_gates)
        c.fired = long_integers(layer.fired, c.n_gates)
        c.threshold = layer.threshold
        c.value = layer.value

    cdef _allocate(self):
        """One buffer of floats for the workspace, and views into it."""
        cdef sn_network *net = &self.net
        cdef sn_layer *c
        cdef int64_t B = net.ld_rows
        net.scratch_size = sn_scratch_size(net)
        sizes = [
            ("input", B * net.layers[0].ld_inputs),
            ("partials", sn_partials_size(net)),
            ("logits", B * net.ld_classes),
            ("logit_gradient", B * net.ld_classes),
            ("logit_gradient_t", self.training * net.n_classes * B),
            ("probability_t", self.training * net.n_classes * B),
            ("loss", B),
            ("input_columns", self.training * sn_input_columns_size(net)),
            ("hidden_columns", sn_hidden_columns_size(net)),
            ("scratch", self.n_threads * net.scratch_size),
        ]
        for i in range(net.n_layers):
            c = &net.layers[i]
            K, E, last = c.n_gates, c.n_units, i == net.n_layers - 1
            has_gradient = not last or sn_has_many_classes(net)
            sizes += [
                (f"hidden_output{i}", B * c.ld_hidden),
                (f"a{i}", K * B), (f"h{i}", K * B), (f"expert_output{i}", E * B),
                (f"penalty_value{i}", padded(K)),
                (f"output{i}", 0 if last else B * c.ld_units),
                (f"hidden_gradient{i}", self.training * B * c.ld_hidden),
                (f"da{i}", self.training * K * B),
                (f"output_gradient{i}", self.training * has_gradient * B * c.ld_units),
            ]
        buffer = aligned_zeros(sum(padded(size) for _, size in sizes))
        views, start = {}, 0
        for name, size in sizes:
            views[name] = buffer[start:start + size]
            start += padded(size)
        target = np.zeros(B, dtype=np.int32)
        net.ld_filled = sn_piece_count(net.layers[0].ld_inputs)
        filled = np.zeros(B * net.ld_filled, dtype=np.int64)
        net.filled = <uint64_t *>long_integers(filled, len(filled))
        cdef Nonzeros nonzeros
        if self.training:
            nonzeros = Nonzeros(B, net.layers[0].ld_inputs)
            net.nonzeros = nonzeros.c
            self.keep.append(nonzeros)
        indices = np.arange(sn_index_count(net), dtype=np.int32)
        net.input = floats(views["input"], 1)
        net.partials = floats(views["partials"], len(views["partials"]))
        net.logits = floats(views["logits"], 1)
        net.logit_gradient = floats(views["logit_gradient"], 1)
        net.loss = floats(views["loss"], 1)
        net.scratch = floats(views["scratch"], 1)
        if self.training:
            net.logit_gradient_t = floats(views["logit_gradient_t"], 1)
            net.probability_t = floats(views["probability_t"], 1)
            net.input_columns = floats(views["input_columns"], 1)
        net.hidden_columns = floats(views["hidden_columns"], 1)
        net.target = integers(target, B)
        net.indices = integers(indices, len(indices))
        self.keep += [buffer, target, filled, indices]
        for i in range(net.n_layers):
            self._bind_workspace(&net.layers[i], i, views)

    cdef _bind_workspace(self, sn_layer *c, i, views):
        def view(name):
            return views[f"{name}{i}"]
        cdef int64_t B = self.net.ld_rows, K = c.n_gates
        rows = np.zeros((K, B), dtype=np.int32)
        count = np.zeros(K, dtype=np.int32)
        reads = np.zeros(K, dtype=np.int64)
        c.hidden_output = floats(view("hidden_output"), 1)
        c.a, c.h = floats(view("a"), 1), floats(view("h"), 1)
        c.expert_output = floats(view("expert_output"), 1)
        c.penalty_value = floats(view("penalty_value"), 1)
        if self.training:
            c.hidden_gradient = floats(view("hidden_gradient"), 1)
            c.da = floats(view("da"), 1)
            c.output_gradient = floats(
                view("output_gradient"), len(view("output_gradient"))
            )
        c.rows, c.credited = integers(rows, K * B), integers(rows, K * B)
        c.count, c.n_credited = integers(count, K), integers(count, K)
        if i < self.net.n_layers - 1:
            c.output = floats(view("output"), 1)
            gates = np.zeros((B, K), dtype=np.int32)
            n_gates_of_row = np.zeros(B, dtype=np.int32)
            c.gates = c.credited_gates = integers(gates, B * K)
            c.n_gates_of_row = c.n_credited_of_row = integers(n_gates_of_row, B)
            self.keep += [gates, n_gates_of_row]
        c.reads = long_integers(reads, K)
        self.keep += [rows]
        if self.training and c.credit == SN_CREDIT_PROBE:
            self._bind_credited(c, c.output != NULL)
        self.workspace.append({
            "a": view("a").reshape(K, B),
            "h": view("h").reshape(K, B),
            "expert_output": view("expert_output").reshape(-1, B),
            "da": view("da").reshape(-1, B),
            "count": count,
            "reads": reads,
        })

    cdef _bind_credited(self, sn_layer *c, has_output):
        """Lists of gates that fired or are probed, which are more than the active."""
        cdef int64_t B = self.net.ld_rows, K = c.n_gates
        sizes = [K * B, K] + [B * K, B] * has_output
        lists = [np.zeros(size, dtype=np.int32) for size in sizes]
        c.credited, c.n_credited = integers(lists[0], K * B), integers(lists[1], K)
        if has_output:
            c.credited_gates = integers(lists[2], B * K)
            c.n_credited_of_row = integers(lists[3], B)
        self.keep += lists

    def loss(self):
        """Cross-entropy of each row of the last mini-batch, a copy."""
        return np.asarray(<float[:self.net.ld_rows]>self.net.loss).copy()

    def set_learning_rates(self, main, gater):
        """Learning rates of the main path and of the gater, from the next step on."""
        self.net.main.learning_rate, self.net.gater.learning_rate = main, gater

    def set_threshold(self, i, threshold, value):
        """What the next prediction thresholds layer `i` with."""
        self.net.layers[<int>i].threshold = threshold
        self.net.layers[<int>i].value = value

    @property
    def seconds_of_small_pass(self):
        """Of one thread and of all, on average; 0 for what was not tried."""
        return self.net.pace.mean[0], self.net.pace.mean[1]

    def train(self, const float[:, ::1] X, const int32_t[::1] y, order,
              Py_ssize_t batch_size, step):
        """One pass over mini-batches of the examples, updating the network.

        Parameters
        ----------
        X : ndarray of shape (n, n_inputs), float32
        y : ndarray of shape (n,), int32
            Class indices.
        order : ndarray of shape (m,), int64, or None
            Rows to take, in this order; None for all as they lie.
        batch_size : int
        step : int
            Number of the first mini-batch: where its noise is drawn.

        Returns
        -------
        loss, penalty : float
            Sums over mini-batches of criterion and penalty times rows.
        failed : int
            First mini-batch whose loss is not finite, or that left weights that are
            not; or -1.
        """
        cdef sn_examples examples
        cdef double loss = 0.0, penalty = 0.0
        cdef int64_t failed
        n = X.shape[0] if order is None else len(order)
        if X.shape[1] != self.net.layers[0].n_inputs or y.shape[0] != X.shape[0]:
            raise ValueError("X and y do not fit the network.")
        if not self.training or not 0 < batch_size <= self.net.ld_rows:
            raise ValueError("The workspace does not hold such a mini-batch.")
        if n == 0:
            return 0.0, 0.0, -1
        _check_range("y", np.asarray(y), self.net.n_classes)
        if order is not None:
            _check_range("order", order, X.shape[0])
        examples.X, examples.y = &X[0, 0], &y[0]
        examples.order = NULL if order is None else long_integers(order, n)
        examples.n, examples.batch_size, examples.step = n, batch_size, step
        with nogil:
            failed = engine.train(
                &loss, &penalty, &self.net, &examples, self.n_threads
            )
        return loss, penalty, failed

    def predict(self, const float[:, ::1] X, *, draw=None, row=0,
                bint keep_gates=False, out=None):
        """Class probabilities; `draw` samples the gates of rows from `row` on.

        Parameters
        ----------
        X : ndarray of shape (n, n_inputs), float32
        draw : int, optional
            Number of the draw; None is the deterministic network.
        row : int
            Number of the first row, a multiple of 4.
        keep_gates : bool
            Whether the gates "h" of the last layer are in the workspace afterwards, as
            those of the layers below are.
        out : ndarray of shape (n, n_classes), float32, C order, optional
            Written and returned.

        Returns
        -------
        ndarray of shape (n, n_classes), float32
        """
        cdef sn_draw c_draw
        cdef const sn_draw *pointer = NULL
        cdef int64_t n = X.shape[0]
        self._check_rows(X)
        if out is None:
            out = np.empty((n, self.net.n_classes), dtype=np.float32)
        cdef float[:, ::1] written = out
        if written.shape[0] != n or written.shape[1] != self.net.n_classes:
            raise ValueError("out does not fit X or the network.")
        if n == 0:
            return out
        if draw is not None:
            key = self.net.key[0], self.net.key[1]
            c_draw = draw_of(key, draw, 0, "sampling", row)
            pointer = &c_draw
        cdef float *probability = &written[0, 0]
        with nogil:
            engine.predict(
                probability, &self.net, &X[0, 0], n, pointer, keep_gates, self.n_threads
            )
        return out

    def scores(self, i, const float[:, ::1] X):
        """What layer `i`'s threshold is compared with, a copy, (n_gates, n)."""
        self._check_rows(X)
        cdef int64_t n = X.shape[0], layer = i
        if n > 0:
            with nogil:
                engine.scores(&self.net, layer, &X[0, 0], n, self.n_threads)
        return self.workspace[i]["a"][:, :n].copy()

    cdef _check_rows(self, const float[:, ::1] X):
        if X.shape[1] != self.net.layers[0].n_inputs or X.shape[0] > self.net.ld_rows:
            raise ValueError("X does not fit the network or its workspace.")
