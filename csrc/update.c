/* Optimisers and max-norm, one row of weights at a time, while it is in cache. The
 * state of a row advances only when the row is updated: an expert that no example
 * activated keeps weights, momentum and step count, as lazy and sparse optimisers do.
 * With every expert active this is the dense update.
 */
#include "stochnet.h"
#include "vector.h"

/* SGD with momentum as in scikit-learn: v <- momentum v - rate g; w <- w + v, with
   Nesterov's w <- w + momentum v - rate g. v may be NULL where momentum is 0. */
static void update_sgd(float *restrict w, float *restrict v, const float *restrict g,
                       int64_t n, const sn_optimizer *o, float decay)
{
    const float rate = o->learning_rate, momentum = o->momentum;
    if (!v) {
        for (int64_t i = 0; i < n; i++)
            w[i] -= rate * (g[i] + decay * w[i]);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        const float step = rate * (g[i] + decay * w[i]);
        v[i] = momentum * v[i] - step;
        w[i] += o->nesterov ? momentum * v[i] - step : v[i];
    }
}

/* Adam (Kingma & Ba 2015), with the bias corrections in `rate`. */
static void update_adam(float *restrict w, float *restrict m, float *restrict v,
                        const float *restrict g, int64_t n, const sn_optimizer *o,
                        float decay, float rate)
{
    const float b1 = o->beta_1, b2 = o->beta_2, epsilon = o->epsilon;
    for (int64_t i = 0; i < n; i++) {
        const float gradient = g[i] + decay * w[i];
        m[i] = b1 * m[i] + (1.0f - b1) * gradient;
        v[i] = b2 * v[i] + (1.0f - b2) * gradient * gradient;
        w[i] -= rate * m[i] / (sqrtf(v[i]) + epsilon);
    }
}

static float adam_rate(const sn_optimizer *o, int32_t step)
{
    const double c1 = 1.0 - pow((double)o->beta_1, step);
    const double c2 = 1.0 - pow((double)o->beta_2, step);
    return (float)((double)o->learning_rate * sqrt(c2) / c1);
}

/* FINISH of the lanes' sums over w of TERM. Four at a time: one alone would wait for each
   addition. */
#define START(j) sn_vec sum##j = {0};
#define LOAD(j) const sn_vec w##j = sn_load(w + i + j * SN_LANES);
#define ADD(j) sum##j += TERM(w##j);
#define DEFINE_SUM(RESULT, NAME, FINISH)                                               \
    static RESULT NAME(const float *w, int64_t n)                                      \
    {                                                                                  \
        enum { FOUR = 4 * SN_LANES };                                                  \
        int64_t i = 0;                                                                 \
        SN_EACH_4(START)                                                               \
        for (; i + FOUR <= n; i += FOUR) {                                             \
            SN_EACH_4(LOAD)                                                            \
            SN_EACH_4(ADD)                                                             \
        }                                                                              \
        for (; i < n; i += SN_LANES) {                                                 \
            LOAD(0)                                                                    \
            ADD(0)                                                                     \
        }                                                                              \
        return FINISH((sum0 + sum1) + (sum2 + sum3));                                  \
    }
#define TERM(w) (w * w)
DEFINE_SUM(float, sum_of_squares, sn_sum)
#undef TERM
#define TERM(w) (w * 0.0f) /* not a number where w is infinite or none */
DEFINE_SUM(int, has_nonfinite, sn_any)
#undef TERM
#undef START
#undef LOAD
#undef ADD
#undef DEFINE_SUM

/* Several threads may say so. */
static void say_failed(sn_parameters *p)
{
    __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
}

/* Scales row `row`, whose weights' squares have this sum, to the norm that it may have. Sets
   p->failed if they are not finite: where the sum is, so are they. */
static void limit_norm_of_sum(sn_parameters *p, int64_t row, float sum,
                              const sn_optimizer *o)
{
    const float limit = o->max_norm;
    const int64_t n = p->ld;
    float *w = p->weight + row * n;
    if (limit > 0.0f && sum > limit * limit) {
        const float scale = limit / sqrtf(sum);
        for (int64_t i = 0; i < n; i++)
            w[i] *= scale;
    }
    if (!isfinite(sum) && has_nonfinite(w, n))
        say_failed(p);
}

static void limit_norm(sn_parameters *p, int64_t row, const sn_optimizer *o)
{
    if (o->max_norm > 0.0f)
        limit_norm_of_sum(p, row, sum_of_squares(p->weight + row * p->ld, p->ld), o);
}

/* Sets p->failed if a step of rows [first, first + n_rows) left some that are not finite,
   which nothing else may show: a gate whose weights are no numbers is closed. To be called
   while they are in cache. Weights are not looked at where they are known to be finite, and
   where norms are limited: limit_norm has looked at them. */
static void check_rows(sn_parameters *p, int64_t first, int64_t n_rows,
                       const sn_optimizer *o, int weights_are_finite)
{
    const int looks = !weights_are_finite && !(o->max_norm > 0.0f);
    float zero = 0.0f;
    for (int64_t i = first; p->bias && i < first + n_rows; i++)
        zero += p->bias[i] * 0.0f;
    if (zero != 0.0f || (looks && has_nonfinite(p->weight + first * p->ld, n_rows * p->ld)))
        say_failed(p);
}

/* Whether a row's step is w <- keep w - rate g, then its norm: a kernel can add the
   gradient to the weights as it sums it up, and no gradient is ever stored. */
static int is_plain_sgd(const sn_parameters *p, const sn_optimizer *o)
{
    return o->solver == SN_SGD && !p->weight_state[0];
}

static float plain_keep(const sn_optimizer *o)
{
    return 1.0f - o->learning_rate * o->decay;
}

static int is_frozen(const sn_optimizer *o)
{
    return o->solver != SN_GRADIENT && o->learning_rate == 0.0f;
}

/* One step on row `row` of p. L2 decay and max-norm act on weights, not on biases.
   INOUT p. IN gradient (p->ld) with zero padding; bias_gradient, where p has biases. */
static void update_row(sn_parameters *p, int64_t row, const float *gradient,
                       float bias_gradient, const sn_optimizer *o)
{
    if (is_frozen(o))
        return; /* max-norm does not act either */
    float *w = p->weight + row * p->ld, *state[2], *bias_state[2];
    float *bias = p->bias ? p->bias + row : NULL;
    for (int i = 0; i < 2; i++) {
        state[i] = p->weight_state[i] ? p->weight_state[i] + row * p->ld : NULL;
        bias_state[i] = p->bias_state[i] ? p->bias_state[i] + row : NULL;
    }
    switch (o->solver) {
    case SN_GRADIENT:
        for (int64_t i = 0; i < p->ld; i++)
            state[0][i] = gradient[i] + o->decay * w[i];
        if (bias)
            *bias_state[0] = bias_gradient;
        return;
    case SN_ADAM: {
        const float rate = adam_rate(o, ++p->steps[row]);
        update_adam(w, state[0], state[1], gradient, p->ld, o, o->decay, rate);
        if (bias)
            update_adam(bias, bias_state[0], bias_state[1], &bias_gradient, 1, o, 0.0f,
                        rate);
        break;
    }
    default:
        update_sgd(w, state[0], gradient, p->ld, o, o->decay);
        if (bias)
            update_sgd(bias, bias_state[0], &bias_gradient, 1, o, 0.0f);
    }
    limit_norm(p, row, o);
}

/* The rest of a row's step: all of it, but for a plain one, whose weights have taken the
   gradient already. */
static void end_step(sn_parameters *p, int64_t row, int plain, const float *gradient,
                     float bias_gradient, const sn_optimizer *o)
{
    if (!plain) {
        update_row(p, row, gradient, bias_gradient, o);
        return;
    }
    if (p->bias)
        p->bias[row] -= o->learning_rate * bias_gradient;
    limit_norm(p, row, o);
}
