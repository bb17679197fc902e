/* What every machine of the architecture has: SSE2 on x86-64, NEON on arm64. */
#define SN_ENGINE sn_engine_baseline
#define SN_ENGINE_NAME "baseline"
#include "engine.h"
