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

/* Rows of few classes are worked on side by side, class by class: in a row alone each maximum
   and each addition would wait for the last. A row's bits do not depend on those beside it. */
typedef struct {
    float of[FEW_CLASSES * SN_PAD]; /* (classes, SN_PAD) */
} class_columns;

/* Softmax of rows. INOUT p: their logits. OUT largest (SN_PAD) of the logits, and the sum of
   exp of what the others are below it. */
static void softmax_columns(class_columns *p, float *restrict largest, float *restrict sum,
                            int64_t n_classes)
{
    const int64_t n = n_classes * SN_PAD;
    float inverse[SN_PAD];
    for (int64_t b = 0; b < SN_PAD; b++) {
        largest[b] = p->of[b];
        sum[b] = 0.0f;
    }
    for (int64_t i = SN_PAD; i < n; i += SN_PAD)
        for (int64_t b = 0; b < SN_PAD; b++)
            largest[b] = p->of[i + b] > largest[b] ? p->of[i + b] : largest[b];
    for (int64_t i = 0; i < n; i += SN_PAD)
        for (int64_t b = 0; b < SN_PAD; b++) {
            p->of[i + b] = sn_exp(p->of[i + b] - largest[b]);
            sum[b] += p->of[i + b];
        }
    for (int64_t b = 0; b < SN_PAD; b++)
        inverse[b] = 1.0f / sum[b];
    for (int64_t i = 0; i < n; i += SN_PAD)
        for (int64_t b = 0; b < SN_PAD; b++)
            p->of[i + b] *= inverse[b];
}

/* The first n_rows of columns, as rows and, where by_class is given, as columns. */
static void store_columns(float *out, int64_t ld, float *by_class, int64_t ld_t,
                          const class_columns *columns, int64_t n_rows, int64_t n_classes)
{
    class_columns rows;
    transpose(rows.of, ld, columns->of, SN_PAD, n_classes, SN_PAD);
    memcpy(out, rows.of, (size_t)(n_rows * ld) * sizeof *out);
    for (int64_t c = 0; by_class && c < n_classes; c++)
        for (int64_t b = 0; b < n_rows; b++)
            by_class[c * ld_t + b] = columns->of[c * SN_PAD + b];
}

/* IN, OUT as softmax_cross_entropy. */
static void few_classes(const sn_softmax *to, const int32_t *target, float scale,
                        int64_t n_rows, int64_t n_classes)
{
    const int64_t ld = to->ld;
    class_columns p;
    float largest[SN_PAD], sum[SN_PAD], log_sum[SN_PAD];
    transpose(p.of, SN_PAD, to->logits, ld, n_rows, ld);
    softmax_columns(&p, largest, sum, n_classes);
    for (int64_t b = 0; target && b < SN_PAD; b++)
        log_sum[b] = sn_log(sum[b]);
    for (int64_t b = 0; target && b < n_rows; b++)
        to->loss[b] = log_sum[b] - (to->logits[b * ld + target[b]] - largest[b]);
    store_columns(to->logits, ld, to->probability_t, to->ld_t, &p, n_rows, n_classes);
    if (!target)
        return;
    for (int64_t i = 0; i < n_classes * SN_PAD; i++)
        p.of[i] *= scale;
    for (int64_t b = 0; b < n_rows; b++)
        p.of[target[b] * SN_PAD + b] -= scale;
    store_columns(to->gradient, ld, to->gradient_t, to->ld_t, &p, n_rows, n_classes);
}

/* Rows of many classes, one by one. */
static void many_classes(const sn_softmax *to, const int32_t *target, float scale,
                         int64_t n_rows, int64_t n_classes)
{
    for (int64_t b = 0; b < n_rows; b++) {
        float *p = to->logits + b * to->ld, *gradient = to->gradient + b * to->ld;
        const float loss =
            cross_entropy(p, gradient, target ? target[b] : -1, scale, n_classes);
        if (target)
            to->loss[b] = loss;
        for (int64_t c = 0; to->probability_t && c < n_classes; c++) {
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
