/* Weighted sums of listed rows; see product.c. */
#include "layout.h"
#include "stochnet.h"
#include "tile.h"
#include "vector.h"

/* A tile of outputs is kept in registers over all rows of the sum. */
#define START(i, j) sn_vec sum##i##j = keep * sn_load(out##i + j * SN_LANES);
#define OUT(i) float *out##i = out + units[i] * ld_out;
#define COEFFICIENT(i)                                                                 \
    const float *c##i = c + units[i] * ld_unit;                                        \
    SN_IN_ONE_REGISTER(c##i);
#define LOAD(j) const sn_vec v##j = sn_load(v + rows[r] * ld_v + j * SN_LANES);
#define STEP(i, j) sum##i##j += weight##i * v##j;
#define FINISH(i, j) sn_store(out##i + j * SN_LANES, sum##i##j);
#define UNIT(i, WITH)                                                                  \
    const float weight##i = c##i[rows[r] * ld_row];                                    \
    WITH(STEP, i)
#define DEFINE_SUM_TILE(NAME, EACH_UNIT, EACH_COLUMN, WITH)                            \
    static void NAME(float *out, int64_t ld_out, const int32_t *units, const float *c, \
                     int64_t ld_unit, int64_t ld_row, const float *v, int64_t ld_v,    \
                     const int32_t *rows, int64_t n_rows, float keep)                  \
    {                                                                                  \
        EACH_UNIT(OUT)                                                                 \
        EACH_UNIT(COEFFICIENT)                                                         \
        EACH_UNIT(START##WITH)                                                         \
        for (int64_t r = 0; r < n_rows; r++) {                                         \
            EACH_COLUMN(LOAD)                                                          \
            EACH_UNIT(UNIT##WITH)                                                      \
        }                                                                              \
        EACH_UNIT(FINISH##WITH)                                                        \
    }
#if TILE_UNITS == 8
DEFINE_SUM_TILE(sum_8_by_3, SN_EACH_8, SN_EACH_3, _3)
DEFINE_SUM_TILE(sum_8_by_2, SN_EACH_8, SN_EACH_2, _2)
DEFINE_SUM_TILE(sum_8_by_1, SN_EACH_8, SN_EACH_1, _1)
DEFINE_SUM_TILE(sum_4_by_4, SN_EACH_4, SN_EACH_4, _4)
DEFINE_SUM_TILE(sum_1_by_24, SN_EACH_1, SN_EACH_24, _24)
#endif
DEFINE_SUM_TILE(sum_4_by_3, SN_EACH_4, SN_EACH_3, _3)
DEFINE_SUM_TILE(sum_4_by_2, SN_EACH_4, SN_EACH_2, _2)
DEFINE_SUM_TILE(sum_4_by_1, SN_EACH_4, SN_EACH_1, _1)
DEFINE_SUM_TILE(sum_1_by_8, SN_EACH_1, SN_EACH_8, _8)
DEFINE_SUM_TILE(sum_1_by_4, SN_EACH_1, SN_EACH_4, _4)
DEFINE_SUM_TILE(sum_1_by_1, SN_EACH_1, SN_EACH_1, _1)
#undef START
#undef OUT
#undef COEFFICIENT
#undef LOAD
#undef STEP
#undef FINISH
#undef UNIT

typedef void sum_kernel(float *, int64_t, const int32_t *, const float *, int64_t,
                        int64_t, const float *, int64_t, const int32_t *, int64_t,
                        float);

/* The widest kernel for `left` units and `vectors` vectors of columns.
   OUT units and vectors that it takes: the latter the same for all numbers of units from
   four on, which go through the columns together. */
static sum_kernel *choose_sum(int64_t *units, int64_t *vectors, int64_t left)
{
#if TILE_UNITS == 8
    if (left >= 4 && (*vectors == 4 || *vectors == 8)) {
        *units = *vectors = 4;
        return sum_4_by_4;
    }
    if (left >= 8) {
        *units = 8;
        *vectors = *vectors < 3 ? *vectors : 3;
        return *vectors == 3 ? sum_8_by_3 : *vectors == 2 ? sum_8_by_2 : sum_8_by_1;
    }
    if (left < 4 && *vectors >= 24) {
        *units = 1;
        *vectors = 24;
        return sum_1_by_24;
    }
#endif
    if (left >= 4) {
        *units = 4;
        *vectors = *vectors < 3 ? *vectors : 3;
        return *vectors == 3 ? sum_4_by_3 : *vectors == 2 ? sum_4_by_2 : sum_4_by_1;
    }
    *units = 1;
    *vectors = *vectors >= 8 ? 8 : *vectors >= 4 ? 4 : 1;
    return *vectors == 8 ? sum_1_by_8 : *vectors == 4 ? sum_1_by_4 : sum_1_by_1;
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

/* out_units[i] = keep out_units[i] + sum over the listed rows r, in their order, of
   c[units[i], r] v_r.
   INOUT out (*, ld_out), n floats of each listed row.
   IN units (n_units), rows (n_rows), v, c with element (i, r) at
   i * ld_unit + r * ld_row; n a multiple of SN_PAD. */
static void weighted_sums(float *out, int64_t ld_out, const int32_t *units,
                          int64_t n_units, const float *c, int64_t ld_unit,
                          int64_t ld_row, const sn_rows *v, const int32_t *rows,
                          int64_t n_rows, int64_t n, float keep)
{
    enum { BLOCK = 128 }; /* rows; three columns of them stay in L1 */
    const int64_t tiled = n_units < 4 ? 0 : n_units / 4 * 4;
    /* few units would not make up for the list */
    const int skips = v->filled && tiled >= UPDATE_UNITS;
    int32_t filled_rows[BLOCK];
    int64_t width, vectors;
    for (int64_t r = 0; r < n_rows; r += BLOCK, keep = 1.0f) {
        const int64_t count = smaller(BLOCK, n_rows - r);
        for (int64_t d = 0; tiled > 0 && d < n; d += vectors * SN_LANES) {
            const int32_t *listed = rows + r;
            int64_t n_listed = count;
            vectors = (n - d) / SN_LANES;
            choose_sum(&width, &vectors, tiled);
            if (skips) {
                n_listed = list_filled_rows(filled_rows, v, rows + r, count, d,
                                            d + vectors * SN_LANES, n);
                listed = filled_rows;
            }
            for (int64_t i = 0; i < tiled; i += width) {
                vectors = (n - d) / SN_LANES;
                choose_sum(&width, &vectors, tiled - i)(out + d, ld_out, units + i, c,
                                                        ld_unit, ld_row, v->x + d, v->ld,
                                                        listed, n_listed, keep);
            }
        }
        for (int64_t i = tiled; i < n_units; i++)
            for (int64_t d = 0; d < n; d += vectors * SN_LANES) {
                vectors = (n - d) / SN_LANES;
                choose_sum(&width, &vectors, 1)(out + d, ld_out, units + i, c, ld_unit,
                                                ld_row, v->x + d, v->ld, rows + r, count,
                                                keep);
            }
    }
}
