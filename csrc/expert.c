/* Experts, computed for the rows whose gate is not zero. An expert is one row of
 * weights: forward is dot products along it, the gradient a weighted sum of inputs.
 */
#include "stochnet.h"
#include "vector.h"

/* Dot products of one expert with N inputs at a time. Each is one vector accumulator
   over the row and then sn_sum: its bits do not depend on N. */
#define DEFINE_EXPERT_TILE(N)                                                          \
    static void expert_tile_##N(float *H, const float *x, int64_t ld_x,                \
                                const float *w, int64_t n, float bias,                 \
                                const int32_t *rows)                                   \
    {                                                                                  \
        sn_vec sum[N];                                                                 \
        const float *input[N];                                                         \
        _Pragma("GCC unroll 8") for (int j = 0; j < N; j++) {                          \
            sum[j] = (sn_vec){0};                                                      \
            input[j] = x + rows[j] * ld_x;                                             \
        }                                                                              \
        for (int64_t d = 0; d < n; d += SN_LANES) {                                    \
            const sn_vec weight = sn_load(w + d);                                      \
            _Pragma("GCC unroll 8") for (int j = 0; j < N; j++)                        \
                sum[j] += weight * sn_load(input[j] + d);                              \
        }                                                                              \
        _Pragma("GCC unroll 8") for (int j = 0; j < N; j++)                            \
            H[rows[j]] = sn_sum(sum[j]) + bias;                                        \
    }
DEFINE_EXPERT_TILE(8)
DEFINE_EXPERT_TILE(4)
DEFINE_EXPERT_TILE(2)
DEFINE_EXPERT_TILE(1)

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

/* gradient = sum over the active rows, ascending, of dH[b] x_b.
   OUT gradient (n). IN dH (B), x (B, ld_x), rows (count), n a multiple of SN_PAD. */
static void expert_gradient(float *restrict gradient, const float *dH, const float *x,
                            int64_t ld_x, int64_t n, const int32_t *rows,
                            int32_t count)
{
    enum { PANEL = SN_PAD / SN_LANES * 4 };
    int64_t d = 0;
    for (; d + PANEL * SN_LANES <= n; d += PANEL * SN_LANES) {
        sn_vec sum[PANEL] = {{0}};
        for (int32_t j = 0; j < count; j++) {
            const float *input = x + rows[j] * ld_x + d;
            const float weight = dH[rows[j]];
#pragma GCC unroll 16
            for (int i = 0; i < PANEL; i++)
                sum[i] += weight * sn_load(input + i * SN_LANES);
        }
#pragma GCC unroll 16
        for (int i = 0; i < PANEL; i++)
            sn_store(gradient + d + i * SN_LANES, sum[i]);
    }
    for (; d < n; d += SN_LANES) {
        sn_vec sum = {0};
        for (int32_t j = 0; j < count; j++)
            sum += dH[rows[j]] * sn_load(x + rows[j] * ld_x + d);
        sn_store(gradient + d, sum);
    }
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
