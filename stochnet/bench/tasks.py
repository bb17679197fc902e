"""What is timed: the contenders of a case, proof that they agree, and the result."""

import warnings
from dataclasses import dataclass, field, replace

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from stochnet.bench import (
    agreement,
    blocks,
    kernels,
    memory,
    with_sklearn,
    with_stochnet,
)
from stochnet.bench.shapes import (
    DENSITY_TOLERANCE,
    EXPERTS_PER_GATE,
    SEED,
    Case,
    Data,
    make_data,
    make_network,
    prediction_density,
    set_thresholds,
    set_training_density,
)
from stochnet.bench.targets import target_for
from stochnet.bench.timing import interleave, make_workers
from stochnet.estimator import GatedMLPClassifier

#: Rows of the fraction of an epoch that is timed.
EPOCH_ROWS = 6400

DIGITS_EPOCHS = 20


@dataclass
class Result:
    """One line of the report.

    Attributes
    ----------
    case : Case
    densities : list of float
        As measured, for each layer.
    timings : dict of str to Timing
        "stochnet" and its contenders.
    reference : str or None
        The fastest of those that the ratio counts against.
    ratio : float or None
        Its time over stochnet's.
    medium : (str, float) or None
        The fastest contender with "medium" precision, and its time over stochnet's.
    limit : dict or None
        For kernels: least seconds, what sets them, and their share of the time.
    target, memory, notes
        The ratio asked for; peak memory; what could not be done and why.
    """

    case: Case
    densities: list
    timings: dict
    reference: str | None = None
    ratio: float | None = None
    medium: tuple | None = None
    limit: dict | None = None
    target: float | None = None
    memory: dict | None = None
    notes: list = field(default_factory=list)

    @property
    def holds(self):
        """Whether the target is reached; None without target or reference."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio >= self.target


@dataclass
class Options:
    """What is the same for all cases.

    Attributes
    ----------
    seconds : float
        Time for the contenders of a case, once each has had five turns.
    with_torch : module or None
        `stochnet.bench.with_torch`, where PyTorch is installed.
    with_compile : bool
    with_sklearn : bool
    limits : dict of int to Limits
        By number of threads.
    data : (ndarray, ndarray) or None
        Rows and classes of the epoch, which else are random.
    """

    seconds: float = 3.0
    with_torch: object = None
    with_compile: bool = True
    with_sklearn: bool = True
    limits: dict = field(default_factory=dict)
    data: tuple | None = None


def fastest(timings, names):
    """The name with the shortest median among those that were timed, or None."""
    timed = [name for name in names if name in timings]
    return min(timed, key=lambda name: timings[name].median, default=None)


def make_result(case, densities, timings, references, mediums=(), notes=()):
    """A `Result` with its ratios and target.

    Raises
    ------
    RuntimeError
        If a density is not what the case says.
    """
    for density in densities:
        if abs(density / case.density - 1) > DENSITY_TOLERANCE:
            raise RuntimeError(f"{case} was timed with density {density}")
    own = timings["stochnet"].median
    reference, medium = fastest(timings, references), fastest(timings, mediums)
    return Result(
        case,
        densities,
        timings,
        reference,
        timings[reference].median / own if reference else None,
        (medium, timings[medium].median / own) if medium else None,
        target=target_for(case),
        notes=list(notes),
    )


# ---- a training step, a prediction --------------------------------------------------


def run_step(case, options):
    """Yield the result for whole training steps."""
    data = make_data(case.sizes, case.batch)
    network = make_network(case.sizes, case.density, case.variant)
    set_training_density(network, data, case.density, case.threads)
    if options.with_torch:
        agreement.check_training(network, data, options.with_torch, case.threads)
    contenders = with_stochnet.contenders(
        with_stochnet.TrainingStep, network, data, case.threads
    )
    notes = _add_torch(contenders, "TrainingStep", network, data, case, options)
    timings = interleave(contenders, seconds=options.seconds)
    yield _against_torch(case, contenders["stochnet"].density, timings, notes, options)


def run_predict(case, options):
    """Yield the result for class probabilities of a mini-batch."""
    data = make_data(case.sizes, case.batch)
    network = make_network(case.sizes, case.density)
    set_thresholds(network, data.X, case.density, case.threads)
    if options.with_torch:
        agreement.check_prediction(network, data, options.with_torch, case.threads)
    contenders = with_stochnet.contenders(
        with_stochnet.Prediction, network, data, case.threads
    )
    if options.with_sklearn:
        contenders["scikit-learn"] = with_sklearn.prediction(case.sizes, data)
    notes = _add_torch(contenders, "Prediction", network, data, case, options)
    timings = interleave(contenders, seconds=options.seconds)
    densities = prediction_density(network, data.X, case.threads)
    yield _against_torch(case, densities, timings, notes, options)


def _add_torch(contenders, kind, network, data, case, options):
    """Put PyTorch's contenders into the dict; returns notes."""
    notes = []
    module = options.with_torch
    if module is not None:
        contenders |= module.contenders(
            getattr(module, kind),
            network,
            data,
            case.threads,
            notes,
            options.with_compile,
        )
    return notes


def _against_torch(case, densities, timings, notes, options):
    flavours = options.with_torch.FLAVOURS if options.with_torch else {}
    mediums = [name for name, (_, p) in flavours.items() if p == "medium"]
    references = [name for name in flavours if name not in mediums]
    return make_result(case, densities, timings, references, mediums, notes)


# ---- kernels ------------------------------------------------------------------------


def run_kernel(case, options):
    """Yield a result for each kernel, beside the dense product of all units."""
    X = make_data(case.sizes, case.batch, 1).X
    network = make_network(case.sizes, case.density)
    with make_workers(case.threads) as workers:
        for kernel, density in kernels.expert_kernels(network, X, case.density):
            yield _time_kernel(kernel, [density], case, options, workers)
        for kernel in kernels.dense_kernels(network, X):
            yield _time_kernel(kernel, [], case, options, workers)


def _time_kernel(kernel, densities, case, options, workers):
    case = Case(**{**case.__dict__, "variant": kernel.name})
    contenders = {"stochnet": kernel.contender(workers)}
    for name, product in products(case.threads, options.with_torch).items():
        contenders[name] = _product(product, *kernel.product)
    references = [name for name in contenders if name != "stochnet"]
    timings = interleave(contenders, seconds=options.seconds / 4)
    result = make_result(case, densities, timings, references)
    limits = options.limits.get(case.threads)
    if limits:
        result.limit = _shares(kernel, limits, case.threads, timings["stochnet"].median)
    return result


def _shares(kernel, limits, n_threads, seconds):
    """What a kernel's time is beside what the machine can do.

    Its limit counts each byte once. The kernels read a row of x for every unit that is
    active on it, from the cache where x is: each thread's own.
    """
    least, bound = limits.seconds(kernel.flops, kernel.n_bytes, kernel.working_set)
    gathering = kernel.gathered / limits.bandwidth_of(n_threads * kernel.inputs)
    return {
        "seconds": least,
        "bound": bound,
        "share": least / seconds,
        "sgemm_share": kernel.flops / limits.sgemm / seconds,
        "gathering_share": gathering / seconds,
    }


def _product(product, a, b):
    return lambda: product(a, b)


def products(n_threads, with_torch):
    """Float32 matrix products by name."""
    found = {"numpy sgemm": np.matmul}
    if with_torch is not None:
        found["torch sgemm"] = with_torch.matmul(n_threads)
    return found


def run_blocks(case, options):
    """Yield the result for the second of two layers with block gates, forward."""
    contenders, densities = blocks.contenders(case)
    timings = interleave(contenders, seconds=options.seconds)
    timings = {"stochnet": blocks.second_layer(timings)} | timings
    notes = [f"{EXPERTS_PER_GATE} experts for each gate; second layer alone"]
    yield make_result(case, densities, timings, ["numpy sgemm"], notes=notes)


# ---- estimators ---------------------------------------------------------------------


def run_epoch(case, options):
    """Yield the result for a part of an epoch.

    It is timed with `partial_fit`, which is one pass of `fit` without what happens once
    in a training: initial weights and thresholds.
    """
    sizes, batch = case.sizes, case.batch
    n_batches = -(-EPOCH_ROWS // batch)
    if options.data is None:
        data = make_data(sizes, batch, n_batches)
    else:
        X, y = (values[: batch * n_batches] for values in options.data)
        classes, codes = np.unique(y, return_inverse=True)
        sizes = replace(sizes, n_classes=len(classes))
        data = Data(X, codes.astype(np.int32), batch)
    network = make_network(sizes, case.density, case.variant)
    set_training_density(network, data, case.density, case.threads)
    model = with_stochnet.classifier_of(network, data, case.threads)
    dense = with_sklearn.make_classifier(sizes.n_units, batch)
    dense.partial_fit(
        data.X[:batch], data.y[:batch], classes=np.arange(sizes.n_classes)
    )
    densities = []

    def train():
        model.partial_fit(data.X, data.y)
        densities.append(model.training_density_)

    contenders = {
        "stochnet": train,
        "scikit-learn": lambda: dense.partial_fit(data.X, data.y),
    }
    timings = interleave(contenders, seconds=options.seconds)
    densities = np.mean(densities, axis=0).tolist()
    yield make_result(case, densities, timings, ["scikit-learn"])


def run_digits(case, options):
    """Yield the result for `fit` on the digits, with about as many parameters."""
    X, y = load_digits(return_X_y=True)
    X = StandardScaler().fit_transform(X).astype(np.float32)
    shared = {"max_iter": DIGITS_EPOCHS, "n_iter_no_change": DIGITS_EPOCHS, "tol": 0.0}
    gated = GatedMLPClassifier(
        case.sizes.n_units,
        gater_hidden_size=case.sizes.n_hidden,
        density=case.density,
        batch_size=case.batch,
        firing_rate_step=0.2,  # which holds the density near the target
        random_state=SEED,
        n_jobs=case.threads,
        **shared,
    )
    n_parameters = _count_parameters(gated.fit(X[:10], y[:10])._network)
    width = with_sklearn.width_with_parameters(n_parameters, X.shape[1], 10)
    dense = with_sklearn.make_classifier(
        width, case.batch, learning_rate_init=0.1, **shared
    )
    contenders = {
        "stochnet": lambda: gated.fit(X, y),
        "scikit-learn": lambda: dense.fit(X, y),
    }
    timings = interleave(contenders, seconds=options.seconds)
    note = f"{n_parameters} parameters, MLPClassifier of width {width}"
    result = make_result(case, [], timings, ["scikit-learn"], notes=[note])
    # weights learn here, so that this is what it is
    result.densities = np.mean(gated.density_curve_, axis=0).tolist()
    yield result


def _count_parameters(network):
    total = 0
    for name, parameters in network.parameters():
        total += parameters.values.size
        if not name.startswith("readout"):
            total += len(parameters.values)
    return total


def run_memory(case, _):
    """Yield the peak memory of `fit`, each in a process of its own."""
    used = {name: memory.peak_of(name, case) for name in ("stochnet", "scikit-learn")}
    result = Result(case, [], {})
    result.memory = used
    yield result


TASKS = {
    "step": run_step,
    "predict": run_predict,
    "kernel": run_kernel,
    "blocks": run_blocks,
    "epoch": run_epoch,
    "digits": run_digits,
    "memory": run_memory,
}


def run(case, options):
    """Yield the results of a case, with BLAS and PyTorch held to its threads."""
    with warnings.catch_warnings(), threadpool_limits(case.threads):
        warnings.simplefilter("ignore", ConvergenceWarning)
        if options.with_torch:
            options.with_torch.set_threads(case.threads)
        yield from TASKS[case.task](case, options)
