/* Expected loss over all configurations of a layer's gates, and its exact gradient: the
 * reference for every estimator. In double precision; meant for at most 20 gates.
 */
#include "scalar.h"
#include "stochnet.h"

typedef struct {
    double *probability_gradient, *value_gradient; /* (K) */
    double *logits;                                /* (K + 1, C), one row a level */
    int32_t *active;                               /* (K) gates that fire so far */
    const double *contribution, *probability, *value;
    int64_t n_gates, n_classes, target;
} enumeration;

/* Loss of one configuration; adds weight dL/dv of the gates that fire. */
static double leaf_loss(const enumeration *all, const double *logits, int64_t n_active,
                        double weight)
{
    const int64_t C = all->n_classes;
    double largest = logits[0], sum = 0.0;
    for (int64_t c = 1; c < C; c++)
        largest = logits[c] > largest ? logits[c] : largest;
    for (int64_t c = 0; c < C; c++)
        sum += exp(logits[c] - largest);
    for (int64_t j = 0; j < n_active; j++) {
        const double *contribution = all->contribution + all->active[j] * C;
        double slope = -contribution[all->target];
        for (int64_t c = 0; c < C; c++)
            slope += exp(logits[c] - largest) / sum * contribution[c];
        all->value_gradient[all->active[j]] += weight * slope;
    }
    return log(sum) + largest - logits[all->target];
}

/* Expected loss given the first k gates, of which n_active fire and whose configuration
   has probability `weight`. */
static double expected_loss(const enumeration *all, int64_t k, int64_t n_active,
                            double weight)
{
    const int64_t C = all->n_classes;
    const double *logits = all->logits + k * C;
    double *next = all->logits + (k + 1) * C;
    if (k == all->n_gates)
        return leaf_loss(all, logits, n_active, weight);
    const double p = all->probability[k];
    for (int64_t c = 0; c < C; c++)
        next[c] = logits[c];
    const double off = expected_loss(all, k + 1, n_active, weight * (1.0 - p));
    for (int64_t c = 0; c < C; c++)
        next[c] = logits[c] + all->value[k] * all->contribution[k * C + c];
    all->active[n_active] = (int32_t)k;
    const double on = expected_loss(all, k + 1, n_active + 1, weight * p);
    all->probability_gradient[k] += weight * (on - off);
    return (1.0 - p) * off + p * on;
}

/* One example whose gate k is value[k] with probability probability[k], else 0, and whose
   logits are base + sum of gate k times contribution[k]. Returns E[L].
   OUT probability_gradient, value_gradient (K): derivatives of E[L] by them.
   IN base (C), contribution (K, C), probability, value (K); scratch ((K + 1) C),
   active (K). Takes of the order of 2^K C operations. */
static double enumerate(double *probability_gradient, double *value_gradient,
                        const double *base, const double *contribution,
                        const double *probability, const double *value, int64_t target,
                        int64_t n_gates, int64_t n_classes, double *scratch,
                        int32_t *active)
{
    const enumeration all = {probability_gradient, value_gradient, scratch, active,
                             contribution, probability, value, n_gates, n_classes,
                             target};
    for (int64_t k = 0; k < n_gates; k++)
        probability_gradient[k] = value_gradient[k] = 0.0;
    for (int64_t c = 0; c < n_classes; c++)
        scratch[c] = base[c];
    return expected_loss(&all, 0, 0, 1.0);
}
