"""Data sets as float32 pixels in [0, 1] and integer labels, split for training."""

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
from sklearn.datasets import fetch_openml, load_digits
from sklearn.model_selection import train_test_split

# The four files of MNIST and of those that copy its format.
_IMAGES, _LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"

# 8 is the code of unsigned bytes; the last byte is the number of dimensions.
_IMAGE_MAGIC, _LABEL_MAGIC = 0x0803, 0x0801

_MNIST_TRAIN = 60000
_PIXEL_MAXIMUM = 255
_DIGITS_MAXIMUM = 16


def load_idx(folder):
    """Read a data set in the format of MNIST.

    Parameters
    ----------
    folder : str or path-like
        Holds the files ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
        ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``. Each may have
        ``.idx`` for ``-idx`` in its name, and may be compressed, with ``.gz`` at the
        end; a file that is not compressed is preferred.

    Returns
    -------
    X_train : ndarray of shape (n_train, n_pixels), float32
        In [0, 1].
    y_train : ndarray of shape (n_train,), int64
    X_test : ndarray of shape (n_test, n_pixels), float32
    y_test : ndarray of shape (n_test,), int64

    Raises
    ------
    FileNotFoundError
        If a file is missing: the message has the folder and the names tried.
    ValueError
        If a file has another magic number, or more or fewer bytes than its header
        says, if it cannot be decompressed, or if the files do not fit each other.
    """
    folder = Path(os.fsdecode(folder))
    parts = []
    for part in ("train", "t10k"):
        images_path = _find(folder, _IMAGES.format(part))
        labels_path = _find(folder, _LABELS.format(part))
        images = _read_idx(images_path, _IMAGE_MAGIC)
        labels = _read_idx(labels_path, _LABEL_MAGIC)
        if len(images) != len(labels):
            raise ValueError(
                f"{images_path} has {len(images)} images, but {labels_path} has "
                f"{len(labels)} labels."
            )
        parts.append((images_path, images, labels))
    (train_path, *train), (test_path, *test) = parts
    if train[0].shape[1:] != test[0].shape[1:]:
        raise ValueError(
            f"Images in {train_path} have {_by(train[0])} pixels, those in {test_path} "
            f"{_by(test[0])}."
        )
    return (*_as_floats(*train), *_as_floats(*test))


def load_mnist(folder=None):
    """Load MNIST from a folder, or from OpenML.

    Parameters
    ----------
    folder : str or path-like, optional
        Read with `load_idx`. By default the data are downloaded with
        `sklearn.datasets.fetch_openml`, which keeps them for the next time in the
        folder that `sklearn.datasets.get_data_home` names.

    Returns
    -------
    X_train : ndarray of shape (60000, 784), float32
        In [0, 1].
    y_train : ndarray of shape (60000,), int64
    X_test : ndarray of shape (10000, 784), float32
    y_test : ndarray of shape (10000,), int64

    Raises
    ------
    FileNotFoundError, ValueError
        As in `load_idx`.
    """
    if folder is not None:
        return load_idx(folder)
    data = _fetch("mnist_784", version=1)
    X = data.data.astype(np.float32)
    X /= _PIXEL_MAXIMUM
    y = data.target.astype(np.int64)
    n = _MNIST_TRAIN
    return X[:n], y[:n], X[n:], y[n:]


def load_digits_split(random_state=0):
    """Load scikit-learn's digits, split at random with equal shares of each class.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=0
        Decides the split.

    Returns
    -------
    X_train : ndarray of shape (1197, 64), float32
        In [0, 1].
    y_train : ndarray of shape (1197,), int64
    X_val : ndarray of shape (300, 64), float32
    y_val : ndarray of shape (300,), int64
    X_test : ndarray of shape (300, 64), float32
    y_test : ndarray of shape (300,), int64
    """
    X, y = load_digits(return_X_y=True)
    X = (X / _DIGITS_MAXIMUM).astype(np.float32)
    y = y.astype(np.int64)
    split = {"test_size": 300, "random_state": random_state}
    X, X_test, y, y_test = train_test_split(X, y, stratify=y, **split)
    X_train, X_val, y_train, y_val = train_test_split(X, y, stratify=y, **split)
    return X_train, y_train, X_val, y_val, X_test, y_test


def _fetch(name, version):
    """`fetch_openml` with its fast parser if that is there: it needs pandas."""
    try:
        return fetch_openml(name, version=version, as_frame=False, parser="auto")
    except ImportError:
        return fetch_openml(name, version=version, as_frame=False, parser="liac-arff")


def _find(folder, name):
    """Path of the file `name` of MNIST under one of the names that it goes by."""
    stems = (name, name.replace("-idx", ".idx"))
    names = [stem + suffix for suffix in ("", ".gz") for stem in stems]
    for candidate in names:
        if (folder / candidate).is_file():
            return folder / candidate
    raise FileNotFoundError(f"{folder} has none of the files {', '.join(names)}.")


def _read_idx(path, magic):
    """Read an array of unsigned bytes from an IDX file with this magic number."""
    data = _read_bytes(path)
    n_dimensions = magic & 0xFF
    start = 4 * (1 + n_dimensions)
    if len(data) < start:
        raise ValueError(f"{path} is truncated: {len(data)} bytes, no complete header.")
    found, *shape = (int(word) for word in np.frombuffer(data[:start], dtype=">u4"))
    if found != magic:
        raise ValueError(f"{path} has the magic number {found:#x}, not {magic:#x}.")
    size = 1
    for length in shape:
        size *= length
    if len(data) - start != size:
        problem = "is truncated" if len(data) - start < size else "is too long"
        raise ValueError(
            f"{path} {problem}: {len(data) - start} bytes after its header, which "
            f"announces {size}."
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _read_bytes(path):
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except EOFError as error:
        raise ValueError(f"{path} is truncated: {error}") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be decompressed: {error}") from error


def _by(images):
    return " x ".join(map(str, images.shape[1:]))


def _as_floats(images, labels):
    """Flattened images in [0, 1] and labels."""
    n_pixels = images.shape[1] * images.shape[2]
    X = images.reshape(len(images), n_pixels).astype(np.float32)
    X /= _PIXEL_MAXIMUM
    return X, labels.astype(np.int64)
