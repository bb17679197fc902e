/* Picks the engine for the machine that the program runs on. */
#include <stddef.h>
#include <string.h>

#include "../stochnet.h"

#ifdef _OPENMP
#include <omp.h>
#endif

extern const sn_engine sn_engine_baseline;
/* setup.py defines these where the compiler knows the instruction sets. */
#if defined(STOCHNET_AVX2)
extern const sn_engine sn_engine_avx2;

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2");
}
#endif

#if defined(STOCHNET_AVX512)
extern const sn_engine sn_engine_avx512;

static int has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
#endif

#if defined(STOCHNET_AVX512_EMULATED)
extern const sn_engine sn_engine_avx512_emulated;
#endif

static int asked_for(const char *name, const sn_engine *engine)
{
    return !name || strcmp(name, engine->name) == 0;
}

const sn_engine *sn_select(const char *name)
{
#if defined(STOCHNET_AVX512)
    if (asked_for(name, &sn_engine_avx512) && has_avx512())
        return &sn_engine_avx512;
#endif
#if defined(STOCHNET_AVX2)
    if (asked_for(name, &sn_engine_avx2) && has_avx2())
        return &sn_engine_avx2;
#endif
#if defined(STOCHNET_AVX512_EMULATED) /* slow: only where it is asked for */
    if (name && asked_for(name, &sn_engine_avx512_emulated) && has_avx2())
        return &sn_engine_avx512_emulated;
#endif
    return asked_for(name, &sn_engine_baseline) ? &sn_engine_baseline : NULL;
}

int sn_openmp_version(void)
{
#ifdef _OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}

int sn_max_threads(void)
{
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

const char *sn_compiler(void)
{
#if defined(__clang__)
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}
