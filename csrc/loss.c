/* Softmax cross-entropy: rows of few classes side by side, of many one by one. */
#include "layout.h"
#include "scalar.h"
#include "stochnet.h"
#include "transpose.h"
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

/* Rows of few classes, with what a class has of each one after the other: of a row alone each
   maximum and each addition would wait for the last. A row's bits do not depend on those
   beside it. IN, OUT as softmax_cross_entropy, n_rows at most SN_PAD. */
static void few_classes(const sn_softmax *to, const int32_t *target, float scale,
                        int64_t n_rows, int64_t n_classes)
{
    float p[FEW_CLASSES * SN_PAD], rows[FEW_CLASSES * SN_PAD];
    float largest[SN_PAD], sum[SN_PAD] = {0}, loss[SN_PAD];
    const int64_t ld = to->ld;
    const size_t n_bytes = (size_t)(n_rows * ld) * sizeof *rows;
    transpose(p, SN_PAD, to->logits, ld, n_rows, ld);
    memcpy(largest, p, sizeof largest);
    for (int64_t i = SN_PAD; i < n_classes * SN_PAD; i += SN_PAD)
        for (int64_t b = 0; b < SN_PAD; b++)
            largest[b] = p[i + b] > largest[b] ? p[i + b] : largest[b];
    for (int64_t i = 0; i < n_classes * SN_PAD; i += SN_PAD)
        for (int64_t b = 0; b < SN_PAD; b++) {
            p[i + b] = sn_exp(p[i + b] - largest[b]);
            sum[b] += p[i + b];
        }
    for (int64_t b = 0; target && b < SN_PAD; b++)
        loss[b] = sn_log(sum[b]);
    for (int64_t b = 0; b < SN_PAD; b++)
        sum[b] = 1.0f / sum[b];
    for (int64_t b = 0; target && b < n_rows; b++)
        to->loss[b] = loss[b] - (to->logits[b * ld + target[b]] - largest[b]);
    for (int64_t i = 0; i < n_classes * SN_PAD; i += SN_PAD)
        for (int64_t b = 0; b < SN_PAD; b++)
            p[i + b] *= sum[b];
    transpose(rows, ld, p, SN_PAD, n_classes, SN_PAD);
    memcpy(to->logits, rows, n_bytes);
    if (!target)
        return;
    for (int64_t c = 0; to->by_class && c < n_classes; c++)
        for (int64_t b = 0; b < n_rows; b++)
            to->probability_t[c * to->ld_t + b] = p[c * SN_PAD + b];
    for (int64_t i = 0; i < n_classes * SN_PAD; i++)
        p[i] *= scale;
    for (int64_t b = 0; b < n_rows; b++)
        p[target[b] * SN_PAD + b] -= scale;
    for (int64_t c = 0; to->by_class && c < n_classes; c++)
        for (int64_t b = 0; b < n_rows; b++)
            to->gradient_t[c * to->ld_t + b] = p[c * SN_PAD + b];
    transpose(rows, ld, p, SN_PAD, n_classes, SN_PAD);
    memcpy(to->gradient, rows, n_bytes);
}

/* The same for rows one by one. */
static void many_classes(const sn_softmax *to, const int32_t *target, float scale,
                         int64_t n_rows, int64_t n_classes)
{
    for (int64_t b = 0; b < n_rows; b++) {
        float *p = to->logits + b * to->ld, *gradient = to->gradient + b * to->ld;
        const float loss =
            cross_entropy(p, gradient, target ? target[b] : -1, scale, n_classes);
        if (target)
            to->loss[b] = loss;
        for (int64_t c = 0; target && to->by_class && c < n_classes; c++) {
            to->gradient_t[c * to->ld_t + b] = gradient[c];
            to->probability_t[c * to->ld_t + b] = p[c];
        }
    }
}

/* Loss -log p[target] of softmax p of each row, and its gradient times `scale`; of p alone
   where target is NULL.
   INOUT to: see sn_softmax. IN target (n_rows), n_rows at most SN_PAD. */
static void softmax_cross_entropy(const sn_softmax *to, const int32_t *target, float scale,
                                  int64_t n_rows, int64_t n_classes)
{
    if (n_classes > FEW_CLASSES)
        many_classes(to, target, scale, n_rows, n_classes);
    else
        few_classes(to, target, scale, n_rows, n_classes);
}
