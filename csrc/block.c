/* Products with inputs that are zero but for some blocks: outputs of a layer below
 * whose gates switch whole blocks of experts. Only weights of active blocks of inputs
 * are read or written, so that a layer whose own units are gated as well costs the
 * square of the density. The counterparts of product.c and sums.c; a row's sums run over
 * its active blocks in ascending order, whatever the other rows.
 */
#include "layout.h"
#include "stochnet.h"
#include "transpose.h"
#include "vector.h"

/* A row of a call, and a block that it has. */
typedef struct {
    int32_t row, block;
} sn_block_hit;

/* Which blocks of `width` inputs (a multiple of SN_PAD) each row has; what a row x holds
   elsewhere is never read. */
typedef struct {
    int by_row; /* whether the functions of block_row.c are faster */
    int64_t width, ld;
    const int32_t *list;  /* (rows, ld), ascending */
    const int32_t *last;  /* (rows): row r has the entries up to last[r] of its list, */
    const int32_t *first; /* (rows): from first[r] on; NULL: from 0 */
    int64_t n_hits;       /* at least that of the longest list */
    sn_block_hit *hits;   /* (n_hits) scratch of the thread, */
    int32_t *end;         /* (ld + 1) and more of it */
} sn_blocks;

/* ---- Rows by block ---------------------------------------------------------------- */

/* Rows and units that are worked on together. */
enum { ROWS_AT_ONCE = 256, UNITS_AT_ONCE = 16 };

static int32_t first_entry(const sn_blocks *in, int32_t r)
{
    return in->first ? in->first[r] : 0;
}

/* How many of the first rows can be indexed together: at least one. */
static int64_t rows_that_fit(const sn_blocks *in, const int32_t *rows, int64_t n_rows)
{
    int64_t n = 0, room = in->n_hits;
    while (n < smaller(n_rows, ROWS_AT_ONCE)) {
        room -= in->last[rows[n]] - first_entry(in, rows[n]);
        if (room < 0)
            break;
        n++;
    }
    return n;
}

/* Sorts the rows' entries by block, so that a block's weights are read once for all rows
   that have it. OUT in->hits: from in->end[k] to in->end[k + 1] those of block k, in the
   order of the rows. */
static void index_blocks(const sn_blocks *in, const int32_t *rows, int64_t n_rows)
{
    int32_t *begin = in->end + 1, sum = 0;
    memset(in->end, 0, (size_t)(in->ld + 1) * sizeof *in->end);
    for (int64_t j = 0; j < n_rows; j++)
        for (int32_t e = first_entry(in, rows[j]); e < in->last[rows[j]]; e++)
            begin[in->list[rows[j] * in->ld + e]]++;
    for (int64_t k = 0; k < in->ld; k++) {
        const int32_t count = begin[k];
        begin[k] = sum;
        sum += count;
    }
    for (int32_t j = 0; j < (int32_t)n_rows; j++)
        for (int32_t e = first_entry(in, rows[j]); e < in->last[rows[j]]; e++) {
            const int32_t k = in->list[rows[j] * in->ld + e];
            in->hits[begin[k]++] = (sn_block_hit){j, k};
        }
}

/* ---- Tiles of UNITS_AT_ONCE units and as many inputs ------------------------------ */

/* Up to UNITS_AT_ONCE units, and what the three products do with a tile of them. */
typedef struct {
    const float *unit[UNITS_AT_ONCE]; /* rows of weights; behind the last the last again */
    int64_t n_units, ld_w, ld_x;
    float *w;       /* the same rows, where they are written */
    sn_vec zero;    /* zeros; no numbers once something not finite has been written */
    const float *x; /* inputs */
    float *dx;      /* their gradients */
    const sn_blocks *in;
    const int32_t *rows;
    const sn_block_hit *last_hit;
    float c[ROWS_AT_ONCE * UNITS_AT_ONCE]; /* (row, unit) outputs or their gradients */
} block_units;

/* What is done with inputs [d, d + SN_PAD) of each row that has their block. */
typedef void tile_function(block_units *, const sn_block_hit *, const sn_block_hit *end,
                           int64_t d);

/* Asks for the inputs of a later hit, perhaps of another block: rows are far apart, and
   which come the processor cannot foresee. */
SN_INLINE void prefetch_later(const block_units *of, const sn_block_hit *hit)
{
    enum { HITS = 16 };
    const sn_block_hit *later = of->last_hit - hit > HITS ? hit + HITS : of->last_hit;
    const int64_t row = of->rows[later->row] * of->ld_x;
    __builtin_prefetch(of->x + row + later->block * of->in->width);
}

/* Vectors of a row's outputs. */
#if SN_LANES == 16
#define SN_EACH_PART SN_EACH_1
#define SN_WITH_PARTS SN_WITH_1
#elif SN_LANES == 8
#define SN_EACH_PART SN_EACH_2
#define SN_WITH_PARTS SN_WITH_2
#else
#define SN_EACH_PART SN_EACH_4
#define SN_WITH_PARTS SN_WITH_4
#endif

/* OUT t: columns [d, d + SN_LANES) of as many rows, one each UNITS_AT_ONCE floats. */
#define LOAD(i) const sn_vec v##i = sn_load(unit[i] + d);
#define STORE(i) sn_store(t + i * UNITS_AT_ONCE, t##i);
SN_INLINE void transpose_square(float *t, const float *const *unit, int64_t d)
{
    SN_EACH_LANE(LOAD)
    SN_TRANSPOSE
    SN_EACH_LANE(STORE)
}
#undef LOAD
#undef STORE

/* c (rows, units) += x w', all units and inputs of a tile for one row after the other: most
   tiles have few, and squares would fetch each of them several times. */
#define START(u) sn_vec sum##u = sn_load(c + u * SN_LANES);
#define ADD(i, u) sum##u += x[i] * sn_load(t + i * UNITS_AT_ONCE + u * SN_LANES);
#define STEP(i) SN_WITH_PARTS(ADD, i)
#define FINISH(u) sn_store(c + u * SN_LANES, sum##u);
SN_INLINE void dot_tile(block_units *of, const sn_block_hit *hit, const sn_block_hit *end,
                        int64_t d)
{
    float t[SN_PAD * UNITS_AT_ONCE]; /* (inputs, units) */
    for (int64_t u = 0; u < UNITS_AT_ONCE; u += SN_LANES)
        for (int64_t i = 0; i < SN_PAD; i += SN_LANES)
            transpose_square(t + i * UNITS_AT_ONCE + u, of->unit + u, d + i);
    for (; hit < end; hit++) {
        prefetch_later(of, hit);
        const float *x = of->x + of->rows[hit->row] * of->ld_x + d;
        float *c = of->c + hit->row * UNITS_AT_ONCE;
        SN_EACH_PART(START)
        SN_EACH_16(STEP)
        SN_EACH_PART(FINISH)
    }
}
#undef START
#undef ADD
#undef STEP
#undef FINISH

/* The other two tiles are of squares, SN_LANES units and as many inputs, which stay in
   registers while the rows pass; c are a row's gradients. */
#define LOAD(i) sn_vec v##i = sn_load(of->unit[u + i] + d);
#define DEFINE_TILE(NAME, BODY, FINISH)                                                \
    static void NAME##_square(block_units *of, const sn_block_hit *hit,                \
                              const sn_block_hit *end, int64_t u, int64_t d)           \
    {                                                                                  \
        SN_EACH_LANE(LOAD)                                                             \
        for (; hit < end; hit++) {                                                     \
            const int64_t row = of->rows[hit->row] * of->ld_x;                         \
            const float *c = of->c + hit->row * UNITS_AT_ONCE + u;                     \
            BODY                                                                       \
        }                                                                              \
        FINISH                                                                         \
    }                                                                                  \
    SN_INLINE void NAME(block_units *of, const sn_block_hit *hit,                      \
                        const sn_block_hit *end, int64_t d)                            \
    {                                                                                  \
        for (int64_t u = 0; u < of->n_units; u += SN_LANES)                            \
            for (int64_t i = d; i < d + SN_PAD; i += SN_LANES)                         \
                NAME##_square(of, hit, end, u, i);                                     \
    }

/* w (units, inputs) += c' x */
#define STEP(i) v##i += c[i] * x;
#define STORE(i)                                                                       \
    zero += 0.0f * v##i;                                                               \
    if (u + i < of->n_units)                                                           \
        sn_store(of->w + (u + i) * of->ld_w + d, v##i);
#define WEIGHT                                                                         \
    prefetch_later(of, hit);                                                           \
    const sn_vec x = sn_load(of->x + row + d);                                         \
    SN_EACH_LANE(STEP)
#define FINISH                                                                         \
    sn_vec zero = {0};                                                                 \
    SN_EACH_LANE(STORE)                                                                \
    of->zero += zero;
DEFINE_TILE(weight_tile, WEIGHT, FINISH)
#undef STEP
#undef STORE
#undef FINISH
#undef WEIGHT

/* x (rows, all inputs) += c w */
#define STEP(i) sum += c[i] * v##i;
#define INPUT                                                                          \
    float *x = of->dx + row + d;                                                       \
    sn_vec sum = sn_load(x);                                                           \
    SN_EACH_LANE(STEP)                                                                 \
    sn_store(x, sum);
DEFINE_TILE(input_tile, INPUT, )
#undef STEP
#undef INPUT
#undef LOAD
#undef DEFINE_TILE

/* Asks for a block's weights, of the units at hand; behind the last block are those of the
   next units. They need not exist. */
SN_INLINE void prefetch_block(const block_units *of, int64_t k)
{
    const int64_t width = of->in->width;
    int64_t place = k * width;
    if (place >= of->ld_w)
        place += (UNITS_AT_ONCE - 1) * of->ld_w;
    for (int64_t i = 0; i < UNITS_AT_ONCE; i++) {
        const uintptr_t bytes = (uintptr_t)((i * of->ld_w + place) * 4);
        sn_prefetch_L2((const float *)((uintptr_t)of->unit[0] + bytes), width);
    }
}

/* Asks for weights that are needed soon. With many rows those are a block's some blocks
   ahead; few rows have too few of the blocks, so that a later hit says which. */
SN_INLINE void prefetch_weights(const block_units *of, int64_t k, const sn_block_hit *hit,
                                const sn_block_hit *end, int64_t n_rows)
{
    enum { FEW = 16, BLOCKS = 4, HITS = 3 };
    if (n_rows >= FEW)
        prefetch_block(of, k + BLOCKS);
    else if (hit < end && hit + HITS <= of->last_hit)
        prefetch_block(of, hit[HITS].block);
}

/* All tiles that rows [0, n_rows) need, each once. */
SN_INLINE void for_tiles(block_units *of, int64_t n_rows, tile_function *tile)
{
    const sn_blocks *in = of->in;
    of->last_hit = in->hits + in->end[in->ld] - 1;
    for (int64_t k = 0; k < in->ld; k++) {
        const sn_block_hit *hit = in->hits + in->end[k], *end = in->hits + in->end[k + 1];
        prefetch_weights(of, k, hit, end, n_rows);
        for (int64_t d = k * in->width; hit < end && d < (k + 1) * in->width; d += SN_PAD)
            tile(of, hit, end, d);
    }
}

/* ---- The three products ------------------------------------------------------------ */

/* Fewer units than that are taken one by one, row by row: most of a tile would be idle. */
enum { FEWEST_UNITS = 4 };

/* Each vector of row r's blocks. */
#define FOR_VECTORS_OF(r)                                                              \
    for (int32_t e = first_entry(in, r); e < in->last[r]; e++)                         \
        for (int64_t d = in->list[(r)*in->ld + e] * in->width, d_end = d + in->width;  \
             d < d_end; d += SN_LANES)

/* The first of n_units units from w on. */
static void start_units(block_units *of, const float *w, int64_t ld_w, int64_t n_units)
{
    of->n_units = smaller(n_units, UNITS_AT_ONCE);
    of->ld_w = ld_w;
    for (int64_t i = 0; i < UNITS_AT_ONCE; i++)
        of->unit[i] = w + smaller(i, of->n_units - 1) * ld_w;
}

/* of->c = c of the first n_rows rows; zero for units that are not. */
static void gather(block_units *of, const float *c, int64_t ld_unit, int64_t ld_row,
                   int64_t n_rows)
{
    memset(of->c, 0, (size_t)(n_rows * UNITS_AT_ONCE) * sizeof *of->c);
    for (int64_t i = 0; i < of->n_units; i++)
        for (int64_t j = 0; j < n_rows; j++)
            of->c[j * UNITS_AT_ONCE + i] = c[i * ld_unit + of->rows[j] * ld_row];
}

/* A call's first n rows, of which units i and behind; then its next, until all are done. */
#define FOR_ROWS_AND_UNITS(BODY)                                                       \
    for (int64_t n; n_rows > 0; rows += n, n_rows -= n) {                              \
        n = rows_that_fit(in, rows, n_rows);                                           \
        index_blocks(in, rows, n);                                                     \
        of.in = in;                                                                    \
        of.rows = rows;                                                                \
        of.ld_x = ld_x;                                                                \
        for (int64_t i = 0; i < n_units; i += UNITS_AT_ONCE) {                         \
            start_units(&of, w + i * ld_w, ld_w, n_units - i);                         \
            BODY                                                                       \
        }                                                                              \
    }

/* out[i, r] = bias[i] + w_i . x_r for the listed rows r; arguments as of dot_products. A
   row's bits are the same whichever rows it is computed with. */
static void block_dot_products(float *out, int64_t ld_unit, int64_t ld_row,
                               const float *w, int64_t ld_w, const float *bias,
                               int64_t n_units, const float *x, int64_t ld_x,
                               const sn_blocks *in, const int32_t *rows, int64_t n_rows)
{
    for (int64_t i = 0; n_units < FEWEST_UNITS && i < n_units; i++)
        for (int64_t j = 0; j < n_rows; j++) {
            sn_vec sum = {0};
            FOR_VECTORS_OF(rows[j])
            sum += sn_load(w + i * ld_w + d) * sn_load(x + rows[j] * ld_x + d);
            out[i * ld_unit + rows[j] * ld_row] = bias[i] + sn_sum(sum);
        }
    if (n_units < FEWEST_UNITS)
        return;
    block_units of;
    of.x = x;
    FOR_ROWS_AND_UNITS({
        memset(of.c, 0, (size_t)(n * UNITS_AT_ONCE) * sizeof *of.c);
        for_tiles(&of, n, dot_tile);
        for (int64_t u = 0; u < of.n_units; u++)
            for (int64_t j = 0; j < n; j++)
                out[(i + u) * ld_unit + of.rows[j] * ld_row] =
                    bias[i + u] + of.c[j * UNITS_AT_ONCE + u];
    })
}

/* w_i += sum over the listed rows r of c[i, r] x_r, on their active blocks.
   INOUT w (n_units, ld_w). IN c, element (i, r) at i * ld_unit + r * ld_row, x (*, ld_x).
   Returns whether all that it wrote is finite. */
static int block_weight_sums(float *w, int64_t ld_w, int64_t n_units, const float *c,
                             int64_t ld_unit, int64_t ld_row, const float *x,
                             int64_t ld_x, const sn_blocks *in, const int32_t *rows,
                             int64_t n_rows)
{
    block_units of;
    of.zero = (sn_vec){0};
    for (int64_t i = 0; n_units < FEWEST_UNITS && i < n_units; i++)
        for (int64_t j = 0; j < n_rows; j++) {
            const float cj = c[i * ld_unit + rows[j] * ld_row], *xj = x + rows[j] * ld_x;
            float *wi = w + i * ld_w;
            FOR_VECTORS_OF(rows[j])
            {
                const sn_vec sum = sn_load(wi + d) + cj * sn_load(xj + d);
                sn_store(wi + d, sum);
                of.zero += 0.0f * sum;
            }
        }
    if (n_units < FEWEST_UNITS)
        return sn_sum(of.zero) == 0.0f;
    of.x = x;
    FOR_ROWS_AND_UNITS({
        of.w = w + i * ld_w;
        gather(&of, c + i * ld_unit, ld_unit, ld_row, n);
        for_tiles(&of, n, weight_tile);
    })
    return sn_sum(of.zero) == 0.0f;
}

/* dx_r += sum over units i of c[i, r] w_i on the active blocks of the listed rows.
   INOUT dx (*, ld_x). IN c as above. */
static void block_input_sums(float *dx, int64_t ld_x, const float *c, int64_t ld_unit,
                             int64_t ld_row, const float *w, int64_t ld_w,
                             int64_t n_units, const sn_blocks *in, const int32_t *rows,
                             int64_t n_rows)
{
    for (int64_t i = 0; n_units < FEWEST_UNITS && i < n_units; i++)
        for (int64_t j = 0; j < n_rows; j++) {
            const float cj = c[i * ld_unit + rows[j] * ld_row];
            float *xj = dx + rows[j] * ld_x;
            FOR_VECTORS_OF(rows[j])
                sn_store(xj + d, sn_load(xj + d) + cj * sn_load(w + i * ld_w + d));
        }
    if (n_units < FEWEST_UNITS)
        return;
    block_units of;
    of.dx = dx;
    FOR_ROWS_AND_UNITS({
        gather(&of, c + i * ld_unit, ld_unit, ld_row, n);
        for_tiles(&of, n, input_tile);
    })
}
#undef FOR_ROWS_AND_UNITS
#undef FOR_VECTORS_OF
