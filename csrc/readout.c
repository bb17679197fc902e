/* The softmax layer. Its weights lie expert by expert, as rows of V: forward is a sum of
 * rows over the experts that ran, in fixed blocks of gates, so that threads can share it.
 */
#include "layout.h"
#include "stochnet.h"
#include "vector.h"

/* partial (B, ld_classes) += h H V_e for the active rows of gate k and its experts */
static void readout_gate(const sn_network *net, float *partial, const sn_layer *layer,
                         int64_t k)
{
    const int64_t ld = net->ld_classes, n_rows = net->ld_rows, G = layer->experts_per_gate;
    const int32_t *rows = layer->rows + k * n_rows, count = layer->count[k];
    const float *h = layer->h + k * n_rows;
    for (int64_t e = k * G; e < (k + 1) * G; e++) {
        const float *V = net->readout.weight + e * ld;
        const float *H = layer->expert_output + e * n_rows;
        for (int32_t j = 0; j < count; j++) {
            float *out = partial + rows[j] * ld;
            const float y = h[rows[j]] * H[rows[j]];
            for (int64_t c = 0; c < ld; c += SN_LANES)
                sn_store(out + c, sn_load(out + c) + y * sn_load(V + c));
        }
    }
}

/* Sums the blocks in order, softmax, and in training loss and gradient. */
static void readout_forward(sn_network *net, int64_t n_rows, int training)
{
    const int64_t ld = net->ld_classes;
    const sn_layer *layer = net->layers + net->n_layers - 1;
    const float scale = 1.0f / (float)n_rows;
    /* read by what works on a class's whole rows: full credit, local expectation */
    const int by_class =
        training && (layer->credit == SN_CREDIT_ALL ||
                     estimator_table[layer->estimator]->needs_difference);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < n_rows; b++) {
        float *logits = net->logits + b * ld, *gradient = net->logit_gradient + b * ld;
        memcpy(logits, net->readout_bias.weight, (size_t)ld * sizeof *logits);
        add_partials(logits, net, layer, b, ld);
        net->loss[b] = cross_entropy(logits, gradient, training ? net->target[b] : -1,
                                     scale, net->n_classes);
        for (int64_t c = 0; by_class && c < net->n_classes; c++) {
            net->logit_gradient_t[c * net->ld_rows + b] = gradient[c];
            net->probability_t[c * net->ld_rows + b] = logits[c];
        }
    }
}

/* dL/dy of expert e of the last layer on every row. OUT g (n_rows). */
static void readout_gradient_of_all(float *restrict g, const sn_network *net, int64_t e,
                                    int64_t n_rows)
{
    const float *v = net->readout.weight + e * net->ld_classes;
    for (int64_t b = 0; b < n_rows; b += SN_LANES) {
        const float *column = net->logit_gradient_t + b;
        sn_vec sum = {0};
        for (int64_t c = 0; c < net->n_classes; c++, column += net->ld_rows)
            sum += v[c] * sn_load(column);
        sn_store(g + b, sum);
    }
}

/* dL/dy of expert e of the last layer on the listed rows. OUT g (n_rows). */
static void readout_gradient(float *g, const sn_network *net, int64_t e,
                             const int32_t *rows, int32_t count)
{
    const int64_t ld = net->ld_classes;
    const sn_rows gradients = {.x = net->logit_gradient, .ld = ld};
    dot_products(g, 0, 1, net->readout.weight + e * ld, ld, NULL, 1, &gradients, rows,
                 count, ld);
}

/* d (n_rows) = what gate k adds to the logits of class c where it is on. */
static void contribution(float *restrict d, const sn_network *net, const sn_layer *layer,
                         int64_t k, int64_t c, int64_t n_rows)
{
    const int64_t G = layer->experts_per_gate;
    for (int64_t b = 0; b < n_rows; b++)
        d[b] = 0.0f;
    for (int64_t e = k * G; e < (k + 1) * G; e++) {
        const float *H = layer->expert_output + e * net->ld_rows;
        const float v = net->readout.weight[e * net->ld_classes + c];
        for (int64_t b = 0; b < n_rows; b++)
            d[b] += v * H[b];
    }
}

/* What switching gate k on instead of off changes in the mean loss: with softmax p and the
   gate's contribution d to the logits when it is on, log sum p exp(d) - d[target] where
   it is off, -log sum p exp(-d) - d[target] where it is on; h is 0 or 1. Computed on every
   row, which is faster than to gather the listed ones, also from an H that is not known.
   OUT difference, on the listed rows. */
static void gate_difference(float *difference, const sn_network *net, const sn_layer *layer,
                            int64_t k, const int32_t *rows, int32_t count, int64_t n_rows,
                            const gate_scratch *scratch)
{
    const float *h = layer->h + k * net->ld_rows;
    float *restrict d = scratch->probability, *restrict sum = scratch->z;
    float *restrict of_target = scratch->probability_slope;
    for (int64_t b = 0; b < n_rows; b++)
        sum[b] = of_target[b] = 0.0f;
    for (int64_t c = 0; c < net->n_classes; c++) {
        const float *p = net->probability_t + c * net->ld_rows;
        contribution(d, net, layer, k, c, n_rows);
        for (int64_t b = 0; b < n_rows; b++) {
            of_target[b] = net->target[b] == c ? d[b] : of_target[b];
            sum[b] += p[b] * sn_exp(h[b] != 0.0f ? -d[b] : d[b]);
        }
    }
    for (int64_t b = 0; b < n_rows; b++) {
        const float change = h[b] != 0.0f ? -sn_log(sum[b]) : sn_log(sum[b]);
        sum[b] = (change - of_target[b]) / (float)n_rows;
    }
    for (int32_t j = 0; j < count; j++)
        difference[rows[j]] = sum[rows[j]];
}

/* Step of V_e, whose gradient is the sum of y dL/dlogits over the listed rows.
   IN y (n_rows); gradient: scratch. */
static void update_readout(sn_network *net, int64_t e, const float *y, const int32_t *rows,
                           int32_t count, float *gradient)
{
    sn_optimizer optimizer = net->main;
    optimizer.max_norm = 0.0f; /* the softmax layer has none (App. A.4) */
    const sn_rows gradients = {.x = net->logit_gradient, .ld = net->ld_classes};
    const unit_gradient of = {y, &gradients, rows, count};
    row_squares squares = {{{0}}};
    if (count > 0 && !is_frozen(&optimizer))
        step_of_columns(&net->readout, e, &of, 0, net->ld_classes, &squares, gradient,
                        &optimizer);
}

static void update_readout_bias(sn_network *net, int64_t n_rows, float *gradient)
{
    memset(gradient, 0, (size_t)net->ld_classes * sizeof *gradient);
    for (int64_t b = 0; b < n_rows; b++)
        for (int64_t c = 0; c < net->n_classes; c++)
            gradient[c] += net->logit_gradient[b * net->ld_classes + c];
    sn_optimizer optimizer = net->main;
    optimizer.max_norm = optimizer.decay = 0.0f;
    update_row(&net->readout_bias, 0, gradient, 0.0f, &optimizer);
    check_rows(&net->readout_bias, 0, 1, &optimizer, 0);
}
