/* Dense products whose inputs are columns: lanes are rows of the mini-batch.
 *
 * A dot product loads seven vectors for each twelve products, and sums its lanes. Transposed
 * inputs have no lanes to sum, and packed ones lie in the order in which a tile reads them:
 * columns come in panels of a tile's width, each with its rows' part of all columns.
 *
 * In training a unit's output is the sum of the inputs' columns, times its weights, so the last
 * bits are not those of dot_products. A prediction's bits must depend on its row alone, however
 * many rows come with it: there the sum has a part for each lane that dot_products has, and the
 * parts are added up as the lanes are. Rows come a vector at a time, so that a few would cost
 * as much.
 */
#include "layout.h"
#include "stochnet.h"
#include "tile.h"
#include "transpose.h"
#include "vector.h"

/* Rows of at most so many floats are short. */
enum { SHORT_ROW = 128 };

/* Whether inputs of n floats are transposed. As measured, dot products are as fast with
   vectors of four floats; and of long rows with sixteen, with columns that leave L2, and where
   the last vector is not full. */
static int are_columns_faster(int64_t n, int64_t n_rows)
{
    enum { LEAST = 32, MOST = 96 };
    if (SN_LANES == 8 || n <= SHORT_ROW)
        return SN_LANES >= 8 && n_rows >= SN_PAD;
    return SN_LANES == 16 && n <= PIECE && n_rows >= LEAST && n_rows <= MOST &&
           n_rows % SN_PAD == 0;
}

/* The same for predictions, as measured: lanes' sums pay with vectors of eight floats, and of
   short rows with sixteen. */
static int are_columns_faster_by_lane(int64_t n, int64_t n_rows)
{
    enum { LEAST = 32 };
    return SN_LANES >= 8 && n <= (SN_LANES == 8 ? PIECE : SHORT_ROW) && n_rows >= LEAST;
}

/* ---- Panels ------------------------------------------------------------------------- */

/* Rows of the panel that begins with row b: three vectors, as a tile has, but of four that are
   left two and two, as one alone would wait for its sums; or four, where registers suffice. */
static int64_t panel_rows(int64_t b, int64_t n_rows)
{
    const int64_t left = (padded(n_rows) - b) / SN_LANES;
    if (TILE_UNITS == 8 && (left == 4 || left == 8))
        return 4 * SN_LANES;
    return (left == 4 ? 2 : smaller(left, 3)) * SN_LANES;
}

static int64_t panel_count(int64_t n_rows)
{
    int64_t count = 0;
    for (int64_t b = 0; b < n_rows; b += panel_rows(b, n_rows))
        count++;
    return count;
}

/* Rows of panel i. Its columns are at row `first` times their number. */
static sn_part panel_at(int64_t n_rows, int64_t i)
{
    sn_part rows = {0, panel_rows(0, n_rows)};
    for (; i > 0; i--) {
        rows.first = rows.end;
        rows.end += panel_rows(rows.end, n_rows);
    }
    return rows;
}

/* Columns of rows of n floats, all panels; threads share these. Behind the last row are zeros.
   OUT columns (n * padded(n_rows)), those of a panel one after the other; by_lane, first the
   first of each SN_LANES, then the second of each, and so on. IN x (n_rows, ld_x), n a
   multiple of SN_PAD. */
static void pack_columns(float *columns, const float *x, int64_t ld_x, int64_t n_rows,
                         int64_t n, int by_lane)
{
    const int64_t n_panels = panel_count(n_rows);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n_panels; i++) {
        const sn_part rows = panel_at(n_rows, i);
        const int64_t width = rows.end - rows.first;
        const int64_t ld_group = by_lane ? width : width * SN_LANES;
        const int64_t ld_lane = by_lane ? n / SN_LANES * width : width;
        transpose_groups(columns + rows.first * n, ld_group, ld_lane, x + rows.first * ld_x,
                         ld_x, smaller(width, n_rows - rows.first), width, n);
    }
}

/* ---- Training ----------------------------------------------------------------------- */

/* out_i += sum over d of w[i, d] x_d for a tile of units; or out_i = bias[i] + it, where there
   are biases. OUT out (UNITS, ld_out). IN w (UNITS, ld_w), bias (UNITS) or NULL, x (n, VECTORS)
   vectors. */
#define POINT(i) const float *w##i = w + i * ld_w;
#define START(i, j) sn_vec sum##i##j = {0};
#define LOAD(j) const sn_vec x##j = sn_load(x + j * SN_LANES);
#define STEP(i, j) sum##i##j += weight##i * x##j;
#define UNIT(i, WITH)                                                                  \
    const float weight##i = w##i[d];                                                   \
    WITH(STEP, i)
#define FINISH(i, j)                                                                   \
    {                                                                                  \
        float *to = out + i * ld_out + j * SN_LANES;                                   \
        sn_store(to, (bias ? (sn_vec){0} + bias[i] : sn_load(to)) + sum##i##j);        \
    }
#define DEFINE_COLUMN_TILE(UNITS, VECTORS)                                             \
    static void column_##UNITS##_by_##VECTORS(                                         \
        float *out, int64_t ld_out, const float *w, int64_t ld_w, const float *bias,   \
        const float *x, int64_t n)                                                     \
    {                                                                                  \
        SN_EACH_##UNITS(POINT)                                                         \
        SN_EACH_##UNITS(START_##VECTORS)                                               \
        SN_UNROLL_4                                                                    \
        for (int64_t d = 0; d < n; d++, x += VECTORS * SN_LANES) {                     \
            SN_EACH_##VECTORS(LOAD)                                                    \
            SN_EACH_##UNITS(UNIT_##VECTORS)                                            \
        }                                                                              \
        SN_EACH_##UNITS(FINISH_##VECTORS)                                              \
    }
#if TILE_UNITS == 8
DEFINE_COLUMN_TILE(8, 3)
DEFINE_COLUMN_TILE(8, 2)
DEFINE_COLUMN_TILE(8, 1)
DEFINE_COLUMN_TILE(4, 4)
DEFINE_COLUMN_TILE(1, 4)
#endif
DEFINE_COLUMN_TILE(6, 2)
DEFINE_COLUMN_TILE(4, 3)
DEFINE_COLUMN_TILE(4, 2)
DEFINE_COLUMN_TILE(4, 1)
DEFINE_COLUMN_TILE(1, 3)
DEFINE_COLUMN_TILE(1, 2)
DEFINE_COLUMN_TILE(1, 1)
#undef FINISH

typedef void column_kernel(float *, int64_t, const float *, int64_t, const float *,
                           const float *, int64_t);

/* Tiles of so many units. */
typedef struct {
    int64_t units;
    column_kernel *add;
} column_tile;

static column_tile choose_column_tile(int64_t left, int64_t vectors)
{
    static const column_tile one[] = {
        {1, column_1_by_1}, {1, column_1_by_2}, {1, column_1_by_3}};
    static const column_tile four[] = {
        {4, column_4_by_1}, {4, column_4_by_2}, {4, column_4_by_3}};
#if TILE_UNITS == 8
    static const column_tile eight[] = {
        {8, column_8_by_1}, {8, column_8_by_2}, {8, column_8_by_3}};
    if (vectors == 4)
        return left >= 4 ? (column_tile){4, column_4_by_4} : (column_tile){1, column_1_by_4};
    if (left >= 8)
        return eight[vectors - 1];
#endif
    if (vectors == 2 && left >= 6 && left != 8) /* twelve sums, as four by three have */
        return (column_tile){6, column_6_by_2};
    return left >= 4 ? four[vectors - 1] : one[vectors - 1];
}

/* Columns that tiles take at once: those of a panel stay in L1. A sum is that of the sums of
   so many, as few as a lane of a dot product has at most with eight. */
enum { COLUMNS_TOGETHER = 128 };

/* Units whose weights stay in cache while the panels pass. */
enum { COLUMN_UNITS = 32 };

/* Columns [d, d + COLUMNS_TOGETHER) of n of out_i = bias[i] + sum over d of w[i, d] column_d,
   for n_units units and one panel; added, but for the first of them.
   INOUT out (n_units, ld_out), `width` floats of each. IN w (n_units, ld_w), bias (n_units),
   panel (n, width); of units [0, n_asked) the weights are asked for COLUMN_UNITS ahead: the
   processor does not foresee them, as units take turns. */
static void add_columns(float *out, int64_t ld_out, const float *w, int64_t ld_w,
                        const float *bias, int64_t n_units, const float *panel, int64_t width,
                        int64_t d, int64_t n, int64_t n_asked)
{
    const int64_t columns = smaller(COLUMNS_TOGETHER, n - d);
    column_tile tile;
    for (int64_t i = 0; i < n_units; i += tile.units) {
        const int64_t ahead = i + COLUMN_UNITS;
        tile = choose_column_tile(n_units - i, width / SN_LANES);
        for (int64_t u = ahead; u < smaller(ahead + tile.units, n_asked); u++)
            sn_prefetch(w + u * ld_w + d, columns);
        tile.add(out + i * ld_out, ld_out, w + i * ld_w + d, ld_w, d == 0 ? bias + i : NULL,
                 panel + d * width, columns);
    }
}

/* out_i = bias[i] + sum over inputs d of w[i, d] column_d, for n_units units.
   OUT out (n_units, ld_rows). IN w (n_units, ld_w), bias (n_units), columns as of
   pack_columns. */
static void column_products(float *out, int64_t ld_rows, const float *w, int64_t ld_w,
                            const float *bias, int64_t n_units, const float *columns,
                            int64_t n_rows, int64_t n)
{
    for (int64_t i = 0; i < n_units; i += COLUMN_UNITS)
        for (int64_t b = 0, width; b < n_rows; b += width) {
            width = panel_rows(b, n_rows);
            for (int64_t d = 0; d < n; d += COLUMNS_TOGETHER)
                add_columns(out + i * ld_rows + b, ld_rows, w + i * ld_w, ld_w, bias + i,
                            smaller(COLUMN_UNITS, n_units - i), columns + b * n, width, d, n,
                            b == 0 ? n_units - i : 0);
        }
}

/* ---- Prediction --------------------------------------------------------------------- */

/* Lane by lane of dot_products, sums of a tile of four units and so many vectors of rows.
   OUT lanes (SN_LANES, 4, VECTORS) vectors. IN w (4, ld_w), x (n, VECTORS) vectors, by lane. */
#define FINISH(i, j) sn_store(lanes + (i * vectors + j) * SN_LANES, sum##i##j);
#define DEFINE_LANE_SUMS(VECTORS)                                                      \
    static void lane_sums_4_by_##VECTORS(float *lanes, const float *w, int64_t ld_w,   \
                                         const float *x, int64_t n)                    \
    {                                                                                  \
        enum { vectors = VECTORS };                                                    \
        SN_EACH_4(POINT)                                                               \
        for (int64_t lane = 0; lane < SN_LANES; lane++) {                              \
            SN_EACH_4(START_##VECTORS)                                                 \
            SN_UNROLL_4                                                                \
            for (int64_t d = lane; d < n; d += SN_LANES, x += vectors * SN_LANES) {    \
                SN_EACH_##VECTORS(LOAD)                                                \
                SN_EACH_4(UNIT_##VECTORS)                                              \
            }                                                                          \
            SN_EACH_4(FINISH_##VECTORS)                                                \
            lanes += 4 * vectors * SN_LANES;                                           \
        }                                                                              \
    }
DEFINE_LANE_SUMS(4)
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

/* Units of a tile: with fewer there is none. */
enum { LANE_TILE_UNITS = 4 };

/* One tile's outputs, `vectors` vectors of rows of four units. */
static void lane_tile(float *out, int64_t ld_rows, const float *w, int64_t ld_w,
                      const float *bias, const float *panel, int64_t vectors, int64_t n)
{
    float lanes[SN_LANES * 4 * 4 * SN_LANES];
    (vectors == 4   ? lane_sums_4_by_4
     : vectors == 3 ? lane_sums_4_by_3
     : vectors == 2 ? lane_sums_4_by_2
                    : lane_sums_4_by_1)(lanes, w, ld_w, panel, n);
    for (int64_t i = 0; i < 4; i++)
        for (int64_t j = 0; j < vectors; j++)
            sn_store(out + i * ld_rows + j * SN_LANES,
                     bias[i] + sum_lanes(lanes + (i * vectors + j) * SN_LANES,
                                         4 * vectors * SN_LANES));
}

/* out_i = bias[i] + w_i . x, with the bits of dot_products; arguments as of column_products,
   columns by lane, n_units at least LANE_TILE_UNITS, and n at most PIECE. */
static void column_products_by_lane(float *out, int64_t ld_rows, const float *w, int64_t ld_w,
                                    const float *bias, int64_t n_units, const float *columns,
                                    int64_t n_rows, int64_t n)
{
    for (int64_t first = 0; first < n_units; first += COLUMN_UNITS)
        for (int64_t b = 0, width; b < n_rows; b += width) {
            width = panel_rows(b, n_rows);
            for (int64_t k = first; k < smaller(first + COLUMN_UNITS, n_units);
                 k += LANE_TILE_UNITS) {
                /* the last may come twice */
                const int64_t i = smaller(k, n_units - LANE_TILE_UNITS);
                lane_tile(out + i * ld_rows + b, ld_rows, w + i * ld_w, ld_w, bias + i,
                          columns + b * n, width / SN_LANES, n);
            }
        }
}
