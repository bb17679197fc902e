/* Products with inputs that are zero but for some blocks: outputs of a layer below
 * whose gates switch whole blocks of experts. Only weights of active blocks of inputs
 * are read or written, so that a layer whose own units are gated as well costs the
 * square of the density. The counterparts of product.c; a row's sums run over its active
 * blocks in ascending order, whatever the other rows.
 */
#include "stochnet.h"
#include "vector.h"

/* Which blocks of `width` inputs (a multiple of SN_PAD) each row has: entries first[r]
   to last[r] of its list. */
typedef struct {
    int64_t width, ld;
    const int32_t *list;          /* (rows, ld), ascending */
    const int32_t *first, *last;  /* (rows); first may be NULL for 0 */
} sn_blocks;

/* Start of each active block of row r as `d`, then each vector of it. */
#define FOR_VECTORS_OF(r)                                                              \
    for (int32_t e = in->first ? in->first[r] : 0; e < in->last[r]; e++)                          \
        for (int64_t d = in->list[(r)*in->ld + e] * in->width,                         \
                     d_end = d + in->width;                                            \
             d < d_end; d += SN_LANES)

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
    FOR_VECTORS_OF(r)
    {
        const sn_vec v = sn_load(x + d);
        SN_EACH_8(STEP)
    }
    store_units(o, 0, r, sn_sum_4(sum0, sum1, sum2, sum3));
    store_units(o, 4, r, sn_sum_4(sum4, sum5, sum6, sum7));
}

static void block_dot_1(const dot_output *o, const float *w, int64_t ld_w,
                        const float *x, const sn_blocks *in, int32_t r)
{
    SN_EACH_1(START)
    FOR_VECTORS_OF(r)
    {
        const sn_vec v = sn_load(x + d);
        SN_EACH_1(STEP)
    }
    store_dot(o, 0, r, sn_sum(sum0));
}
#undef START
#undef STEP

/* Up to BLOCK_ROWS rows together read each block of weights once and in order, while one
   row after the other would jump through them; worth it from a few rows on. */
enum { BLOCK_ROWS = 32, FEWEST_BLOCK_ROWS = 3, MOST_BLOCKS = 4096 };

/* Bit j of a block's mask says whether the j-th listed row has it.
   OUT masks (in->ld). n_rows at most BLOCK_ROWS. */
static void mask_blocks(uint32_t *masks, const sn_blocks *in, const int32_t *rows,
                        int64_t n_rows)
{
    memset(masks, 0, (size_t)in->ld * sizeof *masks);
    for (int64_t j = 0; j < n_rows; j++) {
        const int32_t *list = in->list + rows[j] * in->ld;
        for (int32_t e = in->first ? in->first[rows[j]] : 0; e < in->last[rows[j]]; e++)
            masks[list[e]] |= 1u << j;
    }
}

#define WEIGHT(i) const sn_vec weight##i = sn_load(w + i * ld_w + d);
#define ADD(i) sn_store(sum + i * SN_LANES, sn_load(sum + i * SN_LANES) + weight##i * v);
#define TAKE(i) const sn_vec sum##i = sn_load(sums[j] + i * SN_LANES);
static void block_dot_8_rows(const dot_output *o, const float *w, int64_t ld_w,
                             const float *x, int64_t ld_x, const sn_blocks *in,
                             const uint32_t *masks, const int32_t *rows, int64_t n_rows)
{
    float sums[BLOCK_ROWS][8 * SN_LANES];
    memset(sums, 0, (size_t)n_rows * sizeof *sums);
    for (int64_t block = 0; block < in->ld; block++) {
        const int64_t end = masks[block] ? (block + 1) * in->width : 0;
        for (int64_t d = block * in->width; d < end; d += SN_LANES) {
            SN_EACH_8(WEIGHT)
            for (uint32_t left = masks[block]; left != 0; left &= left - 1) {
                const int j = __builtin_ctz(left);
                const sn_vec v = sn_load(x + rows[j] * ld_x + d);
                float *sum = sums[j];
                SN_EACH_8(ADD)
            }
        }
    }
    for (int64_t j = 0; j < n_rows; j++) {
        SN_EACH_8(TAKE)
        store_units(o, 0, rows[j], sn_sum_4(sum0, sum1, sum2, sum3));
        store_units(o, 4, rows[j], sn_sum_4(sum4, sum5, sum6, sum7));
    }
}
#undef WEIGHT
#undef ADD
#undef TAKE

/* out[i, r] = bias[i] + w_i . x_r for the listed rows r; arguments as of
   dot_products. A row's bits are the same whichever rows it is computed with. */
static void block_dot_products(float *out, int64_t ld_unit, int64_t ld_row,
                               const float *w, int64_t ld_w, const float *bias,
                               int64_t n_units, const float *x, int64_t ld_x,
                               const sn_blocks *in, const int32_t *rows, int64_t n_rows)
{
    uint32_t masks[MOST_BLOCKS];
    for (int64_t first = 0; first < n_rows; first += BLOCK_ROWS) {
        const int32_t *some = rows + first;
        const int64_t count = n_rows - first < BLOCK_ROWS ? n_rows - first : BLOCK_ROWS;
        const int together = count >= FEWEST_BLOCK_ROWS && in->ld <= MOST_BLOCKS;
        int64_t i = 0;
        if (together)
            mask_blocks(masks, in, some, count);
        for (int64_t step; i < n_units; i += step) {
            const dot_output o = {out + i * ld_unit, ld_unit, ld_row, bias + i, 0};
            const float *wi = w + i * ld_w;
            step = n_units - i >= 8 ? 8 : 1;
            if (step == 8 && together) {
                block_dot_8_rows(&o, wi, ld_w, x, ld_x, in, masks, some, count);
                continue;
            }
            for (int64_t j = 0; j < count; j++)
                (step == 8 ? block_dot_8 : block_dot_1)(&o, wi, ld_w, x + some[j] * ld_x,
                                                        in, some[j]);
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
        FOR_VECTORS_OF(r)                                                              \
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
        FOR_VECTORS_OF(r)                                                              \
        {                                                                              \
            const sn_vec v = sn_load(xr + d);                                          \
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
