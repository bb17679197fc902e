/* AVX2 with FMA; setup.py compiles this file for them. */
#if defined(STOCHNET_AVX2)
#define SN_ENGINE sn_engine_avx2
#define SN_ENGINE_NAME "avx2"
#include "engine.h"
#else
typedef int sn_no_avx2;
#endif
