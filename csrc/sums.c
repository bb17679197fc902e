/* Weighted sums of listed rows; see product.c. */
#include "layout.h"
#include "stochnet.h"
#include "tile.h"
#include "vector.h"

/* A tile of outputs is kept in registers over all rows of the sum: those that are listed, or
   successive ones, which are one at least, for which there is nothing to look up. The units'
   coefficients have an index in common: GCC would count on the pointer of each. */
#define BEFORE_LISTED 0
#define LISTED                                                                         \
    at = rows[r] * ld_row;                                                             \
    row = rows[r] * ld_v;
#define BEFORE_SUCCESSIVE (rows[0] - 1)
#define SUCCESSIVE                                                                     \
    at += ld_row;                                                                      \
    row += ld_v;                                                                       \
    SN_IN_ONE_REGISTER(at);
#define START(i, j) sn_vec sum##i##j = keep * sn_load(out##i + j * SN_LANES);
#define OUT(i) float *out##i = out + units[i] * ld_out;
#define COEFFICIENT(i)                                                                 \
    const float *c##i = c + units[i] * ld_unit;                                        \
    SN_IN_ONE_REGISTER(c##i);
#define LOAD(j) const sn_vec v##j = sn_load(v + row + j * SN_LANES);
#define STEP(i, j) sum##i##j += weight##i * v##j;
#define FINISH(i, j) sn_store(out##i + j * SN_LANES, sum##i##j);
#define UNIT(i, WITH)                                                                  \
    const float weight##i = c##i[at];                                                  \
    WITH(STEP, i)
#define DEFINE_SUM_KERNEL(NAME, NEXT, EACH_UNIT, EACH_COLUMN, WITH)                    \
    static void NAME(float *out, int64_t ld_out, const int32_t *units, const float *c, \
                     int64_t ld_unit, int64_t ld_row, const float *v, int64_t ld_v,    \
                     const int32_t *rows, int64_t n_rows, float keep)                  \
    {                                                                                  \
        EACH_UNIT(OUT)                                                                 \
        EACH_UNIT(COEFFICIENT)                                                         \
        EACH_UNIT(START##WITH)                                                         \
        int64_t at = BEFORE_##NEXT * ld_row, row = BEFORE_##NEXT * ld_v;               \
        SN_UNROLL_4                                                                    \
        for (int64_t r = 0; r < n_rows; r++) {                                         \
            NEXT                                                                       \
            EACH_COLUMN(LOAD)                                                          \
            EACH_UNIT(UNIT##WITH)                                                      \
        }                                                                              \
        EACH_UNIT(FINISH##WITH)                                                        \
    }

typedef void sum_kernel(float *, int64_t, const int32_t *, const float *, int64_t,
                        int64_t, const float *, int64_t, const int32_t *, int64_t,
                        float);

/* Tiles of so many units and vectors of columns. */
typedef struct {
    int64_t units, vectors;
    sum_kernel *of_listed, *of_successive;
} sum_tile;

#define DEFINE_SUM_TILE(UNITS, VECTORS)                                                \
    DEFINE_SUM_KERNEL(sum_##UNITS##_by_##VECTORS##_listed, LISTED, SN_EACH_##UNITS,    \
                      SN_EACH_##VECTORS, _##VECTORS)                                   \
    DEFINE_SUM_KERNEL(sum_##UNITS##_by_##VECTORS##_successive, SUCCESSIVE,             \
                      SN_EACH_##UNITS, SN_EACH_##VECTORS, _##VECTORS)                  \
    static const sum_tile sum_##UNITS##_by_##VECTORS = {                               \
        UNITS, VECTORS, sum_##UNITS##_by_##VECTORS##_listed,                           \
        sum_##UNITS##_by_##VECTORS##_successive};
#if TILE_UNITS == 8
DEFINE_SUM_TILE(8, 3)
DEFINE_SUM_TILE(8, 2)
DEFINE_SUM_TILE(8, 1)
DEFINE_SUM_TILE(4, 4)
DEFINE_SUM_TILE(1, 24)
#endif
DEFINE_SUM_TILE(4, 3)
DEFINE_SUM_TILE(4, 2)
DEFINE_SUM_TILE(4, 1)
DEFINE_SUM_TILE(1, 8)
DEFINE_SUM_TILE(1, 4)
DEFINE_SUM_TILE(1, 1)
#undef BEFORE_LISTED
#undef LISTED
#undef BEFORE_SUCCESSIVE
#undef SUCCESSIVE
#undef START
#undef OUT
#undef COEFFICIENT
#undef LOAD
#undef STEP
#undef FINISH
#undef UNIT

/* The widest tile for `left` units and `vectors` vectors of columns: as many of these for all
   numbers of units from four on, which go through the columns together. */
static const sum_tile *choose_sum(int64_t left, int64_t vectors)
{
#if TILE_UNITS == 8
    if (left >= 4 && (vectors == 4 || vectors == 8))
        return &sum_4_by_4;
    if (left >= 8)
        return vectors >= 3 ? &sum_8_by_3 : vectors == 2 ? &sum_8_by_2 : &sum_8_by_1;
    if (left < 4 && vectors >= 24)
        return &sum_1_by_24;
#else
    if (left >= 4 && vectors == 4) /* of three and one, the latter waits for its sums */
        return &sum_4_by_2;
#endif
    if (left >= 4)
        return vectors >= 3 ? &sum_4_by_3 : vectors == 2 ? &sum_4_by_2 : &sum_4_by_1;
    return vectors >= 8 ? &sum_1_by_8 : vectors >= 4 ? &sum_1_by_4 : &sum_1_by_1;
}

/* OUT filled_rows: those of the listed rows that have a filled chunk in columns [d, end) of
   n. Returns how many. */
static int64_t list_filled_rows(int32_t *filled_rows, const sn_rows *v,
                                const int32_t *rows, int64_t n_rows, int64_t d,
                                int64_t end, int64_t n)
{
    const int64_t length = piece_length(n), first = d / length, last = (end - 1) / length;
    const uint64_t all = ~(uint64_t)0;
    const uint64_t from = all << (d - first * length) / SN_PAD;
    const uint64_t until = all >> (63 - (end - 1 - last * length) / SN_PAD);
    const uint64_t in_first = first == last ? from & until : from;
    const uint64_t in_last = first == last ? 0 : until;
    int64_t count = 0;
    for (int64_t j = 0; j < n_rows; j++) {
        const uint64_t *filled = v->filled + rows[j] * v->ld_filled;
        filled_rows[count] = rows[j];
        count += ((filled[first] & in_first) | (filled[last] & in_last)) != 0;
    }
    return count;
}

/* What weighted_sums has been given, for a number of units. */
typedef struct {
    float *out;
    int64_t ld_out;
    const int32_t *units;
    int64_t n_units;
    const float *c;
    int64_t ld_unit, ld_row;
    const sn_rows *v;
    int64_t n;
} sum_of_rows;

/* Where the columns end that all units go through together, from d on. */
static int64_t end_of_columns(const sum_of_rows *s, int64_t d)
{
    return d + choose_sum(s->n_units, (s->n - d) / SN_LANES)->vectors * SN_LANES;
}

/* Adds the listed rows to columns from d on of one tile of units, from i on. */
static void add_to_tile(const sum_of_rows *s, const sum_tile *tile, int64_t i, int64_t d,
                        const int32_t *rows, int64_t n_rows, float keep)
{
    const int are_successive = n_rows > 0 && rows[n_rows - 1] - rows[0] == n_rows - 1;
    (are_successive ? tile->of_successive : tile->of_listed)(
        s->out + d, s->ld_out, s->units + i, s->c, s->ld_unit, s->ld_row, s->v->x + d,
        s->v->ld, rows, n_rows, keep);
}

/* Adds the listed rows to columns [d, end) of all units. Where these are the units' first rows
   their next columns are asked for, which the processor does not foresee. */
static void add_to_columns(const sum_of_rows *s, int64_t d, int64_t end, const int32_t *rows,
                           int64_t n_rows, float keep, int are_first)
{
    const int64_t vectors = (s->n - d) / SN_LANES;
    const int64_t ahead = are_first ? smaller(end - d, s->n - end) : 0;
    const sum_tile *tile;
    for (int64_t i = 0; i < s->n_units; i += tile->units) {
        tile = choose_sum(s->n_units - i, vectors);
        for (int64_t u = i; ahead > 0 && u < i + tile->units; u++)
            sn_prefetch(s->out + s->units[u] * s->ld_out + end, ahead);
        add_to_tile(s, tile, i, d, rows, n_rows, keep);
    }
}

/* Rows that are added at once: three vectors of columns of them stay in L1. */
enum { ROWS_ADDED = 128 };

/* Adds so many of the listed rows to columns [d, end) of all units. */
static void add_rows(const sum_of_rows *s, int64_t d, int64_t end, const int32_t *rows,
                     int64_t n_rows, float keep, int are_first)
{
    /* few units would not make up for the list */
    const int skips = s->v->filled && s->n_units >= UPDATE_UNITS;
    int32_t filled_rows[ROWS_ADDED];
    for (int64_t next; d < end; d = next) {
        const int32_t *listed = rows;
        int64_t n_listed = n_rows;
        next = end_of_columns(s, d);
        if (skips) {
            n_listed = list_filled_rows(filled_rows, s->v, rows, n_rows, d, next, s->n);
            listed = filled_rows;
        }
        add_to_columns(s, d, next, listed, n_listed, keep, are_first);
    }
}

/* Asks for the listed rows' columns [d, end). */
static void prefetch_columns(const sn_rows *v, int64_t d, int64_t end, const int32_t *rows,
                             int64_t n_rows)
{
    for (int64_t j = 0; j < n_rows; j++)
        sn_prefetch(v->x + rows[j] * v->ld + d, end - d);
}

/* out_units[i] = keep out_units[i] + sum over the listed rows r, in their order, of
   c[units[i], r] v_r.
   INOUT out (*, ld_out), n floats of each listed row.
   IN units (n_units), rows (n_rows, ascending), v, c with element (i, r) at
   i * ld_unit + r * ld_row; n a multiple of SN_PAD. */
static void weighted_sums(float *out, int64_t ld_out, const int32_t *units,
                          int64_t n_units, const float *c, int64_t ld_unit,
                          int64_t ld_row, const sn_rows *v, const int32_t *rows,
                          int64_t n_rows, int64_t n, float keep)
{
    const int64_t tiled = n_units < 4 ? 0 : n_units / 4 * 4;
    sum_of_rows s = {out, ld_out, units, tiled, c, ld_unit, ld_row, v, n};
    /* Outputs that would leave L2 before the next rows come meet all rows column by column. */
    const int by_column = n_rows > ROWS_ADDED && tiled * n > L2_FLOATS;
    const int are_far = n_rows * v->ld > 4 * L2_FLOATS;
    for (int64_t d = 0, end; tiled > 0 && d < n; d = end) {
        end = by_column ? end_of_columns(&s, d) : n;
        for (int64_t r = 0; r < n_rows; r += ROWS_ADDED) {
            const int64_t count = smaller(ROWS_ADDED, n_rows - r);
            if (by_column && are_far && end < n)
                prefetch_columns(v, end, end_of_columns(&s, end), rows + r, count);
            add_rows(&s, d, end, rows + r, count, r == 0 ? keep : 1.0f, r == 0);
        }
    }
    s.n_units = 1;
    for (int64_t i = tiled; n_rows > 0 && i < n_units; i++)
        for (int64_t d = 0, end; d < n; d = end) {
            const sum_tile *tile = choose_sum(1, (n - d) / SN_LANES);
            end = d + tile->vectors * SN_LANES;
            add_to_tile(&s, tile, i, d, rows, n_rows, keep);
        }
}
