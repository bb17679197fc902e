"""The engine in use: chosen once, by the processor or by STOCHNET_SIMD."""
import os

cdef extern from *:
    """
    #define STOCHNET_CYTHON_VERSION CYTHON_HEX_VERSION
    """
    unsigned int STOCHNET_CYTHON_VERSION


def simd_available():
    """Instruction sets that this build offers on this machine, best first.

    Behind them all is what is emulated, in a build for tests.
    """
    names = ("avx512", "avx2", "baseline", "avx512_emulated")
    return tuple(name for name in names if sn_select(name.encode()) != NULL)


def _choose():
    name = os.environ.get("STOCHNET_SIMD") or simd_available()[0]
    if name not in simd_available():
        raise ImportError(
            f"STOCHNET_SIMD={name!r} is not available on this machine; "
            f"valid values are {', '.join(simd_available())}."
        )
    return name.encode()


engine = sn_select(_choose())


def simd():
    """The instruction set in use, one of `simd_available`."""
    return engine.name.decode()


def max_threads():
    """Threads that OpenMP would use; 1 in a build without OpenMP."""
    return sn_max_threads()


def serial_work():
    """Multiplications of the gaters from which a step takes all threads."""
    return engine.serial_work


def build_info():
    """Compiler, OpenMP version date (0 without OpenMP) and Cython of this build."""
    return {
        "compiler": sn_compiler().decode(),
        "openmp": sn_openmp_version(),
        "cython": "{}.{}.{}".format(
            STOCHNET_CYTHON_VERSION >> 24,
            STOCHNET_CYTHON_VERSION >> 16 & 0xFF,
            STOCHNET_CYTHON_VERSION >> 8 & 0xFF,
        ),
    }
