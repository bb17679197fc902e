/* Tiles of units and rows, or of units and columns, whose accumulators stay in registers.
 *
 * A kernel defines what it does for unit i and column j, START(i, j), STEP(i, j) and
 * FINISH(i, j), and UNIT(i, WITH), which repeats STEP. START_3(i) and so on are that for
 * unit i and all of three columns.
 */
#ifndef SN_TILE_H
#define SN_TILE_H

#include "vector.h"

/* A tile has as many accumulators as the registers hold beside its operands, and more
   units than rows: a unit's weights come from further away. */
#if SN_LANES == 16 || defined(__aarch64__)
#define TILE_UNITS 8
#else
#define TILE_UNITS 4
#endif

/* Floats that a second-level cache has room for: on processors with AVX-512 it has 1 MB or
   more, on most others half of that. */
enum { L2_FLOATS = SN_LANES == 16 ? 1 << 18 : 1 << 17 };

#define START_1(i) SN_WITH_1(START, i)
#define START_2(i) SN_WITH_2(START, i)
#define START_3(i) SN_WITH_3(START, i)
#define START_4(i) SN_WITH_4(START, i)
#define START_8(i) SN_WITH_8(START, i)
#define START_24(i) SN_WITH_24(START, i)
#define UNIT_1(i) UNIT(i, SN_WITH_1)
#define UNIT_2(i) UNIT(i, SN_WITH_2)
#define UNIT_3(i) UNIT(i, SN_WITH_3)
#define UNIT_4(i) UNIT(i, SN_WITH_4)
#define UNIT_8(i) UNIT(i, SN_WITH_8)
#define UNIT_24(i) UNIT(i, SN_WITH_24)
#define FINISH_1(i) SN_WITH_1(FINISH, i)
#define FINISH_2(i) SN_WITH_2(FINISH, i)
#define FINISH_3(i) SN_WITH_3(FINISH, i)
#define FINISH_4(i) SN_WITH_4(FINISH, i)
#define FINISH_8(i) SN_WITH_8(FINISH, i)
#define FINISH_24(i) SN_WITH_24(FINISH, i)

#endif
