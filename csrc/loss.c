/* Softmax cross-entropy of one row. */
#include "scalar.h"
#include "stochnet.h"

/* Loss -log p[target] of softmax p, and its gradient times `scale`.
   INOUT logits (n_classes) become p. OUT gradient (n_classes), not for target < 0,
   which makes a softmax of it and returns 0. */
static float cross_entropy(float *restrict logits, float *restrict gradient,
                           int32_t target, float scale, int64_t n_classes)
{
    float largest = logits[0], sum = 0.0f;
    for (int64_t c = 1; c < n_classes; c++)
        largest = logits[c] > largest ? logits[c] : largest;
    const float target_logit = target < 0 ? 0.0f : logits[target] - largest;
    for (int64_t c = 0; c < n_classes; c++) {
        logits[c] = sn_exp(logits[c] - largest);
        sum += logits[c];
    }
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
