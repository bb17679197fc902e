/* One mini-batch through the whole network, and how threads share it.
 *
 * Everything below `train` and `predict` is called by all threads of one parallel
 * region, and each loop marked `omp for` shares out its panels, blocks or rows and ends
 * in a barrier. Results are the same bits for any number of threads, because
 *   - panels and blocks depend on shapes only, and one thread does all of one;
 *   - a sum over units or rows runs within one panel, in ascending order, or over the
 *     fixed blocks of `partials`, in ascending order;
 *   - there is no atomic and no reduction clause.
 * Outside a parallel region, and in a build without OpenMP, the same code runs serially.
 *
 * Training, for each layer upwards: U = tanh(x Wb' + bb); a = Wg U'; then unit by unit:
 * noise, gate, active rows, penalty, experts of the active rows, readout. Downwards:
 * unit by unit: gradient of H and h, estimator, the readout's and the expert's update
 * while its row is in cache; then the gater's two dense layers, panel by panel.
 */
#include "stochnet.h"
#include "vector.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* Most columns and rows of a panel of a dense layer. */
enum { PANEL_COLUMNS = 256, PANEL_ROWS = 256 };

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Width of nearly equal panels of at most PANEL_COLUMNS of n columns, at least two
   panels where there is enough to share. */
static int64_t panel_width(int64_t n)
{
    const int64_t panels = smaller(1 + (n - 1) / PANEL_COLUMNS, n) + (n <= PANEL_COLUMNS);
    return padded((n + panels - 1) / panels);
}

/* U = tanh(x Wb' + bb), (B, M) */
static void hidden_forward(sn_layer *layer, const float *x, int64_t n_rows)
{
    const int64_t width = panel_width(layer->n_hidden), ld = layer->ld_hidden;
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t first = 0; first < n_rows; first += PANEL_ROWS)
        for (int64_t m = 0; m < layer->n_hidden; m += width) {
            const int64_t n = smaller(width, layer->n_hidden - m);
            const int64_t rows = smaller(PANEL_ROWS, n_rows - first);
            float *U = layer->hidden_output + first * ld + m;
            dense_forward(U, 1, ld, layer->hidden.weight + m * layer->ld_inputs,
                          layer->ld_inputs, n, x + first * layer->ld_inputs,
                          layer->ld_inputs, rows, layer->ld_inputs);
            for (int64_t b = 0; b < rows; b++) {
                for (int64_t i = 0; i < n; i++)
                    U[b * ld + i] += layer->hidden.bias[m + i];
                tanh_row(U + b * ld, padded(n));
            }
        }
}

/* out (K, B) = W x' for a group of K units: gates on U, or all experts on x */
static void unit_major_forward(float *out, int64_t ld, const sn_parameters *p,
                               const float *x, int64_t n_rows)
{
    const int64_t width = panel_width(p->n_rows);
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t first = 0; first < n_rows; first += PANEL_ROWS)
        for (int64_t k = 0; k < p->n_rows; k += width)
            dense_forward(out + k * ld + first, ld, 1, p->weight + k * p->ld, p->ld,
                          smaller(width, p->n_rows - k), x + first * p->ld, p->ld,
                          smaller(PANEL_ROWS, n_rows - first), p->ld);
}

/* partial (B, ld_classes) += h H V_k for the active rows of unit k */
static void readout_unit(const sn_network *net, float *partial, const sn_layer *layer,
                         int64_t k)
{
    const int64_t ld = net->ld_classes, first = k * net->ld_rows;
    const float *V = net->readout.weight + k * ld;
    for (int32_t j = 0; j < layer->count[k]; j++) {
        const int32_t b = layer->rows[first + j];
        const float y = layer->h[first + b] * layer->expert_output[first + b];
        for (int64_t c = 0; c < ld; c += SN_LANES)
            sn_store(partial + b * ld + c,
                     sn_load(partial + b * ld + c) + y * sn_load(V + c));
    }
}

/* y (B, K) = h H, zero where a gate is */
static void write_output(sn_layer *layer, int64_t n_rows, int64_t ld_rows)
{
#pragma omp for schedule(static)
    for (int64_t first = 0; first < n_rows; first += SN_PAD)
        for (int64_t k = 0; k < layer->n_units; k++)
            for (int64_t b = first; b < smaller(first + SN_PAD, n_rows); b++) {
                const float h = layer->h[k * ld_rows + b];
                layer->output[b * layer->ld_units + k] =
                    h != 0.0f ? h * layer->expert_output[k * ld_rows + b] : 0.0f;
            }
}

typedef struct {
    int64_t n_rows;
    const sn_draw *draw; /* NULL: deterministic */
    int training;
    gate_scratch gate;
    float *row;     /* gradient of one expert's row */
    float *panel;   /* UPDATE_ROWS gradients of dense rows, or of pre-activations */
} sn_pass;

/* Gates and experts of one layer, block by block, and their part of the readout. */
static void units_forward(sn_network *net, int64_t l, const float *x, const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    const int64_t ld = net->ld_rows, width = sn_block_width(layer->n_units);
    const int last = l == net->n_layers - 1;
    const int dense = pass->training && layer->credit == SN_CREDIT_ALL;
#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < layer->n_units; first += width) {
        float *partial = net->partials + first / width * net->ld_rows * net->ld_classes;
        if (last)
            memset(partial, 0, (size_t)(pass->n_rows * net->ld_classes) * sizeof *partial);
        for (int64_t k = first; k < smaller(first + width, layer->n_units); k++) {
            float *H = layer->expert_output + k * ld;
            if (pass->draw) {
                const sn_unit_row row =
                    gate_forward(layer, k, pass->n_rows, ld, pass->draw, &pass->gate);
                if (pass->training)
                    gate_penalty(layer, k, pass->n_rows, ld, &row, &pass->gate);
            } else {
                gate_predict(layer, k, pass->n_rows, ld);
            }
            if (dense) {
                for (int64_t b = 0; b < pass->n_rows; b++)
                    H[b] += layer->expert.bias[k];
                layer->reads[k] += pass->n_rows;
            } else {
                expert_forward(H, layer->reads, x, layer->ld_inputs, &layer->expert, k,
                               layer->rows + k * ld, layer->count[k]);
            }
            if (last)
                readout_unit(net, partial, layer, k);
        }
    }
    if (!last)
        write_output(layer, pass->n_rows, ld);
}

/* a (K, B) without gate biases */
static void gater_forward(const sn_network *net, sn_layer *layer, const float *x,
                          int64_t n_rows)
{
    hidden_forward(layer, x, n_rows);
    unit_major_forward(layer->a, net->ld_rows, &layer->gate, layer->hidden_output, n_rows);
}

static void layer_forward(sn_network *net, int64_t l, const float *x, sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    sn_draw draw;
    sn_pass own = *pass;
    if (pass->draw) {
        draw = *pass->draw;
        draw.layer = (uint32_t)l;
        own.draw = &draw;
    }
    gater_forward(net, layer, x, pass->n_rows);
    if (pass->training && layer->credit == SN_CREDIT_ALL)
        unit_major_forward(layer->expert_output, net->ld_rows, &layer->expert, x,
                           pass->n_rows);
    units_forward(net, l, x, &own);
}

static const float *layer_input(const sn_network *net, int64_t l)
{
    return l == 0 ? net->input : net->layers[l - 1].output;
}

/* Sums the readout's blocks in order, softmax, and in training loss and gradient. */
static void readout_forward(sn_network *net, const sn_pass *pass)
{
    const int64_t ld = net->ld_classes, n_rows = pass->n_rows;
    const sn_layer *layer = net->layers + net->n_layers - 1;
    const int64_t blocks = sn_block_count(layer->n_units);
    const float scale = 1.0f / (float)n_rows;
#pragma omp for schedule(static)
    for (int64_t b = 0; b < n_rows; b++) {
        float *logits = net->logits + b * ld, *gradient = net->logit_gradient + b * ld;
        memcpy(logits, net->readout_bias.weight, (size_t)ld * sizeof *logits);
        for (int64_t block = 0; block < blocks; block++) {
            const float *partial = net->partials + (block * net->ld_rows + b) * ld;
            for (int64_t c = 0; c < ld; c++)
                logits[c] += partial[c];
        }
        net->loss[b] = cross_entropy(logits, gradient, pass->training ? net->target[b] : -1,
                                     scale, net->n_classes);
        if (pass->training)
            for (int64_t c = 0; c < net->n_classes; c++)
                net->logit_gradient_t[c * net->ld_rows + b] = gradient[c];
    }
}

/* dL/dy of unit k: from the readout, or from the layer above.
   OUT g (n_rows), the rest of the row cleared. */
static void output_gradient(float *restrict g, const sn_network *net, int64_t l,
                            int64_t k, int64_t n_rows)
{
    const sn_layer *layer = net->layers + l;
    const int64_t n = padded(n_rows);
    for (int64_t b = 0; b < n; b++)
        g[b] = 0.0f;
    if (l < net->n_layers - 1) {
        for (int64_t b = 0; b < n_rows; b++)
            g[b] = layer->output_gradient[b * layer->ld_units + k];
        return;
    }
    for (int64_t c = 0; c < net->n_classes; c++) {
        const float v = net->readout.weight[k * net->ld_classes + c];
        const float *column = net->logit_gradient_t + c * net->ld_rows;
        for (int64_t b = 0; b < n_rows; b++)
            g[b] += v * column[b];
    }
}

/* dV_k = sum of h H dL/dlogits over the active rows, then its update. */
static void update_readout(sn_network *net, const sn_layer *layer, int64_t k,
                           float *gradient)
{
    const int64_t ld = net->ld_classes, first = k * net->ld_rows;
    memset(gradient, 0, (size_t)ld * sizeof *gradient);
    for (int32_t j = 0; j < layer->count[k]; j++) {
        const int32_t b = layer->rows[first + j];
        const float y = layer->h[first + b] * layer->expert_output[first + b];
        for (int64_t c = 0; c < ld; c++)
            gradient[c] += y * net->logit_gradient[b * ld + c];
    }
    sn_optimizer optimizer = net->main;
    optimizer.max_norm = 0.0f; /* the softmax layer has none (App. A.4) */
    update_row(&net->readout, k, gradient, 0.0f, &optimizer);
}

/* Expert k's update from dH, which is left in layer->expert_output and may be lost. */
static void update_expert(sn_network *net, sn_layer *layer, int64_t k, const float *x,
                          float *gradient)
{
    sn_parameters *expert = &layer->expert;
    float *dH = layer->expert_output + k * net->ld_rows, *out = gradient;
    const int32_t *rows = layer->rows + k * net->ld_rows, count = layer->count[k];
    const int plain = is_plain_sgd(expert, &net->main);
    if (count == 0 || is_frozen(&net->main))
        return;
    float bias_gradient = 0.0f;
    for (int32_t j = 0; j < count; j++)
        bias_gradient += dH[rows[j]];
    if (plain) {
        out = expert->weight + k * expert->ld;
        begin_plain(expert, k, &net->main);
        for (int32_t j = 0; j < count; j++)
            dH[rows[j]] *= -net->main.learning_rate;
    } else {
        memset(out, 0, (size_t)expert->ld * sizeof *out);
    }
    expert_sum(out, dH, x, expert->ld, expert->ld, rows, count);
    if (plain)
        end_plain(expert, k, bias_gradient, &net->main);
    else
        update_row(expert, k, gradient, bias_gradient, &net->main);
}

/* Unit k's gradients of h (OUT dh, cleared by the caller) and of H (left in its place),
   from the gradient of the layer's output; then the update of its row of the readout. */
static void unit_backward(sn_network *net, int64_t l, int64_t k, float *dh,
                          const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    const int64_t ld = net->ld_rows, n_rows = pass->n_rows;
    const float *h = layer->h + k * ld;
    const int32_t *rows = layer->rows + k * ld, count = layer->count[k];
    float *H = layer->expert_output + k * ld, *g = pass->gate.output_gradient;
    output_gradient(g, net, l, k, n_rows);
    if (l == net->n_layers - 1 && count > 0)
        update_readout(net, layer, k, pass->row);
    if (layer->credit == SN_CREDIT_ALL)
        for (int64_t b = 0; b < n_rows; b++)
            dh[b] = g[b] * H[b];
    else
        for (int32_t j = 0; j < count; j++)
            dh[rows[j]] = g[rows[j]] * H[rows[j]];
    for (int32_t j = 0; j < count; j++)
        H[rows[j]] = g[rows[j]] * h[rows[j]];
}

/* Unit by unit: gradients of H and h, the estimator, the updates that nothing below
   waits for. Leaves da in layer->da and dH in layer->expert_output. */
static void units_backward(sn_network *net, int64_t l, const float *x, const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    const int64_t ld = net->ld_rows, n_rows = pass->n_rows;
    const int64_t width = sn_block_width(layer->n_units);
#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < layer->n_units; first += width)
        for (int64_t k = first; k < smaller(first + width, layer->n_units); k++) {
            float *dh = pass->gate.noisy;
            memset(dh, 0, (size_t)padded(n_rows) * sizeof *dh);
            if (layer->credit == SN_CREDIT_ALL || layer->count[k] > 0)
                unit_backward(net, l, k, dh, pass);
            gate_backward(layer, k, n_rows, ld, dh, net->loss, &pass->gate);
            if (l == 0)
                update_expert(net, layer, k, x, pass->row);
        }
}

/* dL/dx through the experts, a panel of inputs at a time, experts ascending; then the
   experts' update, which had to wait for it. */
static void experts_input_gradient(sn_network *net, int64_t l, const float *x, float *dx,
                                   const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    const int64_t ld = net->ld_rows, ld_x = layer->ld_inputs;
    const int64_t width = panel_width(ld_x);
#pragma omp for schedule(dynamic)
    for (int64_t d = 0; d < ld_x; d += width) {
        const int64_t end = smaller(d + width, ld_x);
        for (int64_t b = 0; b < pass->n_rows; b++)
            memset(dx + b * ld_x + d, 0, (size_t)(end - d) * sizeof *dx);
        for (int64_t k = 0; k < layer->n_units; k++)
            expert_input_gradient(dx, ld_x, &layer->expert, k, layer->expert_output + k * ld,
                                  layer->rows + k * ld, layer->count[k], d, end);
    }
    const int64_t block = sn_block_width(layer->n_units);
#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < layer->n_units; first += block)
        for (int64_t k = first; k < smaller(first + block, layer->n_units); k++)
            update_expert(net, layer, k, x, pass->row);
}

/* du = (da' Wg) (1 - U^2), (B, M) */
static void hidden_backward(const sn_network *net, sn_layer *layer, int64_t n_rows)
{
    const int64_t width = panel_width(layer->n_hidden), ld = layer->ld_hidden;
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t first = 0; first < n_rows; first += PANEL_ROWS)
        for (int64_t m = 0; m < layer->n_hidden; m += width) {
            const int64_t n = smaller(width, layer->n_hidden - m);
            const int64_t rows = smaller(PANEL_ROWS, n_rows - first);
            float *du = layer->hidden_gradient + first * ld + m;
            const float *U = layer->hidden_output + first * ld + m;
            const int64_t n_padded = padded(n);
            for (int64_t b = 0; b < rows; b++)
                memset(du + b * ld, 0, (size_t)n_padded * sizeof *du);
            dense_sum(du, ld, layer->da + first, 1, net->ld_rows, rows,
                      layer->gate.weight + m, ld, layer->n_units, n_padded);
            for (int64_t b = 0; b < rows; b++)
                for (int64_t i = 0; i < n; i++)
                    du[b * ld + i] *= 1.0f - U[b * ld + i] * U[b * ld + i];
        }
}

/* dL/dx += du Wb: the part of it that goes through the gater */
static void gater_input_gradient(const sn_layer *layer, float *dx, int64_t n_rows)
{
    const int64_t ld = layer->ld_inputs, width = panel_width(ld);
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t first = 0; first < n_rows; first += PANEL_ROWS)
        for (int64_t d = 0; d < ld; d += width)
            dense_sum(dx + first * ld + d, ld,
                      layer->hidden_gradient + first * layer->ld_hidden,
                      layer->ld_hidden, 1, smaller(PANEL_ROWS, n_rows - first),
                      layer->hidden.weight + d, ld, layer->n_hidden,
                      smaller(width, ld - d));
}

/* Update of `width` units of a dense layer, from the gradient c of their
   pre-activations, at c + i * ld_unit + b * ld_row, and the layer's input v. */
static void update_dense(sn_parameters *p, int64_t first, int64_t width,
                         const sn_optimizer *optimizer, const float *c, int64_t ld_unit,
                         int64_t ld_row, const float *v, const sn_pass *pass)
{
    const int64_t ld = p->ld, n_rows = pass->n_rows;
    const int plain = is_plain_sgd(p, optimizer);
    float *scratch = pass->panel, bias_gradient[UPDATE_ROWS] = {0.0f};
    if (is_frozen(optimizer))
        return;
    for (int64_t i = 0; i < width; i++)
        for (int64_t b = 0; b < n_rows; b++)
            bias_gradient[i] += c[i * ld_unit + b * ld_row];
    if (plain) {
        for (int64_t i = 0; i < width; i++) {
            begin_plain(p, first + i, optimizer);
            for (int64_t b = 0; b < n_rows; b++)
                scratch[i * n_rows + b] =
                    -optimizer->learning_rate * c[i * ld_unit + b * ld_row];
        }
        dense_sum(p->weight + first * ld, ld, scratch, n_rows, 1, width, v, ld, n_rows,
                  ld);
    } else {
        memset(scratch, 0, (size_t)(width * ld) * sizeof *scratch);
        dense_sum(scratch, ld, c, ld_unit, ld_row, width, v, ld, n_rows, ld);
    }
    for (int64_t i = 0; i < width; i++)
        if (plain)
            end_plain(p, first + i, bias_gradient[i], optimizer);
        else
            update_row(p, first + i, scratch + i * ld, bias_gradient[i], optimizer);
}

/* The gater's two dense layers, UPDATE_ROWS units at a time; with the gates, the control
   of their firing rate. */
static void update_gater(sn_network *net, sn_layer *layer, const float *x,
                         const sn_pass *pass)
{
#pragma omp for schedule(dynamic)
    for (int64_t k = 0; k < layer->n_units; k += UPDATE_ROWS) {
        const int64_t width = smaller(UPDATE_ROWS, layer->n_units - k);
        update_dense(&layer->gate, k, width, &net->gater, layer->da + k * net->ld_rows,
                     net->ld_rows, 1, layer->hidden_output, pass);
        for (int64_t i = 0; i < width; i++)
            control_firing_rate(layer, k + i, pass->n_rows);
    }
#pragma omp for schedule(dynamic)
    for (int64_t m = 0; m < layer->n_hidden; m += UPDATE_ROWS)
        update_dense(&layer->hidden, m, smaller(UPDATE_ROWS, layer->n_hidden - m),
                     &net->gater, layer->hidden_gradient + m, 1, layer->ld_hidden, x,
                     pass);
}

static void layer_backward(sn_network *net, int64_t l, const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    const float *x = layer_input(net, l);
    units_backward(net, l, x, pass);
    hidden_backward(net, layer, pass->n_rows);
    if (l > 0) {
        float *dx = net->layers[l - 1].output_gradient;
        experts_input_gradient(net, l, x, dx, pass);
        gater_input_gradient(layer, dx, pass->n_rows);
    }
    update_gater(net, layer, x, pass);
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
}

static void copy_rows(const sn_network *net, const float *X, const int32_t *y,
                      const int64_t *order, int64_t n_rows)
{
    const int64_t n = net->layers->n_inputs, ld = net->layers->ld_inputs;
#pragma omp for schedule(static)
    for (int64_t b = 0; b < n_rows; b++) {
        const int64_t source = order ? order[b] : b;
        memcpy(net->input + b * ld, X + source * n, (size_t)n * sizeof *X);
        if (y)
            net->target[b] = y[source];
    }
}

static sn_pass start_pass(const sn_network *net, int64_t n_rows, const sn_draw *draw,
                          int training)
{
    int64_t thread = 0;
#ifdef _OPENMP
    thread = omp_get_thread_num();
#endif
    float *scratch = net->scratch + thread * net->scratch_size;
    sn_pass pass = {.n_rows = n_rows, .draw = draw, .training = training};
    pass.gate = gate_scratch_of(scratch, net->ld_rows);
    pass.row = scratch + GATE_SCRATCH_ROWS * net->ld_rows;
    pass.panel = pass.row + sn_longest_row(net);
    return pass;
}

static void train_batch(sn_network *net, const sn_examples *examples, int64_t first,
                        int64_t n_rows, const sn_draw *draw)
{
    const int64_t *order = examples->order ? examples->order + first : NULL;
    const int64_t from = order ? 0 : first;
    sn_pass pass = start_pass(net, n_rows, draw, 1);
    copy_rows(net, examples->X + from * net->layers->n_inputs, examples->y + from, order,
              n_rows);
    for (int64_t l = 0; l < net->n_layers; l++)
        layer_forward(net, l, layer_input(net, l), &pass);
    readout_forward(net, &pass);
    for (int64_t l = net->n_layers - 1; l >= 0; l--)
        layer_backward(net, l, &pass);
#pragma omp single
    {
        update_readout_bias(net, n_rows, pass.row);
        for (int64_t l = 0; l < net->n_layers; l++)
            adapt_penalty_weight(net->layers + l, n_rows);
    }
}

/* A small step is serial: its ten barriers would cost as much as a second thread saves,
   and far more where other programs share the machine and a barrier has to wait for a
   thread that is not running. This many multiplications take about 0.2 ms. */
enum { SERIAL_WORK = 4000000 };

static int32_t useful_threads(const sn_network *net, int64_t n_rows, int32_t n_threads)
{
    int64_t work = 0;
    for (int64_t l = 0; l < net->n_layers; l++) {
        const sn_layer *layer = net->layers + l;
        work += layer->n_hidden * (layer->n_inputs + layer->n_units) + layer->n_units;
    }
    return n_rows * work < SERIAL_WORK ? 1 : n_threads;
}

/* Mini-batch steps over all examples.
   OUT loss, penalty: sums over mini-batches of the mean cross-entropy times rows, and
   of the penalties times rows. Returns -1, or the index of the first mini-batch whose
   loss is not finite; nothing after it is computed. */
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
        const int32_t threads = useful_threads(net, n_rows, n_threads);
        (void)threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
        train_batch(net, examples, first, n_rows, &draw);
        double sum = 0.0;
        for (int64_t b = 0; b < n_rows; b++)
            sum += (double)net->loss[b];
        if (!isfinite(sum))
            failed = (int64_t)(draw.step - examples->step);
        *loss += sum;
        for (int64_t l = 0; l < net->n_layers; l++)
            for (int64_t k = 0; k < net->layers[l].n_units; k++)
                *penalty += (double)net->layers[l].penalty_value[k] * (double)n_rows;
        first += n_rows;
    }
    net->main.decay = alpha;
    net->gater.decay = gater_alpha;
    return failed;
}

/* Class probabilities of n_rows <= ld_rows rows, deterministic, or with gates sampled
   where `draw` is given. A row's bits depend on the row alone.
   OUT probability (n_rows, n_classes). IN X (n_rows, n_inputs). */
static void predict(float *probability, sn_network *net, const float *X, int64_t n_rows,
                    const sn_draw *draw, int32_t n_threads)
{
    const int32_t threads = useful_threads(net, n_rows, n_threads);
    (void)threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        sn_pass pass = start_pass(net, n_rows, draw, 0);
        copy_rows(net, X, NULL, NULL, n_rows);
        for (int64_t l = 0; l < net->n_layers; l++)
            layer_forward(net, l, layer_input(net, l), &pass);
        readout_forward(net, &pass);
    }
    for (int64_t b = 0; b < n_rows; b++)
        memcpy(probability + b * net->n_classes, net->logits + b * net->ld_classes,
               (size_t)net->n_classes * sizeof *probability);
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
        copy_rows(net, X, NULL, NULL, n_rows);
        for (int64_t i = 0; i < l; i++)
            layer_forward(net, i, layer_input(net, i), &pass);
        gater_forward(net, net->layers + l, layer_input(net, l), n_rows);
#pragma omp for schedule(static)
        for (int64_t k = 0; k < net->layers[l].n_units; k++) {
            gate_value_input(net->layers + l, k, n_rows, net->ld_rows);
            gate_score(net->layers + l, k, n_rows, net->ld_rows);
        }
    }
}
