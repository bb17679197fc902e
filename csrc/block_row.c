/* Products with inputs that are zero but for a few blocks, row by row, where block.c goes from
 * tile to tile: forward, and the inputs' gradient. Eight units' weights are read from memory
 * at once and stay in L2, and each row takes those of its blocks from there: nothing is sorted,
 * and nothing transposed for the two or three rows of a mini-batch that have both a block and
 * the units.
 */
#include "layout.h"
#include "stochnet.h"
#include "tile.h"
#include "vector.h"

/* A row's blocks that are at hand, ascending. */
typedef struct {
    const int32_t *block, *end;
} row_blocks;

/* Row r's blocks among [first, end). */
static row_blocks blocks_of_row(const sn_blocks *in, int32_t r, int64_t first, int64_t end)
{
    const int32_t *list = in->list + r * in->ld + first_entry(in, r);
    const int32_t n = in->last[r] - first_entry(in, r);
    return (row_blocks){list + (first > 0 ? first_from(list, n, (int32_t)first) : 0),
                        list + (end < in->ld ? first_from(list, n, (int32_t)end) : n)};
}

/* The blocks that any of some rows has lie in [first, end); together the rows have n. */
typedef struct {
    int64_t first, end, n;
} block_span;

static block_span span_of_rows(const sn_blocks *in, const int32_t *rows, int64_t n_rows)
{
    block_span span = {in->ld, 0, 0};
    for (int64_t j = 0; j < n_rows; j++) {
        const row_blocks own = blocks_of_row(in, rows[j], 0, in->ld);
        if (own.block == own.end)
            continue;
        span.first = smaller(span.first, own.block[0]);
        span.end = larger(span.end, own.end[-1] + 1);
        span.n += own.end - own.block;
    }
    return span;
}

/* Whether most blocks' weights are needed, many more than once. */
static int are_most_needed(const block_span *span)
{
    return 2 * span->n > span->end - span->first;
}

/* Weights of n units; those of `left` more are behind them. */
typedef struct {
    const float *w;
    int64_t n, left, ld, width; /* of a block */
    int are_near;               /* they have been read before */
} block_weights;

/* The next 8, 4 or 1 of n_units units from w on. */
static block_weights next_units(const float *w, int64_t ld, int64_t n_units, int64_t width,
                                int are_near)
{
    const int64_t n = n_units >= 8 ? 8 : n_units >= 4 ? 4 : 1;
    return (block_weights){w, n, n_units - n, ld, width, are_near};
}

/* Reads blocks [first, end) of the units, a line of one after the other: from memory that is
   faster than units one by one, and than asking for them, which processors drop where too much
   is under way. */
static void read_blocks(const block_weights *of, int64_t first, int64_t end)
{
    enum { LINE = 16 };
    for (int64_t d = first * of->width; d < end * of->width; d += LINE)
        for (int64_t i = 0; i < of->n; i++)
            (void)*(const volatile float *)(of->w + i * of->ld + d);
}

/* The next row's blocks: of its inputs, where weights are near, else of weights. */
typedef struct {
    const float *from;
    row_blocks row;
} coming_row;

/* The row behind rows[j]; behind the last comes the first, with the next units. */
static coming_row row_after(const block_weights *of, const float *x, int64_t ld_x,
                            const sn_blocks *in, const int32_t *rows, int64_t n_rows,
                            int64_t j, int64_t first, int64_t end)
{
    const int is_last = j + 1 == n_rows;
    const int32_t r = rows[is_last ? 0 : j + 1];
    coming_row coming = {x + r * ld_x, blocks_of_row(in, r, first, end)};
    if (is_last && of->left < of->n)
        coming.row.block = coming.row.end;
    else if (!of->are_near)
        coming.from = of->w + (is_last ? of->n * of->ld : 0);
    return coming;
}

/* Asks for what n units need soon. */
SN_INLINE void ask_ahead(const block_weights *of, int64_t n, const row_blocks *row,
                         coming_row *coming)
{
    enum { BLOCKS_AHEAD = 6 };
    const float *block;
    if (!of->are_near && row->end - row->block > BLOCKS_AHEAD)
        block = of->w + row->block[BLOCKS_AHEAD] * of->width;
    else if (coming->row.block < coming->row.end)
        block = coming->from + *coming->row.block++ * of->width;
    else
        return;
    if (of->are_near)
        sn_prefetch_L2(block, of->width);
    for (int64_t i = 0; !of->are_near && i < n; i++)
        sn_prefetch(block + i * of->ld, of->width);
}

/* N units and the blocks of one row, SN_PAD inputs at a time. */
#define UNIT(i) SN_WITH_PARTS(STEP, i)
#define FOR_INPUTS(N, BODY)                                                            \
    for (; row.block < row.end; row.block++) {                                         \
        ask_ahead(of, N, &row, &coming);                                               \
        const int64_t begin = *row.block * of->width, end = begin + of->width;         \
        for (int64_t d = begin; d < end; d += SN_PAD) {                                \
            const float *w = of->w + d;                                                \
            BODY                                                                       \
        }                                                                              \
    }

/* ---- Forward ----------------------------------------------------------------------- */

/* w_i . x of row r */
#define START(i) sn_vec sum##i = {0};
#define LOAD(p) const sn_vec x##p = sn_load(x + d + p * SN_LANES);
#define STEP(i, p) sum##i += sn_load(w + i * ld + p * SN_LANES) * x##p;
#define FOUR(i0, i1, i2, i3)                                                           \
    store_units(o, i0, r, sn_sum_4(sum##i0, sum##i1, sum##i2, sum##i3));
#define DEFINE_ROW(N, FINISH)                                                          \
    static void dot_##N##_with_row(const dot_output *o, int32_t r,                     \
                                   const block_weights *of, const float *x,            \
                                   row_blocks row, coming_row coming)                  \
    {                                                                                  \
        const int64_t ld = of->ld;                                                     \
        SN_EACH_##N(START)                                                             \
        FOR_INPUTS(N, SN_EACH_PART(LOAD) SN_EACH_##N(UNIT))                            \
        FINISH                                                                         \
    }
DEFINE_ROW(8, FOUR(0, 1, 2, 3) FOUR(4, 5, 6, 7))
DEFINE_ROW(4, FOUR(0, 1, 2, 3))
DEFINE_ROW(1, store_dot(o, 0, r, sn_sum(sum0));)
#undef START
#undef LOAD
#undef STEP
#undef FOUR
#undef DEFINE_ROW

/* The rows' products with the units' weights of blocks [first, end). */
static void dot_units_with_rows(const dot_output *o, const block_weights *of, int64_t first,
                                int64_t end, const float *x, int64_t ld_x,
                                const sn_blocks *in, const int32_t *rows, int64_t n_rows)
{
    for (int64_t j = 0; j < n_rows; j++) {
        const int32_t r = rows[j];
        (of->n == 8 ? dot_8_with_row : of->n == 4 ? dot_4_with_row : dot_1_with_row)(
            o, r, of, x + r * ld_x, blocks_of_row(in, r, first, end),
            row_after(of, x, ld_x, in, rows, n_rows, j, first, end));
    }
}

/* out[i, r] = bias[i] + w_i . x_r for the listed rows r; arguments as of dot_products. A
   row's bits are the same whichever rows it is computed with. */
static void block_dot_products_by_row(float *out, int64_t ld_unit, int64_t ld_row,
                                      const float *w, int64_t ld_w, const float *bias,
                                      int64_t n_units, const float *x, int64_t ld_x,
                                      const sn_blocks *in, const int32_t *rows,
                                      int64_t n_rows)
{
    enum { INPUTS = L2_FLOATS / 16 }; /* so many of eight units fill half of L2 */
    const int64_t together = larger(INPUTS / in->width, 1);
    const block_span span = span_of_rows(in, rows, n_rows);
    const int reads = are_most_needed(&span);
    for (int64_t i = 0, n; i < n_units && n_rows > 0; i += n) {
        const block_weights of =
            next_units(w + i * ld_w, ld_w, n_units - i, in->width, reads);
        n = of.n;
        for (int64_t k = 0; k < in->ld; k += together) {
            const int64_t end = smaller(k + together, in->ld);
            const dot_output o = {out + i * ld_unit, ld_unit, ld_row, bias + i, k > 0, NULL};
            if (reads)
                read_blocks(&of, k, end);
            dot_units_with_rows(&o, &of, k, end, x, ld_x, in, rows, n_rows);
        }
    }
}

/* ---- Gradient of the inputs ---------------------------------------------------------- */

/* dx += sum over units of c_i w_i */
#define START(i) const float c##i = c[i * ld_unit];
#define LOAD(p) sn_vec x##p = sn_load(dx + d + p * SN_LANES);
#define STEP(i, p) x##p += c##i * sn_load(w + i * ld + p * SN_LANES);
#define STORE(p) sn_store(dx + d + p * SN_LANES, x##p);
#define DEFINE_ROW(N)                                                                  \
    static void add_##N##_to_row(float *dx, const float *c, int64_t ld_unit,           \
                                 const block_weights *of, row_blocks row,              \
                                 coming_row coming)                                    \
    {                                                                                  \
        const int64_t ld = of->ld;                                                     \
        SN_EACH_##N(START)                                                             \
        FOR_INPUTS(N, SN_EACH_PART(LOAD) SN_EACH_##N(UNIT) SN_EACH_PART(STORE))        \
    }
DEFINE_ROW(8)
DEFINE_ROW(4)
DEFINE_ROW(1)
#undef START
#undef LOAD
#undef STEP
#undef STORE
#undef DEFINE_ROW
#undef UNIT
#undef FOR_INPUTS

/* dx_r += sum over units i of c[i, r] w_i on the listed rows' blocks; arguments as of
   block_input_sums. The units' weights of all blocks between these should fit into L2. */
static void block_input_sums_by_row(float *dx, int64_t ld_x, const float *c,
                                    int64_t ld_unit, int64_t ld_row, const float *w,
                                    int64_t ld_w, int64_t n_units, const sn_blocks *in,
                                    const int32_t *rows, int64_t n_rows)
{
    const block_span span = span_of_rows(in, rows, n_rows);
    const int reads = are_most_needed(&span);
    for (int64_t i = 0, n; i < n_units && span.n > 0; i += n) {
        const block_weights of =
            next_units(w + i * ld_w, ld_w, n_units - i, in->width, reads);
        n = of.n;
        if (reads)
            read_blocks(&of, span.first, span.end);
        for (int64_t j = 0; j < n_rows; j++) {
            const int32_t r = rows[j];
            (n == 8 ? add_8_to_row : n == 4 ? add_4_to_row : add_1_to_row)(
                dx + r * ld_x, c + i * ld_unit + r * ld_row, ld_unit, &of,
                blocks_of_row(in, r, 0, in->ld),
                row_after(&of, dx, ld_x, in, rows, n_rows, j, 0, in->ld));
        }
    }
}
