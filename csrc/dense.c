/* Dense layers of the gater: dot products forward, weighted sums of rows backward.
 *
 * Why not BLAS: it picks its kernel by the shape of the whole call, so a row's result
 * would depend on its neighbours in the batch, and it brings threads of its own, limits
 * on which are the process's. Here an element's bits depend on its own operands only.
 */
#include "scalar.h"
#include "stochnet.h"
#include "vector.h"

/* A tile has as many accumulators as the registers hold beside its operands. */
#if SN_LANES == 16 || defined(__aarch64__)
#define TILE 5
#define EACH_IN_TILE SN_EACH_5
#define WITH_TILE SN_WITH_5
#else
#define TILE 3
#define EACH_IN_TILE SN_EACH_3
#define WITH_TILE SN_WITH_3
#endif

/* Dot products of units with rows: one vector accumulator each and then sn_sum, so that
   the bits do not depend on the tile. `w_i` and `x_j` step by ld_w and ld_x. */
#define START(i, j) sn_vec sum##i##j = {0};
#define LOAD(j) const sn_vec x##j = sn_load(x + j * ld_x + d);
#define STEP(i, j) sum##i##j += weight##i * x##j;
#define FINISH(i, j) out[i * ld_unit + j * ld_row] = sn_sum(sum##i##j);
#define UNIT(i, WITH)                                                                  \
    const sn_vec weight##i = sn_load(w + i * ld_w + d);                                \
    WITH(STEP, i)
#define DEFINE_DOT_TILE(NAME, EACH_UNIT, EACH_ROW, WITH)                               \
    static void NAME(float *out, int64_t ld_unit, int64_t ld_row, const float *w,      \
                     int64_t ld_w, const float *x, int64_t ld_x, int64_t n)            \
    {                                                                                  \
        (void)ld_unit, (void)ld_row, (void)ld_w, (void)ld_x;                           \
        EACH_UNIT(START##WITH)                                                         \
        for (int64_t d = 0; d < n; d += SN_LANES) {                                    \
            EACH_ROW(LOAD)                                                             \
            EACH_UNIT(UNIT##WITH)                                                      \
        }                                                                              \
        EACH_UNIT(FINISH##WITH)                                                        \
    }
#define START_TILE(i) WITH_TILE(START, i)
#define UNIT_TILE(i) UNIT(i, WITH_TILE)
#define FINISH_TILE(i) WITH_TILE(FINISH, i)
#define START_ONE(i) SN_WITH_1(START, i)
#define UNIT_ONE(i) UNIT(i, SN_WITH_1)
#define FINISH_ONE(i) SN_WITH_1(FINISH, i)
DEFINE_DOT_TILE(dot_tile, SN_EACH_4, EACH_IN_TILE, _TILE)
DEFINE_DOT_TILE(dot_column, SN_EACH_4, SN_EACH_1, _ONE)
DEFINE_DOT_TILE(dot_one, SN_EACH_1, SN_EACH_1, _ONE)
#undef START
#undef LOAD
#undef STEP
#undef FINISH
#undef UNIT

/* out[i * ld_unit + b * ld_row] = w_i . x_b.
   OUT out (n_units, n_rows) by the two strides. IN w (n_units, ld_w), x (n_rows, ld_x),
   n a multiple of SN_PAD. */
static void dense_forward(float *out, int64_t ld_unit, int64_t ld_row, const float *w,
                          int64_t ld_w, int64_t n_units, const float *x, int64_t ld_x,
                          int64_t n_rows, int64_t n)
{
    int64_t i = 0;
    for (; i + 4 <= n_units; i += 4) {
        float *o = out + i * ld_unit;
        const float *wi = w + i * ld_w;
        int64_t b = 0;
        for (; b + TILE <= n_rows; b += TILE)
            dot_tile(o + b * ld_row, ld_unit, ld_row, wi, ld_w, x + b * ld_x, ld_x, n);
        for (; b < n_rows; b++)
            dot_column(o + b * ld_row, ld_unit, ld_row, wi, ld_w, x + b * ld_x, ld_x, n);
    }
    for (; i < n_units; i++)
        for (int64_t b = 0; b < n_rows; b++)
            dot_one(out + i * ld_unit + b * ld_row, ld_unit, ld_row, w + i * ld_w, ld_w,
                    x + b * ld_x, ld_x, n);
}

/* Weighted sums of rows: out_i += sum over r of c[i, r] v_r, `v` one tile of columns
   wide. c[i, r] lies at c + i * ld_unit + r * ld_row. */
#define START(i, j) sn_vec sum##i##j = sn_load(out + i * ld_out + j * SN_LANES);
#define LOAD(j) const sn_vec v##j = sn_load(v + r * ld_v + j * SN_LANES);
#define STEP(i, j) sum##i##j += weight##i * v##j;
#define FINISH(i, j) sn_store(out + i * ld_out + j * SN_LANES, sum##i##j);
#define UNIT(i, WITH)                                                                  \
    const float weight##i = c[i * ld_unit + r * ld_row];                               \
    WITH(STEP, i)
#define DEFINE_SUM_TILE(NAME, EACH_UNIT, EACH_COLUMN, WITH)                            \
    static void NAME(float *out, int64_t ld_out, const float *c, int64_t ld_unit,      \
                     int64_t ld_row, const float *v, int64_t ld_v, int64_t n_rows)     \
    {                                                                                  \
        (void)ld_out, (void)ld_unit;                                                   \
        EACH_UNIT(START##WITH)                                                         \
        for (int64_t r = 0; r < n_rows; r++) {                                         \
            EACH_COLUMN(LOAD)                                                          \
            EACH_UNIT(UNIT##WITH)                                                      \
        }                                                                              \
        EACH_UNIT(FINISH##WITH)                                                        \
    }
DEFINE_SUM_TILE(sum_tile, SN_EACH_4, EACH_IN_TILE, _TILE)
DEFINE_SUM_TILE(sum_column, SN_EACH_4, SN_EACH_1, _ONE)
DEFINE_SUM_TILE(sum_row, SN_EACH_1, EACH_IN_TILE, _TILE)
DEFINE_SUM_TILE(sum_one, SN_EACH_1, SN_EACH_1, _ONE)
#undef START
#undef LOAD
#undef STEP
#undef FINISH
#undef UNIT

/* out_i += sum over r, ascending, of c[i, r] v_r for n floats of each row.
   INOUT out (n_units, ld_out). IN c (n_units, n_rows) by the strides ld_unit and ld_row,
   v (n_rows, ld_v), n a multiple of SN_PAD. */
static void dense_sum(float *out, int64_t ld_out, const float *c, int64_t ld_unit,
                      int64_t ld_row, int64_t n_units, const float *v, int64_t ld_v,
                      int64_t n_rows, int64_t n)
{
    enum { BLOCK = 96, WIDTH = TILE * SN_LANES }; /* a block of a tile fits in L1 */
    for (int64_t r = 0; r < n_rows; r += BLOCK) {
        const int64_t rows = r + BLOCK < n_rows ? BLOCK : n_rows - r;
        const float *cr = c + r * ld_row;
        for (int64_t d = 0; d < n;) {
            const int wide = d + WIDTH <= n;
            const float *vr = v + r * ld_v + d;
            int64_t i = 0;
            for (; i + 4 <= n_units; i += 4)
                (wide ? sum_tile : sum_column)(out + i * ld_out + d, ld_out,
                                               cr + i * ld_unit, ld_unit, ld_row, vr,
                                               ld_v, rows);
            for (; i < n_units; i++)
                (wide ? sum_row : sum_one)(out + i * ld_out + d, ld_out,
                                           cr + i * ld_unit, ld_unit, ld_row, vr, ld_v,
                                           rows);
            d += wide ? WIDTH : SN_LANES;
        }
    }
}

/* In place. n a multiple of SN_PAD. */
static void tanh_row(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = sn_tanh(x[i]);
}
