/* Forward products with inputs that are zero but for a few blocks, row by row, where block.c
 * goes from tile to tile. Eight units' weights are read from memory at once and stay in L2,
 * and each row takes those of its blocks from there: nothing is sorted, and nothing transposed
 * for the two or three rows of a mini-batch that have both a block and the units.
 */
#include "layout.h"
#include "stochnet.h"
#include "tile.h"
#include "vector.h"

/* A row's inputs, and those of its blocks that are at hand, ascending. */
typedef struct {
    const float *x;
    const int32_t *block, *end;
} block_row;

/* Row r with its blocks among [first, end). */
static block_row row_with_blocks(const sn_blocks *in, const float *x, int64_t ld_x, int32_t r,
                                 int64_t first, int64_t end)
{
    const int32_t *list = in->list + r * in->ld, n = in->last[r];
    return (block_row){
        .x = x + r * ld_x,
        .block = list + (first > 0 ? first_from(list, n, (int32_t)first) : 0),
        .end = list + (end < in->ld ? first_from(list, n, (int32_t)end) : n)};
}

/* Weights of some units, and whether they have been read before. */
typedef struct {
    const float *w;
    int64_t ld, width; /* of a block */
    int are_near;
} block_weights;

/* Asks for what is needed soon: inputs of the next row, or, where weights are not near, those
   of a later block for the n units. */
SN_INLINE void ask_ahead(const block_weights *of, int64_t n, const block_row *row,
                         block_row *next)
{
    enum { BLOCKS_AHEAD = 6 };
    if (of->are_near) {
        if (next->block < next->end)
            sn_prefetch_L2(next->x + *next->block++ * of->width, of->width);
    } else if (row->end - row->block > BLOCKS_AHEAD) {
        const float *w = of->w + row->block[BLOCKS_AHEAD] * of->width;
        for (int64_t i = 0; i < n; i++)
            sn_prefetch(w + i * of->ld, of->width);
    }
}

/* w_i . x for N units and one row. */
#define START(i) sn_vec sum##i = {0};
#define LOAD(p) const sn_vec x##p = sn_load(row.x + d + p * SN_LANES);
#define STEP(i, p) sum##i += sn_load(w + i * ld + p * SN_LANES) * x##p;
#define UNIT(i) SN_WITH_PARTS(STEP, i)
#define DEFINE_ROW(N, FINISH)                                                          \
    static void row_of_##N(const dot_output *o, int32_t r, const block_weights *of,    \
                           block_row row, block_row next)                              \
    {                                                                                  \
        const int64_t ld = of->ld;                                                     \
        SN_EACH_##N(START)                                                             \
        for (; row.block < row.end; row.block++) {                                     \
            ask_ahead(of, N, &row, &next);                                             \
            const int64_t begin = *row.block * of->width, end = begin + of->width;     \
            for (int64_t d = begin; d < end; d += SN_PAD) {                            \
                const float *w = of->w + d;                                            \
                SN_EACH_PART(LOAD)                                                     \
                SN_EACH_##N(UNIT)                                                      \
            }                                                                          \
        }                                                                              \
        FINISH                                                                         \
    }
#define FOUR(i0, i1, i2, i3)                                                           \
    store_units(o, i0, r, sn_sum_4(sum##i0, sum##i1, sum##i2, sum##i3));
DEFINE_ROW(8, FOUR(0, 1, 2, 3) FOUR(4, 5, 6, 7))
DEFINE_ROW(4, FOUR(0, 1, 2, 3))
DEFINE_ROW(1, store_dot(o, 0, r, sn_sum(sum0));)
#undef START
#undef LOAD
#undef STEP
#undef UNIT
#undef FOUR
#undef DEFINE_ROW

/* Reads n floats of each unit, a line of one after the other: from memory that is faster than
   units one by one, and than asking for them, which is dropped where too much is under way. */
static void read_units(const float *w, int64_t ld, int64_t n_units, int64_t n)
{
    enum { LINE = 16 };
    for (int64_t d = 0; d < n; d += LINE)
        for (int64_t i = 0; i < n_units; i++)
            (void)*(const volatile float *)(w + i * ld + d);
}

/* Whether the rows have more than half as many blocks as there are: then most weights are
   needed, many of them more than once. */
static int need_most_blocks(const sn_blocks *in, const int32_t *rows, int64_t n_rows)
{
    int64_t n = 0;
    for (int64_t j = 0; j < n_rows; j++)
        n += in->last[rows[j]];
    return 2 * n > in->ld;
}

/* Blocks whose weights for eight units fill half of L2. */
static int64_t blocks_together(const sn_blocks *in)
{
    enum { INPUTS = L2_FLOATS / 16 };
    return larger(INPUTS / in->width, 1);
}

/* out[i, r] = bias[i] + w_i . x_r for the listed rows r; arguments as of dot_products. A
   row's bits are the same whichever rows it is computed with. */
static void block_dot_products_by_row(float *out, int64_t ld_unit, int64_t ld_row,
                                      const float *w, int64_t ld_w, const float *bias,
                                      int64_t n_units, const float *x, int64_t ld_x,
                                      const sn_blocks *in, const int32_t *rows,
                                      int64_t n_rows)
{
    const int reads = need_most_blocks(in, rows, n_rows);
    const int64_t together = blocks_together(in);
    for (int64_t i = 0, n; i < n_units && n_rows > 0; i += n) {
        n = n_units - i >= 8 ? 8 : n_units - i >= 4 ? 4 : 1;
        for (int64_t k = 0; k < in->ld; k += together) {
            const int64_t end = smaller(k + together, in->ld);
            const dot_output o = {out + i * ld_unit, ld_unit, ld_row, bias + i, k > 0, NULL};
            const block_weights of = {w + i * ld_w, ld_w, in->width, reads};
            if (reads)
                read_units(of.w + k * in->width, ld_w, n, (end - k) * in->width);
            block_row next = row_with_blocks(in, x, ld_x, rows[0], k, end);
            for (int64_t j = 0; j < n_rows; j++) {
                const block_row row = next;
                next = row_with_blocks(in, x, ld_x, rows[j + 1 < n_rows ? j + 1 : 0], k, end);
                (n == 8 ? row_of_8 : n == 4 ? row_of_4 : row_of_1)(&o, rows[j], &of, row, next);
            }
        }
    }
}
