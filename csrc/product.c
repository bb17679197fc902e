/* Dot products of listed rows, forward; the weighted sums of backward are in sums.c. All
 * linear algebra of the engine is these two kernels. Rows are gathered by index, so that a
 * dense layer is the case in which every row is listed.
 *
 * Why not BLAS: it picks its kernel by the shape of the whole call, so a row's result
 * would depend on its neighbours in the batch; it brings threads of its own, limits on
 * which are the process's; and it gathers nothing. Here an element's bits depend on its
 * own operands only, whatever tile computes it.
 *
 * Chunks of an input that are zeros in all rows of a tile are skipped (sn_rows has which
 * are not): adding zeros would change no bit.
 */
#include "layout.h"
#include "stochnet.h"
#include "tile.h"
#include "vector.h"

/* The same n floats of all rows. */
typedef struct {
    const float *x;
    int64_t ld, n;
    const uint64_t *filled; /* row r's chunks at r * ld_filled; NULL: all are */
    int64_t ld_filled;
} row_piece;

/* The piece from d on of rows of n floats. */
static row_piece piece_of(const sn_rows *x, int64_t d, int64_t n)
{
    const int64_t length = piece_length(n);
    return (row_piece){x->x + d, x->ld, smaller(length, n - d),
                       x->filled ? x->filled + d / length : NULL, x->ld_filled};
}

/* Chunks in which any of the rows is filled. */
static uint64_t filled_chunks(const row_piece *piece, const int32_t *rows, int64_t n_rows)
{
    uint64_t filled = 0;
    if (!piece->filled)
        return ~(uint64_t)0 >> (64 - piece->n / SN_PAD);
    for (int64_t j = 0; j < n_rows; j++)
        filled |= piece->filled[rows[j] * piece->ld_filled];
    return filled;
}

typedef struct {
    float *out;
    int64_t ld_unit, ld_row;
    const float *bias;       /* (units), or NULL for 0 */
    int add;                 /* to what is there, in place of the bias */
    const int32_t *last_row; /* of those that are written */
} dot_output;

SN_INLINE void store_dot(const dot_output *o, int64_t i, int32_t row, float sum)
{
    float *out = o->out + i * o->ld_unit + row * o->ld_row;
    const float base = o->add ? *out : o->bias ? o->bias[i] : 0.0f;
    *out = base + sum;
}

SN_INLINE void store_units(const dot_output *o, int64_t i, int32_t row, sn_four sums)
{
    float *out = o->out + i * o->ld_unit + row * o->ld_row;
    sn_four base = {0};
    if (!o->add && o->bias)
        memcpy(&base, o->bias + i, sizeof base);
    for (int u = 0; o->add && u < 4; u++)
        base[u] = out[u * o->ld_unit];
    base += sums;
    for (int u = 0; u < 4; u++)
        out[u * o->ld_unit] = base[u];
}

#if SN_LANES == 16
/* Sums of a tile of four units and three rows, of which lane 4 u + r has one. */
SN_INLINE void store_tile(const dot_output *o, int64_t i, const int32_t *rows, sn_vec sums)
{
    float *out = o->out + i * o->ld_unit + rows[0] * o->ld_row;
    const int four = rows + 3 <= o->last_row && rows[3] == rows[0] + 3;
    if (o->add || o->ld_row != 1 || !four) {
        const __m512 by_row = _mm512_permutexvar_ps(
            _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), sums);
        store_units(o, i, rows[0], _mm512_castps512_ps128(by_row));
        store_units(o, i, rows[1], _mm512_extractf32x4_ps(by_row, 1));
        store_units(o, i, rows[2], _mm512_extractf32x4_ps(by_row, 2));
        return;
    }
    if (o->bias) {
        const __m512 bias = _mm512_castps128_ps512(_mm_loadu_ps(o->bias + i));
        sums += _mm512_permutexvar_ps(
            _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3), bias);
    }
    /* The fourth row is the next tile's to write. Masked stores of three would be slower
       where the line is not in cache. */
    _mm_storeu_ps(out, _mm512_castps512_ps128(sums));
    _mm_storeu_ps(out + o->ld_unit, _mm512_extractf32x4_ps(sums, 1));
    _mm_storeu_ps(out + 2 * o->ld_unit, _mm512_extractf32x4_ps(sums, 2));
    _mm_storeu_ps(out + 3 * o->ld_unit, _mm512_extractf32x4_ps(sums, 3));
}
#endif

SN_INLINE void store_rows(const dot_output *o, const int32_t *rows, sn_four sums)
{
    for (int r = 0; r < 4; r++)
        store_dot(o, 0, rows[r], sums[r]);
}

/* OUT d, end: floats [d, end) are the first run of filled chunks. Returns the others. */
SN_INLINE uint64_t next_run(int64_t *d, int64_t *end, uint64_t filled)
{
    const uint64_t past = filled + (filled & -filled); /* carried through the run */
    *d = SN_PAD * __builtin_ctzll(filled);
    *end = SN_PAD * (past != 0 ? __builtin_ctzll(past) : 64);
    return filled & past;
}

#define START(i, j) sn_vec sum##i##j = {0};
#define LOAD(j) const sn_vec x##j = sn_load(row##j + d);
#define ROW(j) const float *row##j = piece->x + rows[j] * piece->ld;
#define STEP(i, j) sum##i##j += weight##i * x##j;
#define UNIT(i, WITH)                                                                  \
    sn_vec weight##i = sn_load(w + i * ld_w + d);                                      \
    SN_IN_REGISTER(weight##i);                                                         \
    WITH(STEP, i)
/* Not inline: beside other tiles one would lose a register, and keep a sum in memory. */
#define DEFINE_DOT_TILE(NAME, EACH_UNIT, EACH_ROW, WITH, FINISH)                       \
    static __attribute__((noinline)) void NAME(                                        \
        const dot_output *o, const float *w, int64_t ld_w, const row_piece *piece,     \
        const int32_t *rows, uint64_t filled)                                          \
    {                                                                                  \
        (void)ld_w;                                                                    \
        EACH_ROW(ROW)                                                                  \
        EACH_UNIT(START##WITH)                                                         \
        for (int64_t d, end; filled != 0;) {                                           \
            filled = next_run(&d, &end, filled);                                       \
            for (; d < end; d += SN_LANES) {                                           \
                EACH_ROW(LOAD)                                                         \
                EACH_UNIT(UNIT##WITH)                                                  \
            }                                                                          \
        }                                                                              \
        FINISH                                                                         \
    }
#define FOUR_UNITS(i0, i1, i2, i3, j)                                                  \
    store_units(o, i0, rows[j],                                                        \
                sn_sum_4(sum##i0##j, sum##i1##j, sum##i2##j, sum##i3##j));
#define FOUR_ROWS(j0, j1, j2, j3)                                                      \
    store_rows(o, rows + j0, sn_sum_4(sum0##j0, sum0##j1, sum0##j2, sum0##j3));
#if SN_LANES == 16
#define THREE(i) {sum##i##0, sum##i##1, sum##i##2}
#define FOUR_BY_3(i0, i1, i2, i3)                                                      \
    {                                                                                  \
        const sn_vec v[4][3] = {THREE(i0), THREE(i1), THREE(i2), THREE(i3)};           \
        store_tile(o, i0, rows, sn_sum_4_by_3(v));                                     \
    }
#else
#define FOUR_BY_3(i0, i1, i2, i3)                                                      \
    FOUR_UNITS(i0, i1, i2, i3, 0)                                                      \
    FOUR_UNITS(i0, i1, i2, i3, 1)                                                      \
    FOUR_UNITS(i0, i1, i2, i3, 2)
#endif
#if TILE_UNITS == 8
DEFINE_DOT_TILE(dot_8_by_3, SN_EACH_8, SN_EACH_3, _3,
                FOUR_BY_3(0, 1, 2, 3) FOUR_BY_3(4, 5, 6, 7))
DEFINE_DOT_TILE(dot_8_by_2, SN_EACH_8, SN_EACH_2, _2,
                FOUR_UNITS(0, 1, 2, 3, 0) FOUR_UNITS(0, 1, 2, 3, 1)
                FOUR_UNITS(4, 5, 6, 7, 0) FOUR_UNITS(4, 5, 6, 7, 1))
DEFINE_DOT_TILE(dot_8_by_1, SN_EACH_8, SN_EACH_1, _1,
                FOUR_UNITS(0, 1, 2, 3, 0) FOUR_UNITS(4, 5, 6, 7, 0))
#endif
DEFINE_DOT_TILE(dot_4_by_3, SN_EACH_4, SN_EACH_3, _3, FOUR_BY_3(0, 1, 2, 3))
DEFINE_DOT_TILE(dot_4_by_2, SN_EACH_4, SN_EACH_2, _2,
                FOUR_UNITS(0, 1, 2, 3, 0) FOUR_UNITS(0, 1, 2, 3, 1))
DEFINE_DOT_TILE(dot_4_by_1, SN_EACH_4, SN_EACH_1, _1, FOUR_UNITS(0, 1, 2, 3, 0))
#undef START
#undef LOAD
#undef STEP
#undef UNIT

/* Gathered rows come from the second-level cache, which is faster where a row's
   neighbouring lines are asked for one after the other: a stride of vectors of each. */
enum { STRIDE = 4 * SN_LANES };

#define START(i) sn_vec sum0##i = {0};
#define WEIGHT(j) const sn_vec weight##j = sn_load(w + d + j * SN_LANES);
#define STEP(i, j) sum0##i += weight##j * sn_load(row##i + d + j * SN_LANES);
#define STEP_1(i) SN_WITH_1(STEP, i)
#define STEP_4(i) SN_WITH_4(STEP, i)
/* A tile asks for what it takes of its own weights of others as well, where these are given. */
#define DEFINE_UNIT_TILE(N_ROWS, FINISH)                                               \
    static void dot_1_by_##N_ROWS##_rows(const dot_output *o, const float *w,          \
                                         const float *asked, const row_piece *piece,   \
                                         const int32_t *rows)                          \
    {                                                                                  \
        uint64_t filled = filled_chunks(piece, rows, N_ROWS);                          \
        SN_EACH_##N_ROWS(ROW)                                                          \
        SN_EACH_##N_ROWS(START)                                                        \
        for (int64_t d, end; filled != 0;) {                                           \
            filled = next_run(&d, &end, filled);                                       \
            for (; d + STRIDE <= end; d += STRIDE) {                                   \
                if (asked)                                                             \
                    sn_prefetch_L2(asked + d, STRIDE);                                 \
                SN_EACH_4(WEIGHT)                                                      \
                SN_EACH_##N_ROWS(STEP_4)                                               \
            }                                                                          \
            for (; d < end; d += SN_LANES) {                                           \
                SN_EACH_1(WEIGHT)                                                      \
                SN_EACH_##N_ROWS(STEP_1)                                               \
            }                                                                          \
        }                                                                              \
        FINISH                                                                         \
    }
/* The last n rows, from j0 on; of fewer than three the last is named again. */
#define LAST_ROWS(n, j0, j1, j2)                                                       \
    {                                                                                  \
        const sn_four sums = sn_sum_4(sum0##j0, sum0##j1, sum0##j2, sum0##j2);         \
        for (int r = 0; r < n; r++)                                                    \
            store_dot(o, 0, rows[j0 + r], sums[r]);                                    \
    }
DEFINE_UNIT_TILE(1, LAST_ROWS(1, 0, 0, 0))
DEFINE_UNIT_TILE(2, LAST_ROWS(2, 0, 1, 1))
DEFINE_UNIT_TILE(3, LAST_ROWS(3, 0, 1, 2))
DEFINE_UNIT_TILE(4, FOUR_ROWS(0, 1, 2, 3))
DEFINE_UNIT_TILE(5, FOUR_ROWS(0, 1, 2, 3) LAST_ROWS(1, 4, 4, 4))
DEFINE_UNIT_TILE(6, FOUR_ROWS(0, 1, 2, 3) LAST_ROWS(2, 4, 5, 5))
DEFINE_UNIT_TILE(7, FOUR_ROWS(0, 1, 2, 3) LAST_ROWS(3, 4, 5, 6))
DEFINE_UNIT_TILE(8, FOUR_ROWS(0, 1, 2, 3) FOUR_ROWS(4, 5, 6, 7))
#undef ROW
#undef START
#undef WEIGHT
#undef STEP
#undef LAST_ROWS
#undef DEFINE_UNIT_TILE

/* One unit with so many rows, 1 to 8. */
static void dot_1_by(int64_t n_rows, const dot_output *o, const float *w, const float *asked,
                     const row_piece *piece, const int32_t *rows)
{
    typedef void unit_kernel(const dot_output *, const float *, const float *,
                             const row_piece *, const int32_t *);
    static unit_kernel *const kernels[] = {
        dot_1_by_1_rows, dot_1_by_2_rows, dot_1_by_3_rows, dot_1_by_4_rows,
        dot_1_by_5_rows, dot_1_by_6_rows, dot_1_by_7_rows, dot_1_by_8_rows};
    kernels[n_rows - 1](o, w, asked, piece, rows);
}

typedef void dot_kernel(const dot_output *, const float *, int64_t, const row_piece *,
                        const int32_t *, uint64_t);

/* One tile of units with all listed rows: three at a time, and what is left. The next
   tile's weights are asked for meanwhile. */
static void dot_rows(dot_kernel *three, dot_kernel *two, dot_kernel *one,
                     const dot_output *o, const float *w, int64_t ld_w,
                     const row_piece *piece, const int32_t *rows, int64_t n_rows,
                     const next_weights *next)
{
    const int64_t share = share_of(next, part_count(n_rows, 3));
    int64_t j = 0, asked = 0;
    for (; j + 3 <= n_rows; j += 3) {
        asked = ask_for_share(next, asked, share);
        three(o, w, ld_w, piece, rows + j, filled_chunks(piece, rows + j, 3));
    }
    ask_for_share(next, asked, next->n);
    if (j + 2 == n_rows)
        two(o, w, ld_w, piece, rows + j, filled_chunks(piece, rows + j, 2));
    else if (j < n_rows)
        one(o, w, ld_w, piece, rows + j, filled_chunks(piece, rows + j, 1));
}

/* The same for a single unit. */
static void dot_rows_of_unit(const dot_output *o, const float *w, const row_piece *piece,
                             const int32_t *rows, int64_t n_rows)
{
    for (int64_t j = 0; j < n_rows; j += 8)
        dot_1_by(smaller(n_rows - j, 8), o, w, NULL, piece, rows + j);
}

/* Whether a tile asks for the weights of the next, where `left` units are not done with. Tiles
   of eight do so for units of this call. Those of four, which are of processors with fewer
   buffers, where rows are enough to hide it. */
SN_INLINE int asks_for_next_units(int64_t left, int64_t n_rows, int64_t n)
{
    enum { ENOUGH = 13, LONG = 512 };
    return TILE_UNITS == 8 ? left >= 2 * TILE_UNITS : n_rows >= ENOUGH && n >= LONG;
}

/* All tiles of a piece of the listed rows. IN behind: weights that are read after these. */
static void dot_tiles(const dot_output *out, const float *w, int64_t ld_w, int64_t n_units,
                      const row_piece *piece, const int32_t *rows, int64_t n_rows,
                      const float *behind)
{
    for (int64_t i = 0, step; i < n_units; i += step) {
        const int64_t left = n_units - i;
        const dot_output o = {out->out + i * out->ld_unit, out->ld_unit, out->ld_row,
                              out->bias ? out->bias + i : NULL, out->add,
                              rows + n_rows - 1};
        const float *wi = w + i * ld_w;
        const next_weights next = {
            .weight = left > TILE_UNITS ? wi + TILE_UNITS * ld_w : behind,
            .ld = ld_w,
            .n = piece->n,
            .how = {.into_L2 = SN_LANES == 16},
            .n_units = asks_for_next_units(left, n_rows, piece->n) ? TILE_UNITS : 0};
#if TILE_UNITS == 8
        if (left >= 8) {
            dot_rows(dot_8_by_3, dot_8_by_2, dot_8_by_1, &o, wi, ld_w, piece, rows, n_rows,
                     &next);
            step = 8;
            continue;
        }
#endif
        if (left >= 4)
            dot_rows(dot_4_by_3, dot_4_by_2, dot_4_by_1, &o, wi, ld_w, piece, rows, n_rows,
                     &next);
        else
            dot_rows_of_unit(&o, wi, piece, rows, n_rows);
        step = left >= 4 ? 4 : 1;
    }
}

/* Rows of n floats that are worked on together. Those of short rows stay in L1 while all
   units pass; of long ones so few would that the units' weights passed too often. */
static int64_t rows_together(int64_t n, int64_t n_rows)
{
    enum { FLOATS = 6144, LEAST = 48 };
    const int64_t rows = FLOATS / n / 24 * 24; /* whole tiles of 3 and of 8 */
    return rows < LEAST ? n_rows : rows;
}

/* out[i, rows[j]] = bias[i] + w_i . x_rows[j]; no other element of out is written.
   OUT out, element (i, r) at i * ld_unit + r * ld_row.
   IN w (n_units, ld_w), bias (n_units) or NULL for 0, x, rows (n_rows), n a multiple of
   SN_PAD. Nothing of w is read where n_rows is 0. */
static void dot_products(float *out, int64_t ld_unit, int64_t ld_row, const float *w,
                         int64_t ld_w, const float *bias, int64_t n_units,
                         const sn_rows *x, const int32_t *rows, int64_t n_rows, int64_t n)
{
    const int64_t length = piece_length(n);
    for (int64_t d = 0; d < n; d += length) {
        const row_piece piece = piece_of(x, d, n);
        const int64_t step = rows_together(piece.n, n_rows);
        const dot_output o = {out, ld_unit, ld_row, bias, d > 0, NULL};
        /* the next piece, or what the next call is probably for: successive gates; past the
           last there may be nothing, which a request may ask for */
        const float *behind = d + length < n ? w + d + length : w + n_units * ld_w;
        for (int64_t r = 0; r < n_rows; r += step)
            dot_tiles(&o, w + d, ld_w, n_units, &piece, rows + r,
                      smaller(step, n_rows - r), behind);
    }
}

/* ---- Pairs of one unit with one row ------------------------------------------------ */

/* One or two rows of a unit leave a tile waiting for its own sums. What is left over from
   several units is computed eight pairs at a time instead. */
typedef struct {
    int add;         /* to what is there, in place of the bias */
    int count;
    uint64_t filled; /* chunks of any of their rows */
    const float *w[8], *x[8];
    float bias[8], *out[8];
} dot_pairs;

#define START(i) sn_vec sum##i = {0};
#define POINT(i) const float *w##i = pairs->w[i], *x##i = pairs->x[i];
#define STEP(i, j)                                                                     \
    sum##i += sn_load(w##i + d + j * SN_LANES) * sn_load(x##i + d + j * SN_LANES);
static void finish_pairs(dot_pairs *pairs)
{
    const int count = pairs->count;
    uint64_t filled = pairs->filled;
    if (count == 0)
        return;
    for (int i = count; i < 8; i++) { /* computed and dropped: too rare to matter */
        pairs->w[i] = pairs->w[0];
        pairs->x[i] = pairs->x[0];
    }
    SN_EACH_8(START)
    SN_EACH_8(POINT)
    for (int64_t d, end; filled != 0;) {
        filled = next_run(&d, &end, filled);
        for (; d + STRIDE <= end; d += STRIDE) {
            SN_EACH_8(STEP_4)
        }
        for (; d < end; d += SN_LANES) {
            SN_EACH_8(STEP_1)
        }
    }
    const sn_four sums[2] = {sn_sum_4(sum0, sum1, sum2, sum3),
                             sn_sum_4(sum4, sum5, sum6, sum7)};
    for (int i = 0; i < count; i++)
        *pairs->out[i] = (pairs->add ? *pairs->out[i] : pairs->bias[i]) + sums[i / 4][i % 4];
    pairs->count = 0;
    pairs->filled = 0;
}
#undef START
#undef POINT
#undef STEP

/* out[rows[j]] = bias + w . x_rows[j] for one unit; what does not fill a tile waits in
   `pairs`, of which the caller finishes the last. Same bits as dot_products. The weights of
   `next` are asked for meanwhile. */
static void dot_products_of_unit(float *out, const float *w, float bias,
                                 const row_piece *piece, const int32_t *rows,
                                 int64_t n_rows, dot_pairs *pairs,
                                 const next_weights *next)
{
    /* as measured with AVX-512 on Intel's processors, and with AVX2 */
    enum {
        FEWEST = SN_LANES == 16 ? 1 : SN_LANES == 8 ? 3 : 5,
        MOST = SN_LANES == 16 ? 8 : 4
    };
    const dot_output o = {out, 0, 1, &bias, pairs->add, NULL};
    const float *in_turns = asked_in_turns(next);
    const int64_t share = in_turns ? 0 : share_of(next, larger(n_rows / 8, 1));
    int64_t j = 0, asked = 0;
    for (; j + 8 <= n_rows; j += 8) {
        asked = ask_for_share(next, asked, share);
        dot_1_by_8_rows(&o, w, j == 0 ? in_turns : NULL, piece, rows + j);
    }
    if (!in_turns)
        ask_for_share(next, asked, next->n);
    for (int64_t few; (few = smaller(n_rows - j, MOST)) >= FEWEST; j += few)
        dot_1_by(few, &o, w, j == 0 ? in_turns : NULL, piece, rows + j);
    for (; j < n_rows; j++) {
        const int i = pairs->count++;
        pairs->w[i] = w;
        pairs->x[i] = piece->x + rows[j] * piece->ld;
        pairs->bias[i] = bias;
        pairs->out[i] = out + rows[j];
        pairs->filled |= filled_chunks(piece, rows + j, 1);
        if (pairs->count == 8)
            finish_pairs(pairs);
    }
}

/* ---- Experts --------------------------------------------------------------------- */

/* Units that go through a large mini-batch part by part. */
enum { UNITS_TOGETHER = 64 };

/* Rows of such a part, of which n floats stay in L2 while the units pass; all, where they do
   so anyway, or where a unit has too few for its weights to pass again for each part. */
static int64_t rows_of_part(const int32_t *count, int64_t first, int64_t end,
                            int64_t n_rows, int64_t n)
{
    enum { FLOATS = 1 << 18, LEAST = 256, LISTED = 8 };
    const int64_t rows = FLOATS / n > LEAST ? FLOATS / n : LEAST;
    if (rows >= n_rows)
        return n_rows;
    const int64_t listed = listed_rows(count, first, end);
    return listed * rows < LISTED * (end - first) * n_rows ? n_rows : rows;
}

/* The next of a unit's ascending rows, those below `end`. IN rows, all n of them. OUT rows,
   the first of these. INOUT done, how many came before. Returns how many they are. */
static int32_t rows_of_unit_below(const int32_t **rows, int32_t n, int64_t end,
                                  int32_t *done)
{
    const int32_t start = *done;
    int32_t j = start;
    while (j < n && (*rows)[j] < end)
        j++;
    *rows += start;
    *done = j;
    return j - start;
}

/* A piece of the rows of single experts [first, end), `part` rows of the mini-batch at a time;
   at most UNITS_TOGETHER experts where that is not all. */
static void experts_on_piece(float *H, int64_t ld_rows, const sn_parameters *expert,
                             const row_piece *piece, int64_t d, const int32_t *rows,
                             const int32_t *count, int64_t first, int64_t end, int64_t part)
{
    const int64_t ld = expert->ld;
    /* with few rows asking for weights costs more than it saves, but where it is done ahead or
       in turns */
    const asking how = asking_for(expert);
    const int asks = how.in_turns || how.units_ahead > 1 ||
                     listed_rows(count, first, end) > end - first;
    const int64_t end_asked = asks ? end : first;
    dot_pairs pairs = {.add = d > 0};
    int32_t done[UNITS_TOGETHER] = {0};
    for (int64_t until = part; until < ld_rows + part; until += part) {
        coming_weights coming = coming_from(expert, d, piece->n, count, first, end_asked);
        for (int64_t k = next_listed(count, first, end); k < end;
             k = next_listed(count, k + 1, end)) {
            const next_weights next = next_of(&coming);
            const int32_t *own = rows + k * ld_rows;
            int32_t n = count[k];
            if (part < ld_rows)
                n = rows_of_unit_below(&own, n, until, &done[k - first]);
            dot_products_of_unit(H + k * ld_rows, expert->weight + k * ld + d,
                                 expert->bias ? expert->bias[k] : 0.0f, piece, own, n,
                                 &pairs, &next);
        }
    }
    finish_pairs(&pairs);
}

/* Single experts, piece by piece of their rows: those of x stay in cache meanwhile. */
static void experts_by_piece(float *H, int64_t ld_rows, const sn_parameters *expert,
                             const sn_rows *x, const int32_t *rows, const int32_t *count,
                             int64_t first, int64_t end)
{
    const int64_t length = piece_length(expert->ld);
    const int64_t part = rows_of_part(count, first, end, ld_rows, length);
    const int64_t units = part < ld_rows ? UNITS_TOGETHER : end - first;
    for (int64_t k = first; k < end; k += units)
        for (int64_t d = 0; d < expert->ld; d += length) {
            const row_piece piece = piece_of(x, d, expert->ld);
            experts_on_piece(H, ld_rows, expert, &piece, d, rows, count, k,
                             smaller(k + units, end), part);
        }
}

/* Outputs of the experts of gates [first, end) on the gates' active rows; nothing else
   of H is written, and no weight is read of a gate without active rows.
   OUT H (E, ld_rows). IN experts (E, ld_x), of which gate k has experts_per_gate from
   k * experts_per_gate on; x (*, ld_x), rows (K, ld_rows), count (K). */
static void expert_forward(float *H, int64_t ld_rows, const sn_parameters *expert,
                           int64_t experts_per_gate, const sn_rows *x,
                           const int32_t *rows, const int32_t *count, int64_t first,
                           int64_t end)
{
    const int64_t ld = expert->ld, G = experts_per_gate;
    if (G == 1) {
        experts_by_piece(H, ld_rows, expert, x, rows, count, first, end);
        return;
    }
    for (int64_t k = first; k < end; k++)
        dot_products(H + k * G * ld_rows, ld_rows, 1, expert->weight + k * G * ld, ld,
                     expert->bias ? expert->bias + k * G : NULL, G, x, rows + k * ld_rows,
                     count[k], ld);
}
