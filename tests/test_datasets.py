"""Loading of IDX files, of MNIST and of the digits; nothing is downloaded."""

import gzip
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from stochnet import datasets
from stochnet.datasets import load_digits_split, load_idx, load_mnist

NAMES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
FORMS = {
    "plain": str,
    "dot": lambda name: name.replace("-idx", ".idx"),
    "gz": lambda name: name + ".gz",
    "dot-gz": lambda name: name.replace("-idx", ".idx") + ".gz",
}


def idx_bytes(array):
    """The IDX file of an array of bytes."""
    header = bytes([0, 0, 8, array.ndim])
    header += b"".join(length.to_bytes(4, "big") for length in array.shape)
    return header + array.tobytes()


def write(folder, name, data):
    if name.endswith(".gz"):
        data = gzip.compress(data)
    (folder / name).write_bytes(data)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    made = {
        "train_images": rng.integers(256, size=(300, 3, 5), dtype=np.uint8),
        "train_labels": rng.integers(10, size=300, dtype=np.uint8),
        "test_images": rng.integers(256, size=(7, 3, 5), dtype=np.uint8),
        "test_labels": rng.integers(200, 256, size=7, dtype=np.uint8),
    }
    made["train_images"][0, 0, :2] = 0, 255
    return made


@pytest.fixture
def folder(tmp_path, arrays):
    """A folder with the four files, not compressed."""
    for key, name in NAMES.items():
        write(tmp_path, name, idx_bytes(arrays[key]))
    return tmp_path


def assert_is(loaded, arrays):
    """`loaded` is what the four arrays of bytes stand for."""
    assert len(loaded) == 4
    keys = ("train_images", "train_labels", "test_images", "test_labels")
    for values, key in zip(loaded, keys, strict=True):
        expected = arrays[key]
        if expected.ndim == 3:
            assert values.dtype == np.float32
            assert values.flags.c_contiguous and values.flags.writeable
            expected = expected.reshape(len(expected), -1) / np.float32(255)
        else:
            assert values.dtype == np.int64
        np.testing.assert_array_equal(values, expected)


# ---------------------------------------------------------------------------
# load_idx
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_load_idx_reads_every_form(tmp_path, arrays, form):
    for key, name in NAMES.items():
        write(tmp_path, FORMS[form](name), idx_bytes(arrays[key]))
    loaded = load_idx(tmp_path)
    assert_is(loaded, arrays)
    X_train = loaded[0]
    assert X_train[0, 0] == 0.0 and X_train[0, 1] == 1.0
    assert X_train.min() >= 0 and X_train.max() <= 1


def test_load_idx_mixes_forms(tmp_path, arrays):
    for (key, name), form in zip(NAMES.items(), FORMS.values(), strict=True):
        write(tmp_path, form(name), idx_bytes(arrays[key]))
    assert_is(load_idx(tmp_path), arrays)


@pytest.mark.parametrize("convert", [str, lambda path: str(path).encode()])
def test_load_idx_takes_names_of_folders(folder, arrays, convert):
    assert_is(load_idx(convert(folder)), arrays)


def test_load_idx_prefers_what_is_not_compressed(folder, arrays):
    for name in NAMES.values():
        (folder / (name + ".gz")).write_bytes(b"not read")
    assert_is(load_idx(folder), arrays)


@pytest.mark.parametrize("missing", NAMES)
def test_load_idx_names_what_is_missing(folder, missing):
    name = NAMES[missing]
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError) as raised:
        load_idx(folder)
    message = str(raised.value)
    assert str(folder) in message
    for form in FORMS.values():
        assert form(name) in message
    others = (other for key, other in NAMES.items() if key != missing)
    assert not any(other in message for other in others)


def test_load_idx_without_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_idx(tmp_path / "nowhere")


def test_load_idx_passes_over_folders(folder):
    name = NAMES["test_labels"]
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(FileNotFoundError, match=name):
        load_idx(folder)


@pytest.mark.parametrize("key", NAMES)
@pytest.mark.parametrize("place", range(4))
def test_load_idx_checks_the_magic_number(folder, key, place):
    path = folder / NAMES[key]
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{NAMES[key]} has the magic number 0x"):
        load_idx(folder)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("key", NAMES)
@pytest.mark.parametrize("length", ["empty", "in header", "in data", "last byte"])
def test_load_idx_finds_truncation(folder, arrays, key, length, suffix):
    data = idx_bytes(arrays[key])
    keep = {"empty": 0, "in header": 7, "in data": 20, "last byte": len(data) - 1}
    if length == "in data":
        keep["in data"] = 4 * (1 + arrays[key].ndim) + 2
    (folder / NAMES[key]).unlink()
    write(folder, NAMES[key] + suffix, data[: keep[length]])
    with pytest.raises(ValueError, match=f"{NAMES[key]}.* is truncated"):
        load_idx(folder)


def test_load_idx_refuses_trailing_bytes(folder):
    path = folder / NAMES["train_labels"]
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="train-labels.* is too long: 301 .* 300"):
        load_idx(folder)


def test_load_idx_does_not_believe_a_header(folder):
    """Lengths whose product overflows 64 bits, to zero."""
    path = folder / NAMES["train_images"]
    path.write_bytes(bytes([0, 0, 8, 3]) + bytes([128, 0, 0, 0]) * 3)
    with pytest.raises(ValueError, match="is truncated"):
        load_idx(folder)


@pytest.mark.parametrize("damage", ["cut", "not gzip", "bad data"])
def test_load_idx_finds_damaged_gzip(folder, arrays, damage):
    name = NAMES["train_images"]
    (folder / name).unlink()
    whole = gzip.compress(idx_bytes(arrays["train_images"]))
    data = {
        "cut": whole[: len(whole) // 2],
        "not gzip": idx_bytes(arrays["train_images"]),
        "bad data": whole[:10] + b"\xff" * 50,
    }[damage]
    (folder / (name + ".gz")).write_bytes(data)
    what = "is truncated" if damage == "cut" else "cannot be decompressed"
    with pytest.raises(ValueError, match=rf"{name}\.gz {what}"):
        load_idx(folder)


@pytest.mark.parametrize(
    ("images", "labels"),
    [(part + "_images", part + "_labels") for part in ("train", "test")],
)
def test_load_idx_compares_counts(folder, arrays, images, labels):
    n = len(arrays[labels])
    write(folder, NAMES[labels], idx_bytes(arrays[labels][:-2]))
    message = f"{NAMES[images]} has {n} images.*{NAMES[labels]} has {n - 2} labels"
    with pytest.raises(ValueError, match=message):
        load_idx(folder)


def test_load_idx_compares_sizes_of_images(folder, arrays):
    """Also where the number of pixels is the same."""
    turned = arrays["test_images"].reshape(-1, 5, 3)
    write(folder, NAMES["test_images"], idx_bytes(turned))
    with pytest.raises(ValueError, match="have 3 x 5 pixels.* 5 x 3"):
        load_idx(folder)


def test_load_idx_of_no_images(folder, arrays):
    for key in ("test_images", "test_labels"):
        write(folder, NAMES[key], idx_bytes(arrays[key][:0]))
    X_test, y_test = load_idx(folder)[2:]
    assert X_test.shape == (0, 15)
    assert y_test.shape == (0,)


# ---------------------------------------------------------------------------
# load_mnist
# ---------------------------------------------------------------------------


def no_download(*args, **kwargs):
    raise AssertionError("a folder is given")


def test_load_mnist_from_a_folder(folder, arrays, monkeypatch):
    monkeypatch.setattr(datasets, "fetch_openml", no_download)
    assert_is(load_mnist(folder), arrays)


@pytest.fixture
def openml(monkeypatch):
    """A stand-in for OpenML; the value is what it is asked for, and by which parser."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(256, size=(70000, 3))
    digits = rng.integers(10, size=70000)
    calls = []

    def fetch(name, *, version, as_frame, parser):
        calls.append(parser)
        assert (name, version, as_frame) == ("mnist_784", 1, False)
        if parser not in parsers:
            raise ImportError("requires pandas to be installed")
        dtype = {"auto": np.int64, "liac-arff": np.float64}[parser]
        target = np.array([str(digit) for digit in digits], dtype=object)
        return SimpleNamespace(data=pixels.astype(dtype), target=target)

    parsers = {"auto", "liac-arff"}
    monkeypatch.setattr(datasets, "fetch_openml", fetch)
    return SimpleNamespace(pixels=pixels, digits=digits, calls=calls, parsers=parsers)


@pytest.mark.parametrize("pandas", [True, False])
def test_load_mnist_from_openml(openml, pandas):
    if not pandas:
        openml.parsers.remove("auto")
    X_train, y_train, X_test, y_test = load_mnist()
    assert openml.calls == (["auto"] if pandas else ["auto", "liac-arff"])
    expected = openml.pixels.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(X_train, expected[:60000])
    np.testing.assert_array_equal(X_test, expected[60000:])
    np.testing.assert_array_equal(y_train, openml.digits[:60000])
    np.testing.assert_array_equal(y_test, openml.digits[60000:])
    assert X_train.dtype == X_test.dtype == np.float32
    assert y_train.dtype == y_test.dtype == np.int64


def test_load_mnist_reports_that_nothing_parses(openml):
    openml.parsers.clear()
    with pytest.raises(ImportError, match="pandas"):
        load_mnist()


# ---------------------------------------------------------------------------
# load_digits_split
# ---------------------------------------------------------------------------


def test_load_digits_split_splits_every_row_once():
    parts = load_digits_split()
    images, labels = parts[::2], parts[1::2]
    assert [X.shape for X in images] == [(1197, 64), (300, 64), (300, 64)]
    assert [y.shape for y in labels] == [(1197,), (300,), (300,)]
    assert {X.dtype for X in images} == {np.dtype(np.float32)}
    assert {y.dtype for y in labels} == {np.dtype(np.int64)}
    pixels = np.concatenate(images)
    assert pixels.min() == 0 and pixels.max() == 1

    def rows(X, y):
        return sorted(zip(map(bytes, X), y.tolist(), strict=True))

    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    assert rows(pixels, np.concatenate(labels)) == rows(X, y)


def test_load_digits_split_is_stratified():
    for y in load_digits_split(3)[1::2]:
        shares = np.bincount(y) / len(y)
        expected = np.bincount(load_digits().target) / 1797
        np.testing.assert_allclose(shares, expected, atol=0.004)


def test_load_digits_split_follows_random_state():
    def same(first, second):
        pairs = zip(first, second, strict=True)
        return all(np.array_equal(*pair) for pair in pairs)

    assert same(load_digits_split(), load_digits_split(0))
    splits = [load_digits_split(seed) for seed in range(3)]
    for first, second in itertools.combinations(splits, 2):
        assert not same(first, second)
