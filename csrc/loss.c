/* Softmax cross-entropy of one row. */
#include "scalar.h"
#include "stochnet.h"
#include "vector.h"

/* The largest of n floats: of lanes first, where there are many, which else would wait for
   one another. */
static float largest_of(const float *x, int64_t n)
{
    float lanes[SN_PAD], largest = x[0];
    int64_t c = 0;
    if (n >= 2 * SN_PAD) {
        memcpy(lanes, x, sizeof lanes);
        for (c = SN_PAD; c + SN_PAD <= n; c += SN_PAD)
            for (int64_t i = 0; i < SN_PAD; i++)
                lanes[i] = x[c + i] > lanes[i] ? x[c + i] : lanes[i];
        for (int64_t i = 0; i < SN_PAD; i++)
            largest = lanes[i] > largest ? lanes[i] : largest;
    }
    for (; c < n; c++)
        largest = x[c] > largest ? x[c] : largest;
    return largest;
}

/* Loss -log p[target] of softmax p, and its gradient times `scale`.
   INOUT logits (n_classes) become p. OUT gradient (n_classes), not for target < 0,
   which makes a softmax of it and returns 0. */
static float cross_entropy(float *restrict logits, float *restrict gradient,
                           int32_t target, float scale, int64_t n_classes)
{
    const float largest = largest_of(logits, n_classes);
    const float target_logit = target < 0 ? 0.0f : logits[target] - largest;
    for (int64_t c = 0; c < n_classes; c++)
        logits[c] = sn_exp(logits[c] - largest);
    const float sum = sn_row_sum(logits, n_classes);
    const float inverse = 1.0f / sum;
    for (int64_t c = 0; c < n_classes; c++)
        logits[c] *= inverse;
    if (target < 0)
        return 0.0f;
    for (int64_t c = 0; c < n_classes; c++)
        gradient[c] = scale * logits[c];
    gradient[target] -= scale;
    return sn_log(sum) - target_logit;
}
