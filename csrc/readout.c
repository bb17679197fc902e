/* The softmax layer. Its weights lie expert by expert, as rows of V: forward is a sum of
 * rows over the experts that ran. Threads share it by fixed blocks of gates, each with a
 * partial sum of its own; where there are many classes, by rows of the mini-batch.
 */
#include "layout.h"
#include "stochnet.h"
#include "vector.h"

/* logits (B, ld_classes) += h H V_e for the active rows of gate k and its experts */
static void readout_gate(const sn_network *net, float *logits, const sn_layer *layer,
                         int64_t k)
{
    const int64_t ld = net->ld_classes, n_rows = net->ld_rows, G = layer->experts_per_gate;
    const int32_t *rows = layer->rows + k * n_rows, count = layer->count[k];
    const float *h = layer->h + k * n_rows;
    for (int64_t e = k * G; e < (k + 1) * G; e++) {
        const float *V = net->readout.weight + e * ld;
        const float *H = layer->expert_output + e * n_rows;
        for (int32_t j = 0; j < count; j++) {
            float *out = logits + rows[j] * ld;
            const float y = h[rows[j]] * H[rows[j]];
            for (int64_t c = 0; c < ld; c += SN_LANES)
                sn_store(out + c, sn_load(out + c) + y * sn_load(V + c));
        }
    }
}

/* out (SN_LANES columns of each accumulator) += sum of c[j] V[experts[j]]. */
#define START(i) sn_vec sum##i = sn_load(out + i * SN_LANES);
#define STEP(i) sum##i += c[j] * sn_load(v + i * SN_LANES);
#define FINISH(i) sn_store(out + i * SN_LANES, sum##i);
#define DEFINE_LISTED_SUM(NAME, EACH_COLUMN)                                           \
    static void NAME(float *out, const float *V, int64_t ld, const int32_t *experts,   \
                     const float *c, int32_t n)                                        \
    {                                                                                  \
        EACH_COLUMN(START)                                                             \
        for (int32_t j = 0; j < n; j++) {                                              \
            const float *v = V + experts[j] * ld;                                      \
            EACH_COLUMN(STEP)                                                          \
        }                                                                              \
        EACH_COLUMN(FINISH)                                                            \
    }
DEFINE_LISTED_SUM(listed_sum_8, SN_EACH_8)
DEFINE_LISTED_SUM(listed_sum_4, SN_EACH_4)
DEFINE_LISTED_SUM(listed_sum_1, SN_EACH_1)
#undef START
#undef STEP
#undef FINISH
#undef DEFINE_LISTED_SUM

/* What ran for a row and is not in its logits yet. */
enum { LISTED = 128 };
typedef struct {
    int32_t n, expert[LISTED];
    float y[LISTED];
} ran_for_row;

/* logits (ld_classes) += y V of what is listed, which the list then lacks. */
static void add_listed(float *logits, const sn_network *net, ran_for_row *list)
{
    const int64_t ld = net->ld_classes;
    const float *V = net->readout.weight;
    int64_t c = 0;
    for (; c + 8 * SN_LANES <= ld; c += 8 * SN_LANES)
        listed_sum_8(logits + c, V + c, ld, list->expert, list->y, list->n);
    for (; c + 4 * SN_LANES <= ld; c += 4 * SN_LANES)
        listed_sum_4(logits + c, V + c, ld, list->expert, list->y, list->n);
    for (; c < ld; c += SN_LANES)
        listed_sum_1(logits + c, V + c, ld, list->expert, list->y, list->n);
    list->n = 0;
}

/* Logits of rows [first, end), which lie in one vector of gates, += y V: the experts that ran
   for each are listed while the gates pass. */
static void readout_rows(const sn_network *net, const sn_layer *layer, int64_t first,
                         int64_t end)
{
    const int64_t ld = net->ld_rows, G = layer->experts_per_gate;
    const int64_t start = first / SN_PAD * SN_PAD;
    const uint32_t within = ((1u << (end - first)) - 1u) << (first - start);
    ran_for_row lists[SN_PAD];
    for (int64_t i = 0; i < SN_PAD; i++)
        lists[i].n = 0;
    for (int64_t e = 0; e < layer->n_units; e++) {
        const float *h = layer->h + e / G * ld + start;
        const float *H = layer->expert_output + e * ld + start;
        for (uint32_t bits = sn_different(h, 0.0f) & within; bits != 0; bits &= bits - 1) {
            const int32_t i = __builtin_ctz(bits);
            ran_for_row *list = lists + i;
            list->expert[list->n] = (int32_t)e;
            list->y[list->n++] = h[i] * H[i];
            if (list->n == LISTED)
                add_listed(net->logits + (start + i) * net->ld_classes, net, list);
        }
    }
    for (int64_t b = first; b < end; b++)
        add_listed(net->logits + b * net->ld_classes, net, lists + b - start);
}

/* Rows that a thread reads out at a time: as many as a vector of gates has, if all threads
   have some then. */
static int64_t rows_read_out(int64_t n_rows, int64_t n_threads)
{
    enum { LEAST = 4 };
    int64_t rows = SN_PAD;
    while (rows > LEAST && rows * n_threads > n_rows)
        rows /= 2;
    return rows;
}

/* Softmax of rows [first, end), and in training their loss and gradient. */
static void softmax_rows(const sn_network *net, int64_t first, int64_t end, int64_t n_rows,
                         int training, int by_class)
{
    const int64_t ld = net->ld_classes;
    const sn_softmax to = {.loss = net->loss + first,
                           .logits = net->logits + first * ld,
                           .gradient = net->logit_gradient + first * ld,
                           .ld = ld,
                           .gradient_t = by_class ? net->logit_gradient_t + first : NULL,
                           .probability_t = by_class ? net->probability_t + first : NULL,
                           .ld_t = net->ld_rows};
    softmax_cross_entropy(&to, training ? net->target + first : NULL, 1.0f / (float)n_rows,
                          end - first, net->n_classes);
}

/* Sums all that ran, softmax, and in training loss and gradient. */
static void readout_forward(sn_network *net, int64_t n_rows, int training,
                            int64_t n_threads)
{
    const int64_t ld = net->ld_classes;
    const sn_layer *layer = net->layers + net->n_layers - 1;
    const int by_row = sn_reads_out_by_row(net);
    /* read by what works on a class's whole rows: full credit, local expectation */
    const int by_class =
        training && ((layer->credit == SN_CREDIT_ALL && !sn_has_many_classes(net)) ||
                     estimator_table[layer->estimator]->needs_difference);
    const int64_t step = rows_read_out(n_rows, n_threads);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < n_rows; first += step) {
        const int64_t end = smaller(first + step, n_rows);
        for (int64_t b = first; b < end; b++) {
            float *logits = net->logits + b * ld;
            memcpy(logits, net->readout_bias.weight, (size_t)ld * sizeof *logits);
            if (!by_row)
                add_partials(logits, net, layer, b, ld);
        }
        if (by_row)
            readout_rows(net, layer, first, end);
        softmax_rows(net, first, end, n_rows, training, by_class);
    }
}

/* dL/dy of the experts of gates [first, end) where there are many classes: on every row, or
   those listed for each gate, in layer->output_gradient. */
static void readout_gradients(sn_network *net, int64_t first, int64_t end, int64_t n_rows)
{
    const sn_layer *layer = net->layers + net->n_layers - 1;
    const int64_t G = layer->experts_per_gate, ld = net->ld_classes;
    const sn_rows gradients = {.x = net->logit_gradient, .ld = ld};
    float *g = layer->output_gradient;
    if (layer->credit == SN_CREDIT_ALL)
        dot_products(g + first * G * net->ld_rows, net->ld_rows, 1,
                     net->readout.weight + first * G * ld, ld, NULL, (end - first) * G,
                     &gradients, net->indices, n_rows, ld);
    else
        expert_forward(g, net->ld_rows, &net->readout, G, &gradients, layer->credited,
                       layer->n_credited, first, end);
}

/* dL/dy of expert e of the last layer on every row, where classes are few. OUT g (n_rows). */
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

/* The same on the listed rows, four at a time, the last of them repeated: how many there are
   is random, and a branch on it would cost more than a row. OUT g (n_rows). */
#define ROW(i) const int32_t row##i = rows[j + i < count ? j + i : count - 1];
#define START(i) sn_vec sum##i = {0};
#define STEP(i) sum##i += weight * sn_load(net->logit_gradient + row##i * ld + c);
#define FINISH(i) g[row##i] = sums[i];
static void readout_gradient(float *g, const sn_network *net, int64_t e,
                             const int32_t *rows, int32_t count)
{
    const int64_t ld = net->ld_classes;
    const float *v = net->readout.weight + e * ld;
    for (int32_t j = 0; j < count; j += 4) {
        SN_EACH_4(ROW)
        SN_EACH_4(START)
        for (int64_t c = 0; c < ld; c += SN_LANES) {
            const sn_vec weight = sn_load(v + c);
            SN_EACH_4(STEP)
        }
        const sn_four sums = sn_sum_4(sum0, sum1, sum2, sum3);
        SN_EACH_4(FINISH)
    }
}
#undef ROW
#undef START
#undef STEP
#undef FINISH

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
    const unit_gradient of = {.c = y, .x = &gradients, .rows = rows, .count = count};
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
