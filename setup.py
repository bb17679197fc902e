"""Build of the compiled engine and its Cython modules.

Everything that is plain metadata is in pyproject.toml.  What is here is what
setuptools cannot be told there: C files that need different flags although they
end up in one module, and an OpenMP that may be missing.

Environment variables
    STOCHNET_OPENMP=0   build the serial version even if there is OpenMP
    STOCHNET_EMULATE=1  build AVX-512's code for processors without it as well,
                        slow, for tests: STOCHNET_SIMD=avx512_emulated
    STOCHNET_WERROR=1   strict warnings in the engine, all of them errors
"""

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ENGINE = "stochnet._kernels.engine"

# Errno, traps and contraction decide whether loops vectorise; nothing here may
# reorder sums or assume that there are no NaNs, so -ffast-math stays out.
ENGINE_FLAGS = [
    "-std=gnu11",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
]

# -w: the warnings of generated code are nobody's to fix.
CYTHON_FLAGS = ["-std=gnu11", "-O2", "-fvisibility=hidden", "-w"]

DIRECTIVES = {
    "language_level": 3,
    "initializedcheck": False,
    "embedsignature": True,
}

AVX2 = ["-mavx2", "-mfma", "-mbmi2"]
AVX512 = ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", *AVX2]

# source, flags it cannot do without, flags it only likes to have, and the macro
# that says, in all the engine's files, that this source has got its flags
ENGINE_SOURCES = [
    ("csrc/simd/avx512.c", AVX512, ["-mprefer-vector-width=512"], "STOCHNET_AVX512"),
    ("csrc/simd/avx2.c", AVX2, [], "STOCHNET_AVX2"),
    ("csrc/simd/baseline.c", [], [], None),
    ("csrc/simd/dispatch.c", [], [], None),
]
if os.environ.get("STOCHNET_EMULATE") == "1":
    # Such vectors pass between functions in memory, of which GCC likes to warn.
    ENGINE_SOURCES.append(
        (
            "csrc/simd/avx512_emulated.c",
            AVX2,
            ["-Wno-psabi"],
            "STOCHNET_AVX512_EMULATED",
        )
    )

OPENMP_CANDIDATES = [(["-fopenmp"], ["-fopenmp"])]
if sys.platform == "darwin":
    # Apple's clang has the pragmas but neither the switch nor the library.
    OPENMP_CANDIDATES.append((["-Xpreprocessor", "-fopenmp"], ["-lomp"]))

OPENMP_PROGRAM = """
#ifndef _OPENMP
#error "the flag is accepted but does nothing"
#endif
#include <omp.h>
int main(void) {
    int n = 0;
    #pragma omp parallel reduction(+ : n)
    n += omp_get_num_threads() > 0;
    return n > 0 ? 0 : 1;
}
"""

AVX_PROGRAM = """
#include <immintrin.h>
int main(void) { return 0; }
"""


def files(*patterns):
    return sorted(
        path.as_posix()
        for pattern in patterns
        for path in Path().glob(pattern)
        if path.is_file()
    )


def cores():
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


class BuildExt(build_ext):
    """Compile the engine's objects with flags of their own, then the modules."""

    def get_source_files(self):
        # The sdist asks here what belongs to the sources; this replaces
        # a MANIFEST.in for what is neither Python package nor extension.
        extra = files("tests/**/*", "examples/**/*", "stochnet/**/*.md")
        return super().get_source_files() + [
            name for name in extra if not name.endswith(".pyc")
        ]

    def build_extensions(self):
        self.check_extensions_list(self.extensions)
        openmp, link_openmp = self.find_openmp()
        jobs = self.engine_jobs(openmp)
        workers = self.parallel if type(self.parallel) is int else cores()
        with ThreadPoolExecutor(workers) as pool:
            # The objects take longest, so they start first.  Cython is not
            # thread-safe: it runs here, once for all modules, in the meantime.
            objects = [pool.submit(self.compile_object, *job) for job in jobs]
            self.cythonize()
            modules = [
                pool.submit(self.build_extension, ext)
                for ext in self.extensions
                if ext.name != ENGINE
            ]
            objects = [job.result() for job in objects]
            for ext in self.extensions:
                if ext.name == ENGINE:
                    ext.extra_objects = objects
                    ext.extra_link_args = [*link_openmp, "-lm"]
                    self.drop_if_older(ext, objects)
                    self.build_extension(ext)
            for job in modules:
                job.result()

    def cythonize(self):
        # The C files go to the build directory: in the source tree they would
        # find their way into wheels.
        generated = cythonize(
            self.extensions,
            build_dir=self.build_temp,
            compiler_directives=DIRECTIVES,
            force=self.force,
            quiet=True,
        )
        # Only the sources, because the copies lack what setuptools noted down.
        for ext, copy in zip(self.extensions, generated, strict=True):
            ext.sources = copy.sources

    def drop_if_older(self, ext, objects):
        # setuptools compares a module with its sources, not with its objects.
        module = Path(self.get_ext_fullpath(ext.name))
        if module.exists():
            newest = max(os.stat(name).st_mtime for name in objects)
            if module.stat().st_mtime < newest:
                module.unlink()

    def engine_jobs(self, openmp):
        """List, for each of the engine's objects, its source, flags and key."""
        common = [*ENGINE_FLAGS, *openmp, "-Wall", "-Wextra"]
        if os.environ.get("STOCHNET_WERROR") == "1":
            common += ["-Wconversion", "-Wshadow", "-Werror"]
        if not openmp:
            common.append("-Wno-unknown-pragmas")

        special = {}
        for source, needed, liked, macro in ENGINE_SOURCES:
            special[source] = []
            if macro and self.compiles(AVX_PROGRAM, needed):
                common.append(f"-D{macro}=1")
                special[source] = needed + [
                    flag for flag in liked if self.compiles(AVX_PROGRAM, [flag])
                ]

        # Contents and not times: the objects outlive a checkout of another
        # branch, and a change of compiler or of flags must count as well.
        state = hashlib.sha256()
        state.update(repr(self.compiler.compiler_so).encode())
        state.update(self.run_compiler(["--version"]).stdout)
        for name in files("csrc/**/*.[ch]"):
            state.update(name.encode() + b"\0" + Path(name).read_bytes())

        jobs = []
        for source, flags in special.items():
            flags = common + flags
            key = state.copy()
            key.update(repr(flags).encode())
            jobs.append((source, flags, key.hexdigest()))
        return jobs

    def compile_object(self, source, flags, key):
        # Not in build_temp: that is a new one for each editable install, and
        # the engine's objects are most of the work.
        build = self.get_finalized_command("build").build_base
        directory = Path(build, f"engine.{self.plat_name}")
        stamp = directory / f"{Path(source).stem}.key"
        objects = self.compiler.object_filenames([source], output_dir=str(directory))
        fresh = stamp.exists() and stamp.read_text() == key
        if self.force or not fresh or not Path(objects[0]).exists():
            stamp.unlink(missing_ok=True)
            self.compiler.compile(
                [source],
                output_dir=str(directory),
                include_dirs=["csrc"],
                extra_postargs=flags,
            )
            stamp.write_text(key)
        return objects[0]

    def find_openmp(self):
        """Return the flags to compile and to link with, none for serial."""
        if os.environ.get("STOCHNET_OPENMP") == "0":
            reason = "STOCHNET_OPENMP=0"
        else:
            for compile_flags, link_flags in OPENMP_CANDIDATES:
                if self.runs(OPENMP_PROGRAM, compile_flags, link_flags):
                    return compile_flags, link_flags
            reason = "no OpenMP was found with this compiler"
        line = "*" * 72
        message = f"stochnet: {reason}: building the SERIAL version (one thread)."
        print(line, message, line, sep="\n", file=sys.stderr)
        return [], []

    def compiles(self, program, flags):
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory, "try.c")
            source.write_text(program)
            target = Path(directory, "try.o")
            args = ["-c", str(source), "-o", str(target), *flags]
            # Clang only warns of some flags that it ignores.
            return self.run_compiler([*args, "-Werror"]).returncode == 0

    def runs(self, program, compile_flags, link_flags):
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory, "try.c")
            source.write_text(program)
            target = Path(directory, "try")
            ldflags = shlex.split(os.environ.get("LDFLAGS", ""))
            args = [*compile_flags, str(source), "-o", str(target)]
            if self.run_compiler([*args, *ldflags, *link_flags]).returncode:
                return False
            try:
                done = subprocess.run(
                    [target], timeout=60, check=False, capture_output=True
                )
            except (OSError, subprocess.TimeoutExpired):
                return False
            return done.returncode == 0

    def run_compiler(self, args):
        return subprocess.run(
            [*self.compiler.compiler, *args], check=False, capture_output=True
        )


def extensions():
    declarations = files("stochnet/_kernels/*.pxd", "stochnet/_kernels/*.pxi")
    headers = files("csrc/**/*.h")
    engine = files("csrc/**/*.[ch]")
    for name in files("stochnet/_kernels/*.pyx"):
        module = name.removesuffix(".pyx").replace("/", ".")
        yield Extension(
            module,
            sources=[name],
            include_dirs=["csrc"],
            extra_compile_args=CYTHON_FLAGS,
            # They also bring the engine's C files into the sdist.
            depends=declarations + (engine if module == ENGINE else headers),
        )


# Guarded, because a process started by Cython may import this file again.
if __name__ == "__main__":
    setup(ext_modules=list(extensions()), cmdclass={"build_ext": BuildExt})
