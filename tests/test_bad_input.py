"""Input of every kind: what is refused, how, and what all comes to the same."""

import re

import numpy as np
import pytest
import scipy.sparse as sp
from helpers import assert_same_bits, copy_of_state
from sklearn.datasets import load_digits
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

from stochnet import GatedMLPClassifier
from stochnet.gaters import GATERS, NOISES, PENALTIES, make_gater

FLOAT32_MAXIMUM = float(np.finfo(np.float32).max)


def make(gater="st", **parameters):
    parameters = {
        "hidden_layer_sizes": (12,),
        "density": 0.3,
        "max_iter": 1,
        "n_iter_no_change": 2,
        "random_state": 0,
        **parameters,
    }
    return GatedMLPClassifier(gater=gater, **parameters)


@pytest.fixture(scope="module")
def data():
    """Eighty rows of pixels, whole numbers from 0 to 16."""
    X, y = load_digits(n_class=4, return_X_y=True)
    return X[:80, 10:30].astype(np.float32), y[:80]


@pytest.fixture(scope="module")
def fitted(data):
    return make().fit(*data)


# Each takes a fitted estimator, X and y; the first two leave it alone.
CALLS = {
    "fit": lambda fitted, X, y: make().fit(X, y),
    "partial_fit": lambda fitted, X, y: make().partial_fit(X, y, classes=[0, 1, 2, 3]),
    "validation": lambda fitted, X, y: make(early_stopping=True).fit(
        np.repeat(np.eye(4, 20), 20, axis=0), np.repeat(range(4), 20), X_val=X, y_val=y
    ),
    "predict": lambda fitted, X, y: fitted.predict(X),
    "predict_proba": lambda fitted, X, y: fitted.predict_proba(X),
    "predict_log_proba": lambda fitted, X, y: fitted.predict_log_proba(X),
    "score": lambda fitted, X, y: fitted.score(X, y),
    "sample_proba": lambda fitted, X, y: fitted.sample_proba(X, 2),
    "gates": lambda fitted, X, y: fitted.gates(X),
}
TRAINING = ["fit", "partial_fit", "validation"]
every_call = pytest.mark.parametrize("call", CALLS)
every_training_call = pytest.mark.parametrize("call", TRAINING)


@every_call
def test_calls_take_what_is_good(fitted, data, call):
    assert CALLS[call](fitted, *data) is not None


# ---------------------------------------------------------------------------
# X
# ---------------------------------------------------------------------------


@every_call
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, object])
def test_x_that_is_not_finite(fitted, data, call, bad, dtype):
    X, y = data
    X = X.astype(dtype)
    X[-1, -1] = bad
    with pytest.raises(ValueError, match="contains (NaN|infinity)"):
        CALLS[call](fitted, X, y)


@every_call
@pytest.mark.parametrize("bad", [2 * FLOAT32_MAXIMUM, -1e300])
def test_x_beyond_float32(fitted, data, call, bad):
    """Refused as infinite, and without a warning before that."""
    X, y = data
    X = X.astype(np.float64)
    X[3, 4] = bad
    with pytest.raises(ValueError, match="infinity or a value too large.*float32"):
        CALLS[call](fitted, X, y)


def test_x_at_the_end_of_float32(fitted, data):
    X = data[0].astype(np.float64)
    X[:, 0] = 1e38
    expected = fitted.predict_proba(X.astype(np.float32))
    np.testing.assert_array_equal(fitted.predict_proba(X), expected)
    assert np.isfinite(expected).all()


@pytest.mark.parametrize("call", [call for call in CALLS if call not in TRAINING[:2]])
@pytest.mark.parametrize("n_features", [19, 21])
def test_x_of_another_width(fitted, data, call, n_features):
    X, y = data
    message = f"X has {n_features} features.*expecting 20 features"
    with pytest.raises(ValueError, match=message):
        CALLS[call](fitted, np.resize(X, (80, n_features)), y)


@every_call
def test_x_of_another_number_of_dimensions(fitted, data, call):
    X, y = data
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        CALLS[call](fitted, X[0], y)
    with pytest.raises(ValueError, match="dim 3"):
        CALLS[call](fitted, X[:, :, None], y)
    with pytest.raises(ValueError, match="Expected 2D array, got scalar"):
        CALLS[call](fitted, 1.0, y)


@every_call
def test_x_without_rows_or_columns(fitted, data, call):
    X, y = data
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        CALLS[call](fitted, X[:0], y[:0])
    with pytest.raises(ValueError, match=r"0 feature\(s\)"):
        CALLS[call](fitted, X[:, :0], y)


@every_call
@pytest.mark.parametrize("convert", [sp.csr_matrix, sp.csc_array, sp.coo_array])
def test_x_that_is_sparse(fitted, data, call, convert):
    X, y = data
    with pytest.raises(TypeError, match="Sparse data was passed"):
        CALLS[call](fitted, convert(X), y)


@every_call
@pytest.mark.parametrize("dtype", [object, str])
def test_x_of_words(fitted, data, call, dtype):
    X, y = data
    X = X.astype(object)
    X[5, 5] = "five"
    with pytest.raises(ValueError, match="could not convert string to float"):
        CALLS[call](fitted, X.astype(dtype), y)


@every_call
def test_x_that_is_complex(fitted, data, call):
    X, y = data
    with pytest.raises(ValueError, match="Complex data not supported"):
        CALLS[call](fitted, X.astype(complex), y)


# ---------------------------------------------------------------------------
# y
# ---------------------------------------------------------------------------


@every_training_call
def test_y_of_another_length(fitted, data, call):
    X, y = data
    for X_part, y_part in ((X, y[1:]), (X[1:], y)):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            CALLS[call](fitted, X_part, y_part)


@every_training_call
@pytest.mark.parametrize(
    ("dtype", "bad"), [(float, np.nan), (float, np.inf), (object, np.nan)]
)
def test_y_that_is_not_finite(fitted, data, call, dtype, bad):
    X, y = data
    y = y.astype(dtype)
    y[7] = bad
    with pytest.raises(ValueError, match="contains (NaN|infinity)"):
        CALLS[call](fitted, X, y)


@every_training_call
def test_y_that_is_continuous(fitted, data, call):
    X, y = data
    messages = "Unknown label type: continuous|y_val has classes that y does not have"
    with pytest.raises(ValueError, match=messages):
        CALLS[call](fitted, X, y + np.linspace(0.1, 0.9, len(y)))


@every_training_call
def test_y_of_several_labels(fitted, data, call):
    X, y = data
    with pytest.raises(ValueError, match=r"y should be a 1d array.*\(80, 4\)"):
        CALLS[call](fitted, X, np.eye(4, dtype=int)[y])


@every_training_call
def test_y_that_is_missing(fitted, data, call):
    with pytest.raises(ValueError, match="y to be passed|must be given together"):
        CALLS[call](fitted, data[0], None)


@every_training_call
def test_y_in_a_column(fitted, data, call):
    X, y = data
    with pytest.warns(DataConversionWarning, match="column-vector y"):
        CALLS[call](fitted, X, y[:, None])


def test_y_of_one_class(data):
    X, _ = data
    ones = np.ones(len(X), dtype=int)
    with pytest.raises(ValueError, match="at least 2 classes.*only one class: .*1"):
        make().fit(X, ones)
    with pytest.raises(ValueError, match="at least 2 classes.*only one class: .*1"):
        make().partial_fit(X, ones, classes=[1])
    with pytest.raises(ValueError, match="at least 2 classes.*only one class: .*a"):
        make().fit(X, ["a"] * len(X))


def test_one_row(data):
    X, y = data
    with pytest.raises(ValueError, match="at least 2 classes"):
        make().fit(X[:1], y[:1])
    estimator = make().partial_fit(X[:1], y[:1], classes=[0, 1, 2, 3])
    assert estimator.predict_proba(X[:1]).shape == (1, 4)


# ---------------------------------------------------------------------------
# What comes to the same
# ---------------------------------------------------------------------------


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def every_second_column(X):
    wide = np.full((len(X), 2 * X.shape[1]), np.nan, dtype=X.dtype)
    wide[:, ::2] = X
    return wide[:, ::2]


def unaligned(X):
    buffer = np.zeros(X.nbytes + 1, dtype=np.uint8)
    view = buffer[1:].view(X.dtype).reshape(X.shape)
    view[:] = X
    assert not view.flags.aligned
    return view


FORMS = {
    "read-only": read_only,
    "every second column": every_second_column,
    "backwards": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "every second row": lambda X: np.repeat(X, 2, axis=0)[::2],
    "Fortran order": np.asfortranarray,
    "transposed": lambda X: X.T.copy().T,
    "not aligned": unaligned,
    "lists": lambda X: X.tolist(),
    "list of rows": list,
    "objects": lambda X: X.astype(object),
    "objects that are integers": lambda X: X.astype(int).astype(object),
    "matrix of a subclass": lambda X: X.view(np.recarray),
    "other byte order": lambda X: X.astype(X.dtype.newbyteorder()),
    **{
        dtype: lambda X, dtype=dtype: X.astype(dtype)
        for dtype in "e f d g b h i l q B H I L Q >f2 >f4 >f8 >i2 >i8 <f8".split()
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_x(data, form):
    X, y = data
    assert_same_result(X, FORMS[form](X), y)


def assert_same_result(X, other, y):
    """Fit, partial_fit and predictions on `other` are those on X, to the bit."""
    fits = [make("sts").fit(values, y) for values in (X, other)]
    assert_same_bits(*(copy_of_state(fit._network) for fit in fits))
    assert fits[0].thresholds_ == fits[1].thresholds_
    classes = np.unique(y)
    parts = [
        make("sts").partial_fit(values, y, classes=classes).partial_fit(values, y)
        for values in (X, other)
    ]
    assert_same_bits(*(copy_of_state(part._network) for part in parts))
    assert parts[0].thresholds_ == parts[1].thresholds_
    fit = fits[0]
    np.testing.assert_array_equal(fit.predict_proba(other), fit.predict_proba(X))
    np.testing.assert_array_equal(fit.predict(other), fit.predict(X))
    sampled = [fit.sample_proba(values, 2, random_state=0) for values in (X, other)]
    np.testing.assert_array_equal(*sampled)
    matrices = [fit.gates(values).toarray() for values in (X, other)]
    np.testing.assert_array_equal(*matrices)
    validated = [
        make("sts", early_stopping=True, max_iter=2).fit(X, y, X_val=values, y_val=y)
        for values in (X, other)
    ]
    assert validated[0].validation_scores_ == validated[1].validation_scores_


@pytest.mark.parametrize("dtype", [bool, object])
def test_booleans(data, dtype):
    X, y = data
    assert_same_result((X > 8).astype(np.float32), (X > 8).astype(dtype), y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memory_maps(data, tmp_path, dtype, order, mode):
    X, y = data
    np.save(tmp_path / "X.npy", np.asarray(X, dtype=dtype, order=order))
    mapped = np.load(tmp_path / "X.npy", mmap_mode=mode)
    assert isinstance(mapped, np.memmap)
    assert_same_result(X, mapped, y)
    np.testing.assert_array_equal(mapped, X)


def test_float64_is_rounded_to_float32(data):
    X, y = data
    X = X.astype(np.float64) / 3 + 1e-9
    assert_same_result(X.astype(np.float32), X, y)


LABELS = {
    "list": list,
    "read-only": read_only,
    "every second": lambda y: np.repeat(y, 2)[::2],
    "backwards": lambda y: y[::-1].copy()[::-1],
    **{
        dtype: lambda y, dtype=dtype: y.astype(dtype)
        for dtype in "b B h q Q f d >i4 >f8".split()
    },
}


@pytest.mark.parametrize("form", LABELS)
def test_forms_of_y(data, form):
    X, y = data
    other = LABELS[form](y)
    expected, fit = make().fit(X, y), make().fit(X, other)
    np.testing.assert_array_equal(fit.predict_proba(X), expected.predict_proba(X))
    np.testing.assert_array_equal(fit.predict(X), expected.predict(X))
    classes = np.unique(other)
    part = make().partial_fit(X, other, classes=classes)
    expected = make().partial_fit(X, y, classes=[0, 1, 2, 3])
    np.testing.assert_array_equal(part.predict_proba(X), expected.predict_proba(X))


def test_input_is_left_alone(data):
    X, y = data
    X_before, y_before = X.copy(), y.copy()
    make().fit(X, y).partial_fit(X, y).sample_proba(X, 2)
    np.testing.assert_array_equal(X, X_before)
    np.testing.assert_array_equal(y, y_before)


def test_later_changes_of_the_input_do_not_matter(data):
    X, y = data
    X = X.copy()
    estimators = [make().fit(X, y), make().partial_fit(X, y, classes=[0, 1, 2, 3])]
    expected = [make().fit(X, y), make().partial_fit(X, y, classes=[0, 1, 2, 3])]
    expected = [(e.thresholds_, e.density_) for e in expected]
    X[:] = np.nan
    assert [(e.thresholds_, e.density_) for e in estimators] == expected


# ---------------------------------------------------------------------------
# Parameters
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("gater", ["STS", "unknown", "", "s t", "bernoulli"])
def test_an_unknown_gater(data, gater):
    with pytest.raises(InvalidParameterError) as raised:
        make(gater).fit(*data)
    for name in GATERS:
        assert repr(name) in str(raised.value)
    with pytest.raises(ValueError) as raised:
        make_gater(gater)
    for name in GATERS:
        assert repr(name) in str(raised.value)


@pytest.mark.parametrize(
    "density", [0, 0.0, -0.1, 1.5, 1 + 1e-9, np.nan, np.inf, "0.1"]
)
@pytest.mark.parametrize("gater", ["st", "sigmoid"])
def test_a_density_that_is_no_share(data, gater, density):
    with pytest.raises(InvalidParameterError, match=r"'density'.*\(0(\.0)?, 1(\.0)?\]"):
        make(gater, density=density).fit(*data)


@pytest.mark.parametrize("gater", GATERS)
def test_density_one(data, gater):
    X, y = data
    estimator = make(gater, density=1.0).fit(X / 16, y)
    if gater == "rectifier":
        assert estimator.thresholds_ == [0.0]
    else:
        assert estimator.thresholds_ == [-np.inf]
        assert estimator.density_ == [1.0]


@pytest.mark.parametrize("noise", ["beta", "beta+gaussian"])
@pytest.mark.parametrize("call", ["fit", "partial_fit"])
def test_beta_noise_needs_a_density_below_one(data, noise, call):
    X, y = data
    estimator = make("sts", noise=noise, density=1.0)
    arguments = {"classes": [0, 1, 2, 3]} if call == "partial_fit" else {}
    with pytest.raises(ValueError, match=r"density in \(0, 1\), got 1.0"):
        getattr(estimator, call)(X, y, **arguments)


@pytest.mark.parametrize(
    "name", ["hidden_layer_sizes", "gater_hidden_size", "experts_per_gate"]
)
@pytest.mark.parametrize(
    "sizes",
    [
        *(0, -3, 10.0, "ten", None, np.nan),
        *((), [], (0,), (10, 0), (10, -1), (10.0,), (10, 5.5), ("10",), (None,)),
        *({}, np.zeros(0), np.array([3.0]), np.array([[3]]), ((3,), (4,))),
    ],
    ids=str,
)
def test_sizes(data, name, sizes):
    with pytest.raises(ValueError, match=name):
        make(**{name: sizes}).fit(*data)


@pytest.mark.parametrize(
    "sizes",
    [7, (7,), [7], np.array([7]), np.int32(7), (np.int64(7),), np.array(7)],
    ids=repr,
)
def test_sizes_in_every_form(data, sizes):
    for name in ("hidden_layer_sizes", "gater_hidden_size"):
        expected = make(**{name: (7,)}).fit(*data)
        estimator = make(**{name: sizes}).fit(*data)
        np.testing.assert_array_equal(estimator.coefs_[0], expected.coefs_[0])


@pytest.mark.parametrize(
    ("hidden_layer_sizes", "gater_hidden_size"),
    [((6,), (3, 4)), ((6, 5), (3, 4, 5)), ((6, 5, 4), (3, 4))],
)
def test_gater_sizes_of_another_number(data, hidden_layer_sizes, gater_hidden_size):
    estimator = make(
        hidden_layer_sizes=hidden_layer_sizes, gater_hidden_size=gater_hidden_size
    )
    n_layers, n = len(hidden_layer_sizes), len(gater_hidden_size)
    message = f"gater_hidden_size must be.* each of the {n_layers} layers, got {n}"
    with pytest.raises(ValueError, match=message):
        estimator.fit(*data)


@pytest.mark.parametrize(
    ("gater_hidden_size", "expected"),
    [((3, 4), [3, 4]), (5, [5, 5]), ((5,), [5, 5]), ("auto", [16, 20])],
)
def test_gater_sizes(data, gater_hidden_size, expected):
    estimator = make(
        hidden_layer_sizes=(6, 100), gater_hidden_size=gater_hidden_size
    ).fit(*data)
    assert [layer.n_hidden for layer in estimator._network.layers] == expected


@pytest.mark.parametrize(
    ("experts_per_gate", "message"),
    [
        (5, "must divide the experts of its layer, got 5 for a layer of 12"),
        ((3, 4), "must divide the experts of its layer, got 4 for a layer of 10"),
        ((1, 2, 2), "must be one number or one for each of the 2 layers, got 3"),
    ],
)
def test_experts_per_gate_that_do_not_fit(data, experts_per_gate, message):
    estimator = make(hidden_layer_sizes=(12, 10), experts_per_gate=experts_per_gate)
    with pytest.raises(ValueError, match=f"experts_per_gate {message}"):
        estimator.fit(*data)


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
@pytest.mark.parametrize("noise", [None, *NOISES])
@pytest.mark.parametrize("gater", GATERS)
def test_noises(data, gater, noise, call):
    X, y = data
    valid = GATERS[gater].noises
    estimator = make(gater, noise=noise)
    arguments = {"classes": [0, 1, 2, 3]} if call == "partial_fit" else {}
    if noise in valid:
        getattr(estimator, call)(X, y, **arguments)
        return
    with pytest.raises(ValueError) as raised:
        getattr(estimator, call)(X, y, **arguments)
    message = str(raised.value)
    assert f"noise={noise!r}" in message
    assert f"gater={gater!r}" in message
    listed = message.partition("valid: ")[2].rstrip(".").split(", ")
    assert listed == [repr(name) for name in valid]


# Those that have no firing probability which changes smoothly.
WITHOUT_KL = {"rectifier", "sigmoid", "concrete"}


@pytest.mark.parametrize("penalty", [None, *PENALTIES])
@pytest.mark.parametrize("gater", GATERS)
def test_penalties(data, gater, penalty):
    estimator = make(gater, penalty=penalty)
    if penalty != "kl" or gater not in WITHOUT_KL:
        estimator.fit(*data)
        return
    message = rf"penalty='kl'.*gater='{gater}'.*\['l1'\] or None"
    with pytest.raises(ValueError, match=message):
        estimator.fit(*data)


WITH_TEMPERATURE = {"concrete", "concrete_st", "hard_concrete"}


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
@pytest.mark.parametrize("gater", GATERS)
def test_temperatures(data, gater, call):
    X, y = data
    estimator = make(gater, temperature=0.5)
    arguments = {"classes": [0, 1, 2, 3]} if call == "partial_fit" else {}
    if gater in WITH_TEMPERATURE:
        getattr(estimator, call)(X, y, **arguments)
        return
    message = rf"temperature=0\.5 is not available for gater='{gater}'; valid: 'auto'"
    with pytest.raises(ValueError, match=message):
        getattr(estimator, call)(X, y, **arguments)


WRONG = {
    "hidden_layer_sizes": [10.0, None],
    "gater": [None, 1, ["st"]],
    "gater_hidden_size": ["large", 2.5],
    "density": ["low", None],
    "noise": ["uniform", 1, True],
    "noise_scale": [0, -1.0, "1", np.nan],
    "noise_beta": [1, 0.5, "40"],
    "noise_on": ["both", None],
    "temperature": [0, -1.0, "cold", None, np.nan],
    "credit": ["some", None],
    "probe_rate": [0, -0.1, 1.1, "0.1", None, np.nan],
    "sigmoid_derivative": ["yes", 2],
    "baseline": ["median", True],
    "penalty": ["l2", 0],
    "penalty_weight": [-1, "heavy", None],
    "adaptive_penalty": ["yes", None],
    "firing_rate_step": [-0.1, None],
    "estimator": ["pathwise ", None, 1],
    "experts_per_gate": [0, -1, 2.0, "2", None],
    "input_dropout": [-0.1, 1, 1.5, "0.5", None],
    "averaging": [-0.1, np.nan, "1"],
    "max_norm": [0, -2, "2"],
    "initialization": ["zeros", None],
    "solver": ["lbfgs", "gradient", None],
    "alpha": [-1e-9, "0", None],
    "batch_size": [0, -1, 32.0, "all", None],
    "learning_rate_init": [0, -0.1, "0.1", np.nan, None],
    "gater_learning_rate_init": [-0.1, "slow", None],
    "learning_rate_decay": [0, 1.1, None],
    "learning_rate_min": [-0.1, None],
    "momentum": [1, 1.0, -0.1, None],
    "gater_momentum": [1.0, "auto"],
    "nesterovs_momentum": ["yes", None],
    "beta_1": [1.0, -0.1],
    "beta_2": [1.0, -0.1],
    "epsilon": [0, -1e-8],
    "max_iter": [0, 10.0, None],
    "shuffle": ["yes", None],
    "tol": [-1e-9, None],
    "n_iter_no_change": [0, 2.5, np.nan, None],
    "early_stopping": ["yes", None],
    "validation_fraction": [0, 0.0, 1.0, 1, -0.1, None],
    "warm_start": ["yes", None],
    "verbose": ["yes", -1],
    "random_state": ["seed", 0.5, -1],
    "n_jobs": [1.0, "all"],
}


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
)
def test_wrong_parameters(data, name, value, call):
    X, y = data
    estimator = make().set_params(**{name: value})
    arguments = {"classes": [0, 1, 2, 3]} if call == "partial_fit" else {}
    with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter"):
        getattr(estimator, call)(X, y, **arguments)


def test_wrong_parameters_of_every_name():
    assert WRONG.keys() == make().get_params().keys()


@pytest.mark.parametrize("call", CALLS)
def test_no_threads(data, call):
    X, y = data
    estimator = make().fit(X, y).set_params(n_jobs=0)
    arguments = {
        "fit": (X, y),
        "partial_fit": (X, y),
        "validation": (X, y),
        "score": (X, y),
    }.get(call, (X,))
    name = "fit" if call == "validation" else call
    with pytest.raises(ValueError, match="n_jobs == 0 has no meaning"):
        getattr(estimator, name)(*arguments)


@pytest.mark.parametrize(
    ("n_draws", "error", "message"),
    [
        (0, ValueError, "n_draws == 0, must be >= 1"),
        (-1, ValueError, "n_draws == -1, must be >= 1"),
        (1.5, TypeError, "n_draws must be an instance of int"),
        (None, TypeError, "n_draws must be an instance of int"),
    ],
)
def test_numbers_of_draws(fitted, data, n_draws, error, message):
    with pytest.raises(error, match=message):
        fitted.sample_proba(data[0], n_draws)


def test_wrong_random_state_of_samples(fitted, data):
    with pytest.raises(ValueError, match="'seed' cannot be used to seed"):
        fitted.sample_proba(data[0], random_state="seed")


# ---------------------------------------------------------------------------
# Not fitted, and failed
# ---------------------------------------------------------------------------

METHODS = [call for call in CALLS if call not in TRAINING]
PROPERTIES = [
    *("density_", "firing_rates_", "thresholds_", "coefs_", "intercepts_"),
    *("training_density_", "training_firing_rates_"),
]


def assert_not_fitted(estimator, X, y):
    for name in METHODS:
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            CALLS[name](estimator, X, y)
    for name in PROPERTIES:
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            getattr(estimator, name)
        assert not hasattr(estimator, name)


def test_before_fit(data):
    assert_not_fitted(make(), *data)


@pytest.mark.parametrize("hidden_layer_sizes", [(12,), (12, 10)])
@pytest.mark.parametrize("gater", GATERS)
def test_weights_that_become_infinite(data, gater, hidden_layer_sizes):
    """An error says when and where, and leaves an estimator that is not fitted."""
    X, y = data
    options = {"hidden_layer_sizes": hidden_layer_sizes, "learning_rate_init": 1e30}
    message = (
        r"non-finite values in epoch 1, in "
        r"(layer [12] \((hidden|gate|expert)\)|readout|the softmax's input)\. .*"
        r"learning_rate_init is too high"
    )
    estimator = make(gater, max_iter=20, **options)
    with pytest.raises(ValueError, match=message):
        estimator.fit(X, y)
    assert_not_fitted(estimator, X, y)
    estimator.set_params(learning_rate_init=0.1, max_iter=1).fit(X, y)
    expected = make(gater, hidden_layer_sizes=hidden_layer_sizes).fit(X, y)
    assert_same_bits(*(copy_of_state(e._network) for e in (estimator, expected)))


@pytest.mark.parametrize("gater", GATERS)
def test_weights_that_become_infinite_in_a_first_partial_fit(data, gater):
    """The next call is the first one again."""
    X, y = data
    classes = np.unique(y)
    estimator = make(gater, learning_rate_init=1e30)
    with pytest.raises(ValueError, match="non-finite values in epoch 1, in "):
        estimator.partial_fit(X, y, classes=classes)
    assert_not_fitted(estimator, X, y)
    estimator.set_params(learning_rate_init=0.1).partial_fit(X, y, classes=classes)
    expected = make(gater).partial_fit(X, y, classes=classes)
    assert_same_bits(*(copy_of_state(e._network) for e in (estimator, expected)))
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 1


def test_the_epoch_in_which_weights_become_infinite(data):
    """A decay that multiplies weights by -9 in each epoch."""
    X, y = data
    options = {"gater": "sigmoid", "max_norm": None, "batch_size": len(X)}
    options.update(learning_rate_init=50.0, alpha=len(X) / 5, n_iter_no_change=np.inf)
    with pytest.raises(ValueError) as raised:
        make(max_iter=1000, **options).fit(X, y)
    epoch = int(re.search(r"in epoch (\d+), in", str(raised.value))[1])
    assert 5 < epoch < 50
    earlier = make(max_iter=epoch - 1, **options).fit(X, y)
    assert earlier.n_iter_ == epoch - 1
    assert all(np.isfinite(coefs).all() for coefs in earlier.coefs_)


def test_rates_in_training_are_those_of_the_last_call_that_succeeded(data):
    """One that fails has counted already."""
    X, y = data
    estimator = make().fit(X, y)
    rates, density = estimator.training_firing_rates_, estimator.training_density_
    estimator.set_params(learning_rate_init=1e30)
    with pytest.raises(ValueError, match="non-finite values in epoch 1, in "):
        estimator.partial_fit(X[:50], y[:50])
    np.testing.assert_array_equal(estimator.training_firing_rates_, rates)
    assert estimator.training_density_ == density


@pytest.mark.parametrize(
    ("X_bad", "y_bad", "classes"),
    [
        (np.ones((2, 20)), [0, 9], [0, 1]),
        (np.ones((2, 20)), [0, 0], [0]),
        (np.full((2, 20), np.nan), [0, 1], [0, 1]),
        (np.ones((2, 20)), [0, 1], None),
    ],
    ids=["unknown label", "one class", "NaN", "no classes"],
)
def test_a_first_partial_fit_that_fails(data, X_bad, y_bad, classes):
    X, y = data
    estimator = make()
    with pytest.raises(ValueError):
        estimator.partial_fit(X_bad, y_bad, classes=classes)
    assert_not_fitted(estimator, X, y)
    expected = make().fit(X, y)
    for warm_start in (True, False):
        estimator.set_params(warm_start=warm_start).fit(X, y)
        assert_same_bits(
            copy_of_state(estimator._network), copy_of_state(expected._network)
        )


def test_a_failed_call_leaves_a_fitted_estimator_alone(data):
    X, y = data
    estimator = make().fit(X, y)
    before, expected = copy_of_state(estimator._network), estimator.predict_proba(X)
    bad = X.copy()
    bad[0, 0] = np.nan
    for call in (
        lambda: estimator.partial_fit(bad, y),
        lambda: estimator.partial_fit(X, y + 1),
        lambda: estimator.fit(bad, y),
        lambda: estimator.fit(X, y[1:]),
        lambda: estimator.predict(bad),
    ):
        with pytest.raises(ValueError):
            call()
        assert_same_bits(copy_of_state(estimator._network), before)
        np.testing.assert_array_equal(estimator.predict_proba(X), expected)
