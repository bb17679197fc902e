"""The layers' only direction of travel, and what C leaves to its caller.

estimator -> training -> network -> initialization -> gaters -> _kernels -> csrc: what
is further right knows nothing of what is further left. The sources are read, not run,
so that an import inside a function counts too.
"""

import ast
import re
import subprocess
from pathlib import Path

import pytest

import stochnet

ROOT = Path(__file__).parents[1]
PACKAGE = Path(stochnet.__file__).parent
CSRC = ROOT / "csrc"

# A module imports from lower ranks, and the kernels from each other.
LAYERS = (
    "_kernels",
    "gaters",
    "initialization",
    "network",
    "calibration",
    "training",
    "estimator",
)
RANK = {name: rank for rank, name in enumerate(LAYERS)}

# Modules without a rank import what they like. Ranked ones do not import them, except:
HELPERS = {"estimator": {"_threads", "_validation"}}

TOP_LEVEL = {
    "pyproject.toml",
    "setup.py",
    "stochnet",
    "csrc",
    "tests",
    "examples",
    "README.md",
    "LICENSE",
}

# ---------------------------------------------------------------------------
# Python and Cython
# ---------------------------------------------------------------------------


def imported_by_python(source, module):
    """Full names of what a module imports; `from a import b` counts as a.b.

    Parameters
    ----------
    module : str
        Its own full name, that of the package for an ``__init__``.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def imported_by_cython(source):
    """The same for .pyx and .pxd files, which `ast` does not read."""
    names = set()
    pattern = (
        r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|[^\n#]+)|c?import\s+([^\n#]+))"
    )
    for base, members, modules in re.findall(pattern, source, re.MULTILINE):
        for member in re.sub(r"#[^\n]*|[()]", "", members or modules).split(","):
            name = member.split(" as ")[0].strip()
            if name:
                names.add(f"{base}.{name}" if base else name)
    return names


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts)


def sources():
    """(module below stochnet, what it imports of stochnet) of every source file."""
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix in (".py", ".pyi"):
            names = imported_by_python(path.read_text("utf-8"), module_name(path))
        elif path.suffix in (".pyx", ".pxd"):
            names = imported_by_cython(path.read_text("utf-8"))
        else:
            continue
        own = module_name(path).split(".")[1]
        yield own, {n for n in names if n.split(".")[0] == "stochnet"}


def forbidden(own, names):
    """Those of `names` that the module `own` must not import."""
    if own not in RANK:
        return set()
    found = set()
    for name in names:
        target = (name.split(".") + ["__init__"])[1]
        lower = RANK.get(target, 99) < RANK[own]
        among_kernels = own == target == "_kernels"
        if not (lower or among_kernels or target in HELPERS.get(own, ())):
            found.add(name)
    return found


def test_nothing_imports_upward():
    read = list(sources())
    assert {"_kernels", "gaters", "network"} <= {own for own, _ in read}
    upward = {own: forbidden(own, names) for own, names in read}
    assert not any(upward.values()), upward


def test_each_layer_uses_the_one_below():
    """Or the test above would hold for a heap of modules, too."""
    used = {}
    for own, names in sources():
        used.setdefault(own, set()).update(n.split(".")[1] for n in names)
    assert "_kernels" in used["gaters"] & used["network"]
    if "training" in used and "estimator" in used:
        assert "training" in used["estimator"]


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("network", "import stochnet.training", {"stochnet.training"}),
        (
            "network",
            "from stochnet.training import Trainer",
            {"stochnet.training.Trainer"},
        ),
        ("network", "from . import estimator", {"stochnet.estimator"}),
        ("network", "def f():\n  from .bench import g", {"stochnet.bench.g"}),
        ("network", "from stochnet import __version__", {"stochnet.__version__"}),
        ("network", "import stochnet", {"stochnet"}),
        ("network", "from stochnet import gaters, _kernels", set()),
        ("network", "from stochnet._threads import f", {"stochnet._threads.f"}),
        ("estimator", "from stochnet._threads import f", set()),
        (
            "gaters",
            "from stochnet.network import Network",
            {"stochnet.network.Network"},
        ),
        (
            "network",
            "from stochnet.network import Network",
            {"stochnet.network.Network"},
        ),
        ("estimator", "from stochnet.training import Trainer", set()),
        ("estimator", "from stochnet.datasets import f", {"stochnet.datasets.f"}),
        ("bench", "from stochnet import GatedMLPClassifier", set()),
    ],
)
def test_python_imports_are_noticed(module, source, expected):
    names = imported_by_python(source, f"stochnet.{module}")
    assert forbidden(module, names) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from stochnet.gaters import Noise", {"stochnet.gaters.Noise"}),
        ("def f():\n    import stochnet.network as n", {"stochnet.network"}),
        ("from stochnet._kernels.engine cimport (\n    a, b,  # c\n)", set()),
        ("from stochnet cimport network", {"stochnet.network"}),
    ],
)
def test_cython_imports_are_noticed(source, expected):
    names = imported_by_cython(source)
    assert names
    assert forbidden("_kernels", names) == expected


# ---------------------------------------------------------------------------
# C
# ---------------------------------------------------------------------------

# Memory, output and the process belong to the caller.
CALLER_ONLY = re.compile(
    r"\bPython\.h\b|\bPy[A-Z_]\w*|\b(?:m|c|re|aligned_)alloc\b|\bposix_memalign\b|\bfree\b"
    r"|\balloca\b|\b(?:v?[fsd]?n?printf|puts|putchar|perror|fopen|fwrite)\b"
    r"|\b(?:_?exit|abort|quick_exit|longjmp|signal|raise|assert)\b"
    r"|\b(?:s?rand|random|drand48|time|clock|getenv)\s*\("
)


def without_comments(source):
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", source, flags=re.DOTALL)


def without_strings(source):
    return re.sub(r'"(?:\\.|[^"\\\n])*"', '""', source)


def callers_business(source):
    """Names in C source that only the caller may use."""
    return set(CALLER_ONLY.findall(without_comments(source)))


def declarations(source):
    """Top-level declarations of a C file, and static ones inside functions.

    The contents of braces become {}; preprocessor lines, function definitions and
    pure type definitions are left out.
    """
    source = without_strings(without_comments(source))
    source = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", "", source, flags=re.MULTILINE)
    text, depth, inner = "", 0, ""
    for character in source:
        if character == "{":
            depth += 1
            text += "{" * (depth == 1)
        elif character == "}":
            depth -= 1
            if depth == 0:
                text += "}"
                is_data = re.match(r"\s*(?:typedef|enum|struct|union)\b", text)
                if not is_data and "=" not in text:
                    text = ""  # a function
        elif depth:
            inner += character
        else:
            text += character
            if character == ";":
                yield " ".join(text.split())
                text = ""
    for local in re.findall(r"\bstatic\b[^;{}]*;", inner):
        yield " ".join(local.split())


def mutable_variables(source):
    """Declarations of variables that outlive a call and can change."""
    found = []
    for declaration in declarations(source):
        head = declaration.partition("=")[0].rstrip("; ")
        if re.match(r"typedef\b|_Static_assert\b", head) or not head:
            continue
        if re.fullmatch(r"(?:enum|struct|union)(?: \w+)?(?: \{\})?", head):
            continue
        if "(" in head and "(*" not in head:
            continue  # a prototype
        declarator = head.rpartition("*")[2]
        if not re.search(r"\bconst\b", declarator):
            found.append(declaration)
    return found


def c_files():
    if not CSRC.is_dir():
        pytest.skip("The C sources are not here.")
    return sorted(path for path in CSRC.rglob("*") if path.suffix in (".c", ".h"))


def test_c_leaves_memory_output_and_python_to_its_caller():
    found = {p.name: callers_business(p.read_text("utf-8")) for p in c_files()}
    assert len(found) > 10
    assert not any(found.values()), found


def test_c_has_no_mutable_global():
    texts = {path.name: path.read_text("utf-8") for path in c_files()}
    found = {name: mutable_variables(text) for name, text in texts.items()}
    assert not any(found.values()), found
    # something was seen: the tables of units
    seen = [d for text in texts.values() for d in declarations(text)]
    assert any("unit_table" in d for d in seen)


@pytest.mark.parametrize(
    "source",
    [
        "#include <Python.h>",
        "p = malloc(3);",
        "p = calloc(3, 1); free(p);",
        'printf("%d", 1);',
        'fprintf(stderr, "x");',
        "snprintf(s, 3, t);",
        "exit(1);",
        "abort();",
        "return rand ();",
        "PyObject *x;",
    ],
)
def test_what_c_must_not_use_is_noticed(source):
    assert callers_business(source)
    assert not callers_business(f"/* {source} */ int x; // {source}")


@pytest.mark.parametrize(
    "source",
    [
        "static int count;",
        "int count = 3;",
        "static float table[] = {1.0f, 2.0f};",
        "static const float *rows[] = {a, b};",
        "struct state { int x; } state;",
        "static void (*callback)(int);",
        "int f(void) { static int calls; return ++calls; }",
        "int f(void) { if (1) { static float x = 3; } return 1; }",
        "#define A \\\n    1\nstatic int count;",
    ],
)
def test_mutable_globals_are_noticed(source):
    assert len(mutable_variables(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "static const float table[] = {1.0f, 2.0f};",
        "static const unit *const rows[] = {&a, &b};",
        "extern const sn_engine engine;",
        "const sn_unit u = { .name = name, .f = f };",
        "enum { A = 1, B };",
        "typedef struct { int x; float y[2]; } state;",
        "struct state { int x; };",
        "int f(const int *x);\nstatic int f(const int *x) { int y = *x; return y; }",
        "#define N 3 \\\n  static int x;\n#include <math.h>",
        "/* int x; */ int f(void) { static const int one = 1; return one; }",
    ],
)
def test_constants_are_not_mutable_globals(source):
    assert mutable_variables(source) == []


# ---------------------------------------------------------------------------
# The repository
# ---------------------------------------------------------------------------


def git(*arguments):
    """Lines that git prints, or none where there is no git or no repository."""
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return []
    return result.stdout.splitlines() if result.returncode == 0 else []


def test_top_level_of_a_checkout():
    if git("rev-parse", "--show-prefix") != [""] or not git("ls-files", "tests"):
        pytest.skip("Not in a git checkout.")
    names = {name.partition("/")[0] for name in git("ls-files")}
    assert {name for name in names if not name.startswith(".")} == TOP_LEVEL
