/* Experts, computed for the rows whose gate is not zero. An expert is one row of
 * weights: forward is dot products along it, the gradient a weighted sum of inputs.
 */
#include "stochnet.h"
#include "vector.h"

/* Dot products of one expert with N inputs at a time. Each is one vector accumulator
   over the row and then sn_sum: its bits do not depend on N. */
#define START(j)                                                                       \
    sn_vec sum##j = {0};                                                               \
    const float *input##j = x + rows[j] * ld_x;
#define STEP(j) sum##j += weight * sn_load(input##j + d);
#define FINISH(j) H[rows[j]] = sn_sum(sum##j) + bias;
#define DEFINE_EXPERT_TILE(N)                                                          \
    static void expert_tile_##N(float *H, const float *x, int64_t ld_x,                \
                                const float *w, int64_t n, float bias,                 \
                                const int32_t *rows)                                   \
    {                                                                                  \
        SN_EACH_##N(START)                                                             \
        for (int64_t d = 0; d < n; d += SN_LANES) {                                    \
            const sn_vec weight = sn_load(w + d);                                      \
            SN_EACH_##N(STEP)                                                          \
        }                                                                              \
        SN_EACH_##N(FINISH)                                                            \
    }
DEFINE_EXPERT_TILE(8)
DEFINE_EXPERT_TILE(4)
DEFINE_EXPERT_TILE(2)
DEFINE_EXPERT_TILE(1)
#undef START
#undef STEP
#undef FINISH

/* H[b] = w_k . x_b + bias_k for the active rows b of expert k; no other element of H
   is written, and w_k is not read where count is 0.
   OUT H (B); reads[k] grows by the number of dot products made.
   IN x (B, ld_x), rows (count). */
static void expert_forward(float *H, int64_t *reads, const float *x, int64_t ld_x,
                           const sn_parameters *expert, int64_t k, const int32_t *rows,
                           int32_t count)
{
    const float *w = expert->weight + k * expert->ld;
    int32_t j = 0;
#define TILE(N)                                                                        \
    expert_tile_##N(H, x, ld_x, w, expert->ld, expert->bias[k], rows + j);             \
    reads[k] += N;                                                                     \
    j += N
    while (count - j >= 8) {
        TILE(8);
    }
    if (count - j >= 4) {
        TILE(4);
    }
    if (count - j >= 2) {
        TILE(2);
    }
    if (count - j >= 1) {
        TILE(1);
    }
#undef TILE
}

/* The part of a sum that N vectors hold: out += c[b] x_b over the active rows. */
#define START(i) sn_vec sum##i = sn_load(out + i * SN_LANES);
#define STEP(i) sum##i += weight * sn_load(input + i * SN_LANES);
#define FINISH(i) sn_store(out + i * SN_LANES, sum##i);
#define DEFINE_SUM_TILE(N)                                                             \
    static void expert_sum_##N(float *out, const float *c, const float *x,             \
                               int64_t ld_x, const int32_t *rows, int32_t count)       \
    {                                                                                  \
        SN_EACH_##N(START)                                                             \
        for (int32_t j = 0; j < count; j++) {                                          \
            const float *input = x + rows[j] * ld_x;                                   \
            const float weight = c[rows[j]];                                           \
            SN_EACH_##N(STEP)                                                          \
        }                                                                              \
        SN_EACH_##N(FINISH)                                                            \
    }
DEFINE_SUM_TILE(8)
DEFINE_SUM_TILE(1)
#undef DEFINE_SUM_TILE
#undef START
#undef STEP
#undef FINISH

/* out += sum over the active rows, ascending, of c[b] x_b: with c = dH the gradient of
   the expert's weights, with c = -rate dH their update.
   INOUT out (n). IN c (B), x (B, ld_x), rows (count), n a multiple of SN_PAD. */
static void expert_sum(float *out, const float *c, const float *x, int64_t ld_x,
                       int64_t n, const int32_t *rows, int32_t count)
{
    int64_t d = 0;
    for (; d + 8 * SN_LANES <= n; d += 8 * SN_LANES)
        expert_sum_8(out + d, c, x + d, ld_x, rows, count);
    for (; d < n; d += SN_LANES)
        expert_sum_1(out + d, c, x + d, ld_x, rows, count);
}

/* dx_b[begin:end] += dH[b] w_k[begin:end] for the active rows of expert k.
   INOUT dx (B, ld_dx). begin and end are multiples of SN_PAD. */
static void expert_input_gradient(float *dx, int64_t ld_dx, const sn_parameters *expert,
                                  int64_t k, const float *dH, const int32_t *rows,
                                  int32_t count, int64_t begin, int64_t end)
{
    const float *w = expert->weight + k * expert->ld;
    for (int32_t j = 0; j < count; j++) {
        float *out = dx + rows[j] * ld_dx;
        const float weight = dH[rows[j]];
        for (int64_t d = begin; d < end; d += SN_LANES)
            sn_store(out + d, sn_load(out + d) + weight * sn_load(w + d));
    }
}
