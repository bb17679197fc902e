/* AVX-512's code in instructions that AVX2 has, so that it can be tested where there is no
   AVX-512; setup.py compiles this file for tests alone. */
#if defined(STOCHNET_AVX512_EMULATED)
#include "avx512_emulated.h"
#define SN_ENGINE sn_engine_avx512_emulated
#define SN_ENGINE_NAME "avx512_emulated"
#include "engine.h"
#else
typedef int sn_no_avx512_emulated;
#endif
