"""Checks of rows and labels: scikit-learn's, which say what is wrong with anything.

They take longer than a step of a small network or the prediction of a row. So plain
arrays in which they could find nothing pass without them.
"""

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

_LARGEST = np.finfo(np.float32).max


def check_fitted(estimator):
    """scikit-learn's check, asked only where it raises."""
    if not estimator.__sklearn_is_fitted__():
        check_is_fitted(estimator)


def _is_plain(estimator, X):
    """Whether X is rows of finite floats, such as a fitted estimator was fitted on."""
    return (
        type(X) is np.ndarray
        and X.dtype in (np.float32, np.float64)
        and X.ndim == 2
        and len(X) > 0
        and X.shape[1] == estimator.n_features_in_
        and not hasattr(estimator, "feature_names_in_")
        and _is_within_float32(X)
    )


def _is_within_float32(X):
    """Whether neither infinity nor NaN is in X, nor would be once it is float32."""
    return -_LARGEST <= X.min() and X.max() <= _LARGEST


def _are_plain_labels(y, n_rows):
    return type(y) is np.ndarray and y.dtype.kind in "iub" and y.shape == (n_rows,)


def training_data(estimator, X, y, *, reset):
    """Checked rows, float32 in C order, and labels.

    Parameters
    ----------
    estimator : GatedMLPClassifier
    X : array-like of shape (n_rows, n_features)
    y : array-like of shape (n_rows,)
    reset : bool
        Whether the estimator takes its features from X, or has them already.

    Returns
    -------
    X : ndarray of shape (n_rows, n_features), float32
    y : ndarray of shape (n_rows,)

    Raises
    ------
    ValueError
        If X or y is invalid.
    """
    if not reset and _is_plain(estimator, X) and _are_plain_labels(y, len(X)):
        return np.ascontiguousarray(X, dtype=np.float32), y
    with np.errstate(over="ignore"):  # refused, as infinite
        return validate_data(
            estimator,
            X,
            y,
            reset=reset,
            dtype=np.float32,
            order="C",
            multi_output=False,
        )


def prediction_data(estimator, X):
    """Checked rows; numbers of any type are left to be converted chunk by chunk.

    Parameters
    ----------
    estimator : GatedMLPClassifier
    X : array-like of shape (n_rows, n_features)

    Returns
    -------
    ndarray of shape (n_rows, n_features)

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    ValueError
        If X is invalid.
    """
    check_fitted(estimator)
    if _is_plain(estimator, X):
        return X
    is_number = getattr(getattr(X, "dtype", None), "kind", "O") in "biuf"
    dtype = "numeric" if is_number else np.float32
    with np.errstate(over="ignore"):  # refused, as infinite
        X = validate_data(estimator, X, reset=False, dtype=dtype)
    if X.dtype.kind == "f" and not _is_within_float32(X):
        raise ValueError(
            "Input X contains infinity or a value too large for dtype('float32')."
        )
    return X
