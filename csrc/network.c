/* One mini-batch through the whole network, and how threads share it.
 *
 * Everything below `train` and `predict` is called by all threads of one parallel
 * region, and each loop marked `omp for` shares out its panels, blocks or rows and, but for
 * `nowait`, ends in a barrier. Results are the same bits for any number of threads, because
 *   - one thread does all of a panel or block, and blocks depend on shapes only; panels
 *     also on the number of threads, but an output's bits do not depend on its panel;
 *   - a sum over units or rows runs within one panel, in ascending order, or over the
 *     fixed blocks of `partials`, in ascending order;
 *   - there is no atomic and no reduction clause.
 * Outside a parallel region, and in a build without OpenMP, the same code runs serially.
 *
 * Loops share out statically, gates and their experts in the same way upwards, downwards and
 * in the next mini-batch, so that a unit's weights stay with the thread that wrote them. First
 * come, first served took twice as long where lines travel slowly from one core's cache to
 * another's, and was no faster where they do not.
 *
 * forward.c is a layer upwards, backward.c a layer downwards, with their loops shared out
 * in the same way; threads.c says how many threads there are.
 */
#include "layout.h"
#include "stochnet.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* Dropout: inputs are zero with probability p, the others divided by 1 - p. */
static void drop_inputs(float *restrict x, float *restrict u, float p,
                        const sn_draw *draw, uint32_t row, int64_t n)
{
    const float scale = 1.0f / (1.0f - p);
    uniform(u, draw, SN_DROPOUT, row, n);
    for (int64_t d = 0; d < n; d++)
        x[d] = u[d] < p ? 0.0f : scale * x[d];
}

/* The rows of a mini-batch; in training, where y is given, with dropout. */
static void copy_rows(const sn_network *net, const float *X, const int32_t *y,
                      const int64_t *order, const sn_pass *pass)
{
    const int64_t n = net->layers->n_inputs, ld = net->layers->ld_inputs;
#pragma omp for schedule(static)
    for (int64_t b = 0; b < pass->n_rows; b++) {
        const int64_t source = order ? order[b] : b;
        memcpy(net->input + b * ld, X + source * n, (size_t)n * sizeof *X);
        if (y)
            net->target[b] = y[source];
        if (y && net->input_dropout > 0.0f)
            drop_inputs(net->input + b * ld, pass->row, net->input_dropout, pass->draw,
                        (uint32_t)b, ld);
        find_filled(net->filled + b * net->ld_filled, net->input + b * ld, ld);
        if (y)
            find_nonzeros(&net->nonzeros, b, net->input + b * ld, ld);
    }
}

static sn_pass start_pass(const sn_network *net, int64_t n_rows, const sn_draw *draw,
                          int training)
{
    int64_t thread = 0, n_threads = 1;
#ifdef _OPENMP
    thread = omp_get_thread_num();
    n_threads = omp_get_num_threads();
#endif
    float *scratch = net->scratch + thread * net->scratch_size;
    sn_pass pass = {.n_rows = n_rows,
                    .thread = thread,
                    .n_threads = n_threads,
                    .draw = draw,
                    .training = training};
    pass.gate = gate_scratch_of(scratch, sn_strip_length(net));
    pass.row = scratch + GATE_SCRATCH_ROWS * sn_strip_length(net);
    pass.gradient = pass.row + sn_longest_row(net);
    pass.index = (int32_t *)(void *)(pass.gradient + UPDATE_UNITS * sn_longest_row(net));
    return pass;
}

static void train_batch(sn_network *net, const sn_examples *examples, int64_t first,
                        int64_t n_rows, const sn_draw *draw)
{
    const int64_t *order = examples->order ? examples->order + first : NULL;
    const int64_t from = order ? 0 : first;
    sn_pass pass = start_pass(net, n_rows, draw, 1);
    copy_rows(net, examples->X + from * net->layers->n_inputs, examples->y + from, order,
              &pass);
    pass.is_sparse = is_sparse(net, n_rows);
    pass.skips_chunks = skips_chunks(net, n_rows);
    for (int64_t l = 0; l < net->n_layers; l++)
        layer_forward(net, l, &pass);
    readout_forward(net, n_rows, 1, pass.n_threads);
    for (int64_t l = net->n_layers - 1; l >= 0; l--)
        layer_backward(net, l, &pass);
#pragma omp single nowait
    {
        update_readout_bias(net, n_rows, pass.row);
        for (int64_t l = 0; l < net->n_layers; l++)
            adapt_penalty_weight(net->layers + l, n_rows);
    }
}

/* Whether a step left weights that are not finite since this was last asked. */
static int weights_failed(sn_network *net)
{
    int32_t failed = net->readout.failed | net->readout_bias.failed;
    net->readout.failed = net->readout_bias.failed = 0;
    for (int64_t l = 0; l < net->n_layers; l++) {
        sn_layer *layer = net->layers + l;
        failed |= layer->hidden.failed | layer->gate.failed | layer->expert.failed;
        layer->hidden.failed = layer->gate.failed = layer->expert.failed = 0;
    }
    return failed;
}

/* Mini-batch steps over all examples.
   OUT loss, penalty: sums over mini-batches of the mean cross-entropy times rows, and
   of the penalties times rows. Returns -1, or the index of the first mini-batch whose
   loss is not finite or that left weights that are not; nothing after it is computed. */
static int64_t train(double *loss, double *penalty, sn_network *net,
                     const sn_examples *examples, int32_t n_threads)
{
    *loss = *penalty = 0.0;
    sn_draw draw = {{net->key[0], net->key[1]}, examples->step, 0, SN_TRAINING, 0};
    const float alpha = net->main.decay, gater_alpha = net->gater.decay;
    int64_t failed = -1;
    for (int64_t first = 0; first < examples->n && failed < 0; draw.step++) {
        const int64_t n_rows = smaller(examples->batch_size, examples->n - first);
        net->main.decay = alpha / (float)n_rows;
        net->gater.decay = gater_alpha / (float)n_rows;
        double start;
        const int32_t threads = paced_threads(net, n_rows, n_threads, &start);
        (void)threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
        train_batch(net, examples, first, n_rows, &draw);
        if (n_rows == examples->batch_size)
            end_pass(&net->pace, n_rows, n_threads, start);
        double sum = 0.0;
        for (int64_t b = 0; b < n_rows; b++)
            sum += (double)net->loss[b];
        if (weights_failed(net) || !isfinite(sum))
            failed = (int64_t)(draw.step - examples->step);
        *loss += sum;
        for (int64_t l = 0; l < net->n_layers; l++)
            for (int64_t k = 0; k < net->layers[l].n_gates; k++)
                *penalty += (double)net->layers[l].penalty_value[k] * (double)n_rows;
        first += n_rows;
    }
    net->main.decay = alpha;
    net->gater.decay = gater_alpha;
    return failed;
}

/* Class probabilities of n_rows <= ld_rows rows, deterministic, or with gates sampled
   where `draw` is given. A row's bits depend on the row alone. The layers' h and rows are
   left in place where `keeps_gates`; else the last layer's are lost.
   OUT probability (n_rows, n_classes). IN X (n_rows, n_inputs). */
static void predict(float *probability, sn_network *net, const float *X, int64_t n_rows,
                    const sn_draw *draw, int keeps_gates, int32_t n_threads)
{
    double start;
    const int32_t threads = paced_threads(net, n_rows, n_threads, &start);
    (void)threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        sn_pass pass = start_pass(net, n_rows, draw, 0);
        pass.keeps_gates = keeps_gates;
        copy_rows(net, X, NULL, NULL, &pass);
        for (int64_t l = 0; l < net->n_layers; l++)
            layer_forward(net, l, &pass);
        readout_forward(net, n_rows, 0, pass.n_threads);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < n_rows; b++)
            memcpy(probability + b * net->n_classes, net->logits + b * net->ld_classes,
                   (size_t)net->n_classes * sizeof *probability);
    }
    end_pass(&net->pace, n_rows, n_threads, start);
}

/* The scores a that prediction compares with layer `l`'s threshold, left in that
   layer's `a`, (K, ld_rows). Layers below are thresholded as at prediction; the layer's
   own experts are not computed. */
static void scores(sn_network *net, int64_t l, const float *X, int64_t n_rows,
                   int32_t n_threads)
{
    const int32_t threads = useful_threads(net, n_rows, n_threads);
    (void)threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        sn_pass pass = start_pass(net, n_rows, NULL, 0);
        copy_rows(net, X, NULL, NULL, &pass);
        for (int64_t i = 0; i < l; i++)
            layer_forward(net, i, &pass);
        hidden_forward(net, l, &pass);
        sn_layer *layer = net->layers + l;
        const int64_t n_blocks = sn_block_count(layer);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < n_blocks; block++) {
            const sn_part gates = sn_block_at(layer, block);
            gate_products(net, layer, gates.first, gates.end, &pass);
            for (int64_t k = gates.first; k < gates.end; k++) {
                gate_value_input(layer, k, n_rows, net->ld_rows);
                gate_score(layer, k, n_rows, net->ld_rows);
            }
        }
    }
}

/* Initial weights, uniform on +-limit; threads share the units where waking them pays.
   OUT w (n_units, ld_w): n weights of each, then zeros. ld_w a multiple of SN_PAD. */
static void uniform_weights(float *restrict w, int64_t ld_w, const sn_draw *draw,
                            float limit, int64_t n_units, int64_t n, int32_t n_threads)
{
    enum { FEW = 1 << 18 };
    const int is_shared = n_threads > 1 && n_units * ld_w > FEW;
    (void)is_shared;
#pragma omp parallel for schedule(static) num_threads(n_threads) if (is_shared)
    for (int64_t unit = 0; unit < n_units; unit++) {
        float *row = w + unit * ld_w;
        uniform(row, draw, SN_WEIGHTS, (uint32_t)unit, ld_w);
        for (int64_t d = 0; d < n; d++)
            row[d] = limit * (2.0f * row[d] - 1.0f);
        for (int64_t d = n; d < ld_w; d++)
            row[d] = 0.0f;
    }
}
