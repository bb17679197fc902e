/* Products with inputs that are zero but for some blocks: outputs of a layer below
 * whose gates switch whole blocks of experts. Only weights of active blocks of inputs
 * are read or written, so that a layer whose own units are gated as well costs the
 * square of the density. The counterparts of product.c; a row's sums run over its active
 * blocks in ascending order, whatever the other rows.
 */
#include "stochnet.h"
#include "vector.h"

/* Which blocks of `width` inputs (a multiple of SN_PAD) each row has. A row x holds them one
   behind the other, so that it is short enough for the caches; weights and gradients have
   each block at its place. */
typedef struct {
    int64_t width, ld;
    const int32_t *list;  /* (rows, ld), ascending */
    const int32_t *last;  /* (rows): row r has entries 0 to last[r] of its list */
    const int32_t *first; /* (rows): but of block_input_sums only those from first[r] on */
} sn_blocks;

/* Each vector of entries [begin, end) of row r's list: at `d` among all inputs, `packed` in
   its x. */
#define FOR_VECTORS_OF(r, begin, end)                                                  \
    for (int32_t e = begin; e < (end); e++)                                            \
        for (int64_t d = in->list[(r)*in->ld + e] * in->width,                         \
                     packed = e * in->width, d_end = d + in->width;                    \
             d < d_end; d += SN_LANES, packed += SN_LANES)

/* Units are taken eight at a time and then singly. */
#define FOR_UNITS(n_units, EIGHT, ONE)                                                 \
    int64_t i = 0;                                                                     \
    for (; i + 8 <= (n_units); i += 8)                                                 \
        EIGHT;                                                                         \
    for (; i < (n_units); i++)                                                         \
        ONE

#define START(i) sn_vec sum##i = {0};
#define STEP(i) sum##i += sn_load(w + i * ld_w + d) * v;
static void block_dot_8(const dot_output *o, const float *w, int64_t ld_w,
                        const float *x, const sn_blocks *in, int32_t r)
{
    SN_EACH_8(START)
    FOR_VECTORS_OF(r, 0, in->last[r])
    {
        const sn_vec v = sn_load(x + packed);
        SN_EACH_8(STEP)
    }
    store_units(o, 0, r, sn_sum_4(sum0, sum1, sum2, sum3));
    store_units(o, 4, r, sn_sum_4(sum4, sum5, sum6, sum7));
}

static void block_dot_1(const dot_output *o, const float *w, int64_t ld_w,
                        const float *x, const sn_blocks *in, int32_t r)
{
    SN_EACH_1(START)
    FOR_VECTORS_OF(r, 0, in->last[r])
    {
        const sn_vec v = sn_load(x + packed);
        SN_EACH_1(STEP)
    }
    store_dot(o, 0, r, sn_sum(sum0));
}
#undef START
#undef STEP

/* Asks for part j of `parts` of n floats of eight rows of weights: those that come next, in
   the order of memory, while rows jump through the present ones. They need not exist. */
SN_INLINE void prefetch_part(const float *w, int64_t ld_w, int64_t n, int64_t j,
                             int64_t parts)
{
    enum { LINE = 16 };
    const int64_t lines = (n + LINE - 1) / LINE;
    for (int64_t i = 0; i < 8; i++)
        for (int64_t line = lines * j / parts; line < lines * (j + 1) / parts; line++) {
            const int64_t place = (i * ld_w + line * LINE) * (int64_t)sizeof *w;
            __builtin_prefetch((const void *)((uintptr_t)w + (uintptr_t)place), 0, 2);
        }
}

/* out[i, r] = bias[i] + w_i . x_r for the listed rows r; arguments as of dot_products. A
   row's bits are the same whichever rows it is computed with. */
static void block_dot_products(float *out, int64_t ld_unit, int64_t ld_row,
                               const float *w, int64_t ld_w, const float *bias,
                               int64_t n_units, const float *x, int64_t ld_x,
                               const sn_blocks *in, const int32_t *rows, int64_t n_rows)
{
    enum { FEWEST_TO_PREFETCH = 16 }; /* fewer rows need too few of the blocks */
    for (int64_t i = 0, step; i < n_units; i += step) {
        const dot_output o = {out + i * ld_unit, ld_unit, ld_row, bias + i, 0, NULL};
        const float *wi = w + i * ld_w;
        step = n_units - i >= 8 ? 8 : 1;
        for (int64_t j = 0; j < n_rows; j++) {
            if (step == 8 && n_rows >= FEWEST_TO_PREFETCH)
                prefetch_part(wi + 8 * ld_w, ld_w, ld_w, j, n_rows);
            (step == 8 ? block_dot_8 : block_dot_1)(&o, wi, ld_w, x + rows[j] * ld_x, in,
                                                    rows[j]);
        }
    }
}

/* dx_r += sum over units i of c[i, r] w_i on the active blocks of the listed rows.
   INOUT dx (*, ld_x). IN c, element (i, r) at i * ld_unit + r * ld_row. */
#define WEIGHT(i) const float weight##i = ci[i * ld_unit];
#define STEP(i) sum += weight##i * sn_load(wi + i * ld_w + d);
#define INPUT_SUM(EACH)                                                                \
    do {                                                                               \
        const float *ci = c + i * ld_unit + r * ld_row, *wi = w + i * ld_w;            \
        EACH(WEIGHT)                                                                   \
        FOR_VECTORS_OF(r, in->first[r], in->last[r])                                   \
        {                                                                              \
            sn_vec sum = sn_load(dxr + d);                                             \
            EACH(STEP)                                                                 \
            sn_store(dxr + d, sum);                                                    \
        }                                                                              \
    } while (0)
static void block_input_sums(float *dx, int64_t ld_x, const float *c, int64_t ld_unit,
                             int64_t ld_row, const float *w, int64_t ld_w,
                             int64_t n_units, const sn_blocks *in, const int32_t *rows,
                             int64_t n_rows)
{
    for (int64_t j = 0; j < n_rows; j++) {
        const int32_t r = rows[j];
        float *dxr = dx + r * ld_x;
        FOR_UNITS(n_units, INPUT_SUM(SN_EACH_8), INPUT_SUM(SN_EACH_1));
    }
}
#undef STEP
#undef INPUT_SUM

/* w_i += sum over the listed rows r of c[i, r] x_r, on their active blocks.
   INOUT w (n_units, ld_w). IN c as above, x (*, ld_x). */
#define STEP(i) sn_store(wi + i * ld_w + d, sn_load(wi + i * ld_w + d) + weight##i * v);
#define WEIGHT_SUM(EACH)                                                               \
    do {                                                                               \
        const float *ci = c + i * ld_unit + r * ld_row;                                \
        float *wi = w + i * ld_w;                                                      \
        EACH(WEIGHT)                                                                   \
        FOR_VECTORS_OF(r, 0, in->last[r])                                              \
        {                                                                              \
            const sn_vec v = sn_load(xr + packed);                                     \
            EACH(STEP)                                                                 \
        }                                                                              \
    } while (0)
static void block_weight_sums(float *w, int64_t ld_w, int64_t n_units, const float *c,
                              int64_t ld_unit, int64_t ld_row, const float *x,
                              int64_t ld_x, const sn_blocks *in, const int32_t *rows,
                              int64_t n_rows)
{
    for (int64_t j = 0; j < n_rows; j++) {
        const int32_t r = rows[j];
        const float *xr = x + r * ld_x;
        FOR_UNITS(n_units, WEIGHT_SUM(SN_EACH_8), WEIGHT_SUM(SN_EACH_1));
    }
}
#undef STEP
#undef WEIGHT
#undef WEIGHT_SUM
#undef FOR_UNITS
#undef FOR_VECTORS_OF
