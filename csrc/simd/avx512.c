/* AVX-512 (F, VL, BW, DQ); setup.py compiles this file for them. */
#if defined(STOCHNET_AVX512)
#define SN_ENGINE sn_engine_avx512
#define SN_ENGINE_NAME "avx512"
#include "engine.h"
#else
typedef int sn_no_avx512;
#endif
