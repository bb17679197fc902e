"""Which rows and labels scikit-learn checks, and which pass without it.

What it says of bad ones is in test_bad_input.py.
"""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from stochnet import GatedMLPClassifier, _validation


class AskedError(Exception):
    """scikit-learn was."""


@pytest.fixture
def data():
    X, y = load_digits(return_X_y=True)
    return X[:64].astype(np.float32), y[:64]


@pytest.fixture
def fitted(data, monkeypatch):
    """An estimator for which from now on scikit-learn's checks raise."""
    estimator = GatedMLPClassifier(20, random_state=0).partial_fit(
        *data, classes=np.arange(10)
    )

    def validate_data(*_, **__):
        raise AskedError

    monkeypatch.setattr(_validation, "validate_data", validate_data)
    return estimator


def with_value(X, value):
    X = X.copy()
    X[3, 5] = value
    return X


PLAIN = {
    "float32": lambda X: X,
    "float64": lambda X: X.astype(np.float64),
    "Fortran order": np.asfortranarray,
    "every second row": lambda X: X[::2],
    "one row": lambda X: X[:1],
    "the largest": lambda X: with_value(X, np.finfo(np.float32).max),
}

OTHERS = {
    "nan": lambda X: with_value(X, np.nan),
    "inf": lambda X: with_value(X, np.inf),
    "-inf": lambda X: with_value(X, -np.inf),
    "beyond float32": lambda X: with_value(X.astype(float), 1e39),
    "below float32": lambda X: with_value(X.astype(float), -1e39),
    "float16": lambda X: X.astype(np.float16),
    "integers": lambda X: X.astype(int),
    "other byte order": lambda X: X.astype(X.dtype.newbyteorder()),
    "lists": lambda X: X.tolist(),
    "a subclass": lambda X: X.view(np.recarray),
    "one dimension": lambda X: X[0],
    "no rows": lambda X: X[:0],
    "another width": lambda X: X[:, :-1],
}


@pytest.mark.parametrize("form", PLAIN)
def test_plain_rows_pass(fitted, data, form):
    X, y = data
    plain = PLAIN[form](X)
    assert len(fitted.predict(plain)) == len(plain)
    fitted.partial_fit(plain / 1e3, y[: len(plain)])


@pytest.mark.parametrize("form", OTHERS)
def test_others_are_checked(fitted, data, form):
    X, y = data
    other = OTHERS[form](X)
    with pytest.raises(AskedError):
        fitted.predict(other)
    with pytest.raises(AskedError):
        fitted.partial_fit(other, y)


def test_rows_are_checked_where_features_have_names(fitted, data):
    fitted.feature_names_in_ = np.array([f"pixel {i}" for i in range(64)], dtype=object)
    with pytest.raises(AskedError):
        fitted.predict(data[0])


@pytest.mark.parametrize(
    "form", [list, lambda y: y.astype(float), lambda y: y[:-1], lambda y: y[:, None]]
)
def test_other_labels_are_checked(fitted, data, form):
    X, y = data
    with pytest.raises(AskedError):
        fitted.partial_fit(X, form(y))


def test_what_is_fitted_first_is_checked(fitted, data):
    with pytest.raises(AskedError):
        GatedMLPClassifier(20).fit(*data)
