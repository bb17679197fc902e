/* Transposition, in squares of as many vectors as a vector has lanes. */
#ifndef SN_TRANSPOSE_H
#define SN_TRANSPOSE_H

#include "layout.h"
#include "vector.h"

#if SN_LANES == 16
#define SN_EACH_LANE SN_EACH_16
#elif SN_LANES == 8
#define SN_EACH_LANE SN_EACH_8
#else
#define SN_EACH_LANE SN_EACH_4
#endif

#define SN_INTERLEAVE(a, i, j, b, low, high)                                           \
    const sn_vec b##low = SN_INTERLEAVE_LOW(a##i, a##j);                               \
    const sn_vec b##high = SN_INTERLEAVE_HIGH(a##i, a##j);

/* Vectors t0, t1, ... of which ti has lane i of v0, v1, ...: each round interleaves the
   halves. */
#if SN_LANES == 16
#define SN_ROUND(a, b)                                                                 \
    SN_INTERLEAVE(a, 0, 8, b, 0, 1)                                                    \
    SN_INTERLEAVE(a, 1, 9, b, 2, 3)                                                    \
    SN_INTERLEAVE(a, 2, 10, b, 4, 5)                                                   \
    SN_INTERLEAVE(a, 3, 11, b, 6, 7)                                                   \
    SN_INTERLEAVE(a, 4, 12, b, 8, 9)                                                   \
    SN_INTERLEAVE(a, 5, 13, b, 10, 11)                                                 \
    SN_INTERLEAVE(a, 6, 14, b, 12, 13)                                                 \
    SN_INTERLEAVE(a, 7, 15, b, 14, 15)
#define SN_TRANSPOSE SN_ROUND(v, p) SN_ROUND(p, q) SN_ROUND(q, s) SN_ROUND(s, t)
#elif SN_LANES == 8
#define SN_ROUND(a, b)                                                                 \
    SN_INTERLEAVE(a, 0, 4, b, 0, 1)                                                    \
    SN_INTERLEAVE(a, 1, 5, b, 2, 3)                                                    \
    SN_INTERLEAVE(a, 2, 6, b, 4, 5)                                                    \
    SN_INTERLEAVE(a, 3, 7, b, 6, 7)
#define SN_TRANSPOSE SN_ROUND(v, p) SN_ROUND(p, q) SN_ROUND(q, t)
#else
#define SN_ROUND(a, b)                                                                 \
    SN_INTERLEAVE(a, 0, 2, b, 0, 1)                                                    \
    SN_INTERLEAVE(a, 1, 3, b, 2, 3)
#define SN_TRANSPOSE SN_ROUND(v, p) SN_ROUND(p, t)
#endif

/* Columns of x, of which successive SN_LANES are a group: group g's column i is at
   g * ld_group + i * ld_lane. OUT out, `width` floats of each, a multiple of SN_LANES; those
   behind the last row are zero. IN x (n_rows, ld_x), n a multiple of SN_LANES. */
static void transpose_groups(float *out, int64_t ld_group, int64_t ld_lane, const float *x,
                             int64_t ld_x, int64_t n_rows, int64_t width, int64_t n)
{
#define LOAD(i)                                                                        \
    const sn_vec v##i = r + i < n_rows ? sn_load(x + (r + i) * ld_x + d) : (sn_vec){0};
#define STORE(i) sn_store(group + i * ld_lane + r, t##i);
    for (int64_t r = 0; r < width; r += SN_LANES)
        for (int64_t d = 0; d < n; d += SN_LANES) {
            float *group = out + d / SN_LANES * ld_group;
            SN_EACH_LANE(LOAD)
            SN_TRANSPOSE
            SN_EACH_LANE(STORE)
        }
#undef LOAD
#undef STORE
}

/* OUT out (n, ld_out), as many columns of it as rows are padded to, those behind the last
   row zero. IN x (n_rows, ld_x), n a multiple of SN_PAD. */
static void transpose(float *out, int64_t ld_out, const float *x, int64_t ld_x,
                      int64_t n_rows, int64_t n)
{
    transpose_groups(out, SN_LANES * ld_out, ld_out, x, ld_x, n_rows, padded(n_rows), n);
}

#endif
