/* Dense products whose inputs are columns: lanes are rows of the mini-batch.
 *
 * A dot product of a few vectors takes longer to sum its lanes than to multiply. Transposed
 * inputs have no lanes to sum: a unit's outputs are the sum of the inputs' columns, times its
 * weights. In training that sum runs over inputs, ascending, so the last bits are not those of
 * dot_products. A prediction's bits must depend on its row alone, however many rows come with
 * it: there the sum has a part for each lane that dot_products has, and the parts are added up
 * as the lanes are. Rows come a vector at a time, so that a few would cost as much.
 */
#include "layout.h"
#include "stochnet.h"
#include "tile.h"
#include "vector.h"

/* Whether inputs of n floats are transposed. As measured, dot products are as fast with
   vectors of four floats; and of long rows with eight, with columns that leave L2, and where
   the last vector is not full. */
static int are_columns_faster(int64_t n, int64_t n_rows)
{
    enum { LEAST = 32 };
    if (n <= SHORT_ROW)
        return SN_LANES >= 8 && n_rows >= SN_PAD;
    return SN_LANES == 16 && n <= PIECE && n_rows >= LEAST && n_rows <= COLUMN_ROWS &&
           n_rows % SN_PAD == 0;
}

/* The same for predictions: lanes' sums pay with vectors of eight floats, as measured. */
static int are_columns_faster_by_lane(int64_t n, int64_t n_rows)
{
    enum { LEAST = 32 };
    return SN_LANES == 8 && n <= SHORT_ROW && n_rows >= LEAST;
}

/* out_i = bias[i] + sum over inputs d of w[i, d] column_d, for n_units units.
   OUT out (n_units, ld_rows). IN w (n_units, ld_w), bias (n_units), columns
   (n, sn_row_length(n_rows)), indices 0, 1, ... up to LEAST_INDICES. A tile reads its units'
   weights in turns, which the processor does not foresee: the next units' are asked for. */
static void column_products(float *out, int64_t ld_rows, const float *w, int64_t ld_w,
                            const float *bias, int64_t n_units, const float *columns,
                            const int32_t *indices, int64_t n_rows, int64_t n)
{
    enum { UNITS = 32 };
    const int64_t length = padded(n_rows), stride = sn_row_length(n_rows);
    for (int64_t i = 0; i < n_units; i++)
        for (int64_t b = 0; b < length; b++)
            out[i * ld_rows + b] = bias[i];
    for (int64_t i = 0; i < n_units; i += UNITS) {
        if (i + UNITS < n_units)
            sn_prefetch(w + (i + UNITS) * ld_w, smaller(UNITS, n_units - i - UNITS) * ld_w);
        for (int64_t d = 0; d < n; d += LEAST_INDICES) {
            const sn_rows in = {.x = columns + d * stride, .ld = stride};
            weighted_sums(out + i * ld_rows, ld_rows, indices, smaller(UNITS, n_units - i),
                          w + i * ld_w + d, ld_w, 1, &in, indices,
                          smaller(LEAST_INDICES, n - d), length, 1.0f);
        }
    }
}

/* Lane by lane of dot_products, sums of a tile of four units and so many vectors of rows.
   OUT lanes (SN_LANES, 4, VECTORS) vectors. IN w (4, ld_w), columns (n, stride). */
#define POINT(i) const float *w##i = w + i * ld_w;
#define START(i, j) sn_vec sum##i##j = {0};
#define LOAD(j) const sn_vec x##j = sn_load(columns + d * stride + j * SN_LANES);
#define STEP(i, j) sum##i##j += weight##i * x##j;
#define UNIT(i, WITH)                                                                  \
    const float weight##i = w##i[d];                                                   \
    WITH(STEP, i)
#define FINISH(i, j) sn_store(lanes + (i * vectors + j) * SN_LANES, sum##i##j);
#define DEFINE_LANE_SUMS(VECTORS)                                                      \
    static void lane_sums_4_by_##VECTORS(float *lanes, const float *w, int64_t ld_w,   \
                                         const float *columns, int64_t stride,         \
                                         int64_t n)                                    \
    {                                                                                  \
        enum { vectors = VECTORS };                                                    \
        SN_EACH_4(POINT)                                                               \
        for (int64_t lane = 0; lane < SN_LANES; lane++) {                              \
            SN_EACH_4(START_##VECTORS)                                                 \
            SN_UNROLL_4                                                                \
            for (int64_t d = lane; d < n; d += SN_LANES) {                             \
                SN_EACH_##VECTORS(LOAD)                                                \
                SN_EACH_4(UNIT_##VECTORS)                                              \
            }                                                                          \
            SN_EACH_4(FINISH_##VECTORS)                                                \
            lanes += 4 * vectors * SN_LANES;                                           \
        }                                                                              \
    }
DEFINE_LANE_SUMS(3)
DEFINE_LANE_SUMS(2)
DEFINE_LANE_SUMS(1)
#undef POINT
#undef START
#undef LOAD
#undef STEP
#undef UNIT
#undef FINISH

/* What sn_sum is to the lanes of one vector, for vectors `stride` floats apart. */
SN_INLINE sn_vec sum_lanes(const float *lanes, int64_t stride)
{
#define LANE(i) sn_load(lanes + (i) * stride)
#if SN_LANES == 16
#define QUARTER(i) ((LANE(i) + LANE(i + 8)) + (LANE(i + 4) + LANE(i + 12)))
#elif SN_LANES == 8
#define QUARTER(i) (LANE(i) + LANE(i + 4))
#else
#define QUARTER(i) LANE(i)
#endif
    return (QUARTER(0) + QUARTER(2)) + (QUARTER(1) + QUARTER(3));
#undef LANE
#undef QUARTER
}

/* One tile's outputs, `vectors` vectors of rows of four units. */
static void lane_tile(float *out, int64_t ld_rows, const float *w, int64_t ld_w,
                      const float *bias, const float *columns, int64_t stride,
                      int64_t vectors, int64_t n)
{
    float lanes[SN_LANES * 4 * 3 * SN_LANES];
    (vectors == 3   ? lane_sums_4_by_3
     : vectors == 2 ? lane_sums_4_by_2
                    : lane_sums_4_by_1)(lanes, w, ld_w, columns, stride, n);
    for (int64_t i = 0; i < 4; i++)
        for (int64_t j = 0; j < vectors; j++)
            sn_store(out + i * ld_rows + j * SN_LANES,
                     bias[i] + sum_lanes(lanes + (i * vectors + j) * SN_LANES,
                                         4 * vectors * SN_LANES));
}

/* out_i = bias[i] + w_i . x, with the bits of dot_products; arguments as of column_products,
   n_units at least 4, and n at most SHORT_ROW. */
static void column_products_by_lane(float *out, int64_t ld_rows, const float *w, int64_t ld_w,
                                    const float *bias, int64_t n_units, const float *columns,
                                    int64_t n_rows, int64_t n)
{
    enum { UNITS = 32 }; /* and three vectors of the columns stay in L1 */
    const int64_t stride = sn_row_length(n_rows);
    for (int64_t first = 0; first < n_units; first += UNITS)
        for (int64_t b = 0, vectors; b < padded(n_rows); b += vectors * SN_LANES) {
            const int64_t left = (padded(n_rows) - b) / SN_LANES;
            vectors = left == 4 ? 2 : smaller(left, 3);
            for (int64_t k = first; k < smaller(first + UNITS, n_units); k += 4) {
                const int64_t i = smaller(k, n_units - 4); /* the last may come twice */
                lane_tile(out + i * ld_rows + b, ld_rows, w + i * ld_w, ld_w, bias + i,
                          columns + b, stride, vectors, n);
            }
        }
}
