/* Gates over a mini-batch: noise, unit, active rows, penalty. Functions of a strip work on
 * the rows of several successive gates at once, because the rows of a small mini-batch are
 * too short to keep the vector units busy.
 */
#include "stochnet.h"
#include "vector.h"

/* Adds the rows from `first` on whose bit is set to the list. Returns its length. */
static int32_t list_rows(int32_t *rows, int32_t count, int64_t first, uint32_t bits,
                         int64_t n_rows)
{
    if (n_rows - first < 16)
        bits &= (1u << (n_rows - first)) - 1u;
    return count + sn_list_bits(rows + count, (int32_t)first, bits);
}

/* Rows with a non-zero gate, ascending.
   OUT rows (n_rows), returns how many. IN h (n_rows, padded). */
static int32_t active_rows(int32_t *rows, const float *h, int64_t n_rows)
{
    int32_t count = 0;
    for (int64_t b = 0; b < n_rows; b += 16)
        count = list_rows(rows, count, b, sn_different(h + b, 0.0f), n_rows);
    return count;
}

/* The same for rows with a score above the threshold. A few are compared one by one: a
   vector would wait for what has just been written of it. */
static int32_t rows_above(int32_t *rows, const float *a, float threshold, int64_t n_rows)
{
    enum { FEW = 4 };
    int32_t count = 0;
    if (n_rows <= FEW) {
        for (int32_t b = 0; b < (int32_t)n_rows; b++) {
            rows[count] = b;
            count += a[b] > threshold;
        }
        return count;
    }
    for (int64_t b = 0; b < n_rows; b += 16)
        count = list_rows(rows, count, b, sn_above(a + b, threshold), n_rows);
    return count;
}

static int32_t all_rows(int32_t *rows, int64_t n_rows)
{
    for (int32_t b = 0; b < (int32_t)n_rows; b++)
        rows[b] = b;
    return (int32_t)n_rows;
}

/* The padding is finite, so that row functions may run over it. */
static void clear_padding(float *a, int64_t n_rows)
{
    for (int64_t b = n_rows; b < padded(n_rows); b++)
        a[b] = 0.0f;
}

static void shift(float *a, float by, int64_t n_rows)
{
    if (by != 0.0f)
        for (int64_t b = 0; b < n_rows; b++)
            a[b] += by;
}

/* Scratch rows of a thread, (GATE_SCRATCH_ROWS, sn_strip_length). */
typedef struct {
    float *z, *noisy, *probability, *probability_slope, *slope, *output_gradient;
} gate_scratch;

static gate_scratch gate_scratch_of(float *scratch, int64_t length)
{
    return (gate_scratch){scratch,
                          scratch + length,
                          scratch + 2 * length,
                          scratch + 3 * length,
                          scratch + 4 * length,
                          scratch + 5 * length};
}

/* Successive gates, with rows that lie ld_rows apart. */
typedef struct {
    int64_t first, n_gates, n_rows, ld_rows;
} gate_strip;

/* Gates of a strip that starts at `first`: rows without a gap between them, and as many
   as the scratch rows hold. */
static gate_strip strip_from(int64_t first, int64_t end, int64_t n_rows, int64_t ld_rows)
{
    const int64_t most = padded(n_rows) == ld_rows ? STRIP / ld_rows : 1;
    const int64_t n = most < 1 ? 1 : most < end - first ? most : end - first;
    return (gate_strip){first, n, n_rows, ld_rows};
}

/* Length of the strip's rows together, or of its only one. */
static int64_t strip_length(const gate_strip *strip)
{
    return strip->n_gates == 1 ? padded(strip->n_rows) : strip->n_gates * strip->ld_rows;
}

/* Noise on the input of the gates (App. A.2): on the draw alone, or on all of it, in
   which case `a` itself becomes the noisy pre-activation. */
static void add_gate_noise(sn_unit_row *row, float *restrict a, float *restrict noisy,
                           const sn_draw *draw, const gate_strip *strip)
{
    additive(noisy, row->noise, draw, (uint32_t)strip->first, strip->n_gates,
             padded(strip->n_rows));
    float *target = row->noise->draw_only ? noisy : a;
    for (int64_t b = 0; b < row->n; b++)
        target[b] = a[b] + noisy[b];
    row->a_draw = target;
}

/* OUT z, one row for each gate of the strip. */
static void draw_noise(float *z, const sn_unit *unit, const sn_noise *noise,
                       const sn_draw *draw, const gate_strip *strip)
{
    const int64_t n = padded(strip->n_rows);
    const uint32_t first = (uint32_t)strip->first;
    if (unit->z == SN_Z_UNIFORM)
        uniforms(z, draw, SN_UNIFORM, first, strip->n_gates, n);
    if (unit->z == SN_Z_ADDITIVE)
        additive(z, noise, draw, first, strip->n_gates, n);
}

/* Gates of a strip as they fire in training: h = f(a, z), Eq. 1.
   IN layer->a. OUT layer->a as the value saw it, layer->h, layer->rows and count;
   scratch->probability and its slope; returns the strip's row for what follows. */
static sn_unit_row gate_forward(sn_layer *layer, const gate_strip *strip,
                                const sn_draw *draw, const gate_scratch *scratch)
{
    const sn_unit *unit = unit_table[layer->unit];
    const sn_noise *noise = &layer->noise;
    const int64_t ld = strip->ld_rows, n_rows = strip->n_rows;
    float *a = layer->a + strip->first * ld, *h = layer->h + strip->first * ld;
    for (int64_t i = 0; i < strip->n_gates; i++)
        clear_padding(a + i * ld, n_rows);
    sn_unit_row row = {strip_length(strip), a, a, scratch->z, scratch->probability, noise,
                       layer->temperature};
    draw_noise(scratch->z, unit, noise, draw, strip);
    if (unit->gate_noise && (noise->additive || noise->quantiles))
        add_gate_noise(&row, a, scratch->noisy, draw, strip);
    unit->probability(scratch->probability, scratch->probability_slope, &row);
    unit->forward(h, &row);
    for (int64_t k = strip->first; k < strip->first + strip->n_gates; k++) {
        int32_t *rows = layer->rows + k * ld;
        layer->count[k] = unit->always_fires ? all_rows(rows, n_rows)
                                             : active_rows(rows, layer->h + k * ld, n_rows);
    }
    return row;
}

/* Prediction replaces noise by its mean (App. A.3), in two steps. First a row k becomes
   what the gate's value sees, which noise on the draw alone never reaches; */
static void gate_value_input(sn_layer *layer, int64_t k, int64_t n_rows, int64_t ld_rows)
{
    shift(layer->a + k * ld_rows, layer->noise.draw_only ? 0.0f : layer->noise.mean,
          n_rows);
}

/* then the score that is compared with the threshold. */
static void gate_score(sn_layer *layer, int64_t k, int64_t n_rows, int64_t ld_rows)
{
    if (layer->noise.draw_only)
        shift(layer->a + k * ld_rows, layer->noise.mean, n_rows);
}

/* h of gates that fire, all of them. */
static void gate_value(float *h, const sn_unit *unit, int32_t choice,
                       const sn_unit_row *row, float *a, int64_t n_rows)
{
    clear_padding(a, n_rows);
    unit->value(h, choice, row);
}

/* Gates of unit k at prediction: at or below the layer's threshold they are zero. */
static void gate_predict(sn_layer *layer, int64_t k, int64_t n_rows, int64_t ld_rows)
{
    const sn_unit *unit = unit_table[layer->unit];
    float *a = layer->a + k * ld_rows, *h = layer->h + k * ld_rows;
    int32_t *rows = layer->rows + k * ld_rows;
    const sn_unit_row row = {padded(n_rows), a, a, a, a, &layer->noise,
                             layer->temperature};
    gate_value_input(layer, k, n_rows, ld_rows);
    if (layer->noise.draw_only)
        gate_value(h, unit, layer->value, &row, a, n_rows);
    gate_score(layer, k, n_rows, ld_rows);
    const int32_t count = unit->always_fires
                              ? all_rows(rows, n_rows)
                              : rows_above(rows, a, layer->threshold, n_rows);
    layer->count[k] = count;
    if (count > 0 && !layer->noise.draw_only)
        gate_value(h, unit, layer->value, &row, a, n_rows);
    if (!unit->always_fires)
        for (int64_t b = 0; b < n_rows; b++) /* without branches: they are random */
            h[b] = sn_float_of(sn_bits_of(h[b]) & (0u - (a[b] > layer->threshold)));
}

/* layer->da = gradient of the penalty; the estimator adds to it later. Done in the
   forward pass, while the firing probability of the noisy pre-activation is known. */
static void gate_penalty(sn_layer *layer, const gate_strip *strip,
                         const sn_unit_row *unit_row, const gate_scratch *scratch)
{
    const int64_t ld = strip->ld_rows;
    float *da = layer->da + strip->first * ld;
    float *value = layer->penalty_value + strip->first;
    if (layer->penalty < 0) {
        memset(da, 0, (size_t)unit_row->n * sizeof *da);
        memset(value, 0, (size_t)strip->n_gates * sizeof *value);
        return;
    }
    const sn_unit *unit = unit_table[layer->unit];
    const float *h = layer->h + strip->first * ld;
    sn_penalty_row row = {strip->n_gates, ld, padded(strip->n_rows), strip->n_rows, h, NULL,
                          scratch->probability, NULL, *layer->penalty_weight,
                          layer->density};
    if (unit->smooth_probability)
        row.dp_da = scratch->probability_slope;
    if (unit->derivative) {
        unit->derivative(scratch->slope, h, unit_row);
        row.dh_da = scratch->slope;
    }
    penalty_table[layer->penalty]->gradient(da, value, &row);
}

/* Rows whose gradient reaches gate k: those where it fired, and each other one with
   probability probe_rate. OUT layer->credited and n_credited. IN u (n_rows). */
static void list_credited(sn_layer *layer, int64_t k, int64_t n_rows, int64_t ld_rows,
                          const float *u)
{
    const float *h = layer->h + k * ld_rows;
    int32_t count = 0;
    for (int64_t b = 0; b < n_rows; b += 16) {
        const uint32_t skipped = sn_above(u + b, layer->probe_rate);
        const uint32_t bits = sn_different(h + b, 0.0f) | (~skipped & 0xFFFFu);
        count = list_rows(layer->credited + k * ld_rows, count, b, bits, n_rows);
    }
    layer->n_credited[k] = count;
}

/* The same for the gates of a strip. IN u: scratch. */
static void gate_probe(sn_layer *layer, const gate_strip *strip, const sn_draw *draw,
                       float *u)
{
    uniforms(u, draw, SN_PROBE, (uint32_t)strip->first, strip->n_gates,
             padded(strip->n_rows));
    for (int64_t i = 0; i < strip->n_gates; i++)
        list_credited(layer, strip->first + i, strip->n_rows, strip->ld_rows,
                      u + i * strip->ld_rows);
}

/* The moving averages of Eq. 10 for unit k, brought up to date with this batch after
   its gradient was estimated: a baseline that knew the batch would bias it. */
static void update_reinforce_averages(sn_layer *layer, int64_t k, int64_t n_rows,
                                      int64_t ld_rows, const float *loss)
{
    const float *a = layer->a + k * ld_rows, *h = layer->h + k * ld_rows;
    float numerator = 0.0f, denominator = 0.0f;
    for (int64_t b = 0; b < n_rows; b++) {
        const float centred = h[b] - sn_sigmoid(a[b]);
        const float weight =
            layer->baseline == SN_BASELINE_UNIT ? centred * centred : 1.0f;
        numerator += weight * loss[b];
        denominator += weight;
    }
    const float keep = layer->averages_decay;
    const float take = (1.0f - keep) / (float)n_rows;
    float *averages = layer->reinforce;
    averages[k] = keep * averages[k] + take * numerator;
    averages += layer->n_gates;
    averages[k] = keep * averages[k] + take * denominator;
}

/* Eq. 10 for unit k, or the mean loss; 0 before the first mini-batch. */
static float reinforce_baseline(const sn_layer *layer, int64_t k)
{
    const float denominator = layer->reinforce[layer->n_gates + k];
    if (layer->baseline == SN_BASELINE_NONE || !(denominator > 0.0f))
        return 0.0f;
    return layer->reinforce[k] / denominator;
}

/* Adds the estimate of dL/da of unit k to layer->da.
   IN dl_dh (n): gradient with respect to h, zero where no credit reaches; loss (n);
   draw of the forward pass, from which noise is drawn again: it is not kept. */
static void gate_backward(sn_layer *layer, int64_t k, int64_t n_rows, int64_t ld_rows,
                          const float *dl_dh, const float *loss, const sn_draw *draw,
                          const gate_scratch *scratch)
{
    const sn_estimator *estimator = estimator_table[layer->estimator];
    const float *a = layer->a + k * ld_rows, *h = layer->h + k * ld_rows;
    const int64_t n = padded(n_rows);
    if (estimator->needs_derivative) {
        /* no derivative depends on z or p beyond h */
        const sn_unit_row row = {n, a, a, a, a, &layer->noise, layer->temperature};
        unit_table[layer->unit]->derivative(scratch->slope, h, &row);
    }
    if (estimator->needs_z) {
        const gate_strip one = {k, 1, n_rows, ld_rows};
        draw_noise(scratch->z, unit_table[layer->unit], &layer->noise, draw, &one);
    }
    const sn_estimator_row row = {.n = n,
                                  .n_rows = n_rows,
                                  .a = a,
                                  .h = h,
                                  .dh_da = scratch->slope,
                                  .dl_dh = dl_dh,
                                  .loss = loss,
                                  .z = scratch->z,
                                  .baseline = reinforce_baseline(layer, k),
                                  .temperature = layer->temperature,
                                  .sigmoid_derivative = layer->sigmoid_derivative};
    estimator->gradient(layer->da + k * ld_rows, &row);
    if (estimator->credit == SN_CREDIT_LOSS && layer->baseline != SN_BASELINE_NONE)
        update_reinforce_averages(layer, k, n_rows, ld_rows, loss);
}

/* Sec. 2.1's control of the firing rate: the bias follows the distance of the moving
   average from the target. */
static void control_firing_rate(sn_layer *layer, int64_t k, int64_t n_rows)
{
    const float share = (float)layer->count[k] / (float)n_rows;
    layer->fired[k] += layer->count[k];
    layer->rate[k] = layer->averages_decay * layer->rate[k] +
                     (1.0f - layer->averages_decay) * share;
    layer->gate.bias[k] += layer->firing_rate_step * (layer->density - layer->rate[k]);
}

/* A.1's adaptive weight, after the mini-batch: larger while too many gates are
   non-zero, smaller while too few. */
static void adapt_penalty_weight(sn_layer *layer, int64_t n_rows)
{
    if (layer->penalty_factor == 0.0f)
        return;
    int64_t fired = 0;
    for (int64_t k = 0; k < layer->n_gates; k++)
        fired += layer->count[k];
    const double density = (double)fired / (double)(n_rows * layer->n_gates);
    float weight = *layer->penalty_weight;
    if (density > (double)layer->density + 0.01)
        weight *= 1.0f + layer->penalty_factor;
    else if (density < (double)layer->density - 0.01)
        weight /= 1.0f + layer->penalty_factor;
    weight = weight < layer->penalty_limits[0] ? layer->penalty_limits[0] : weight;
    weight = weight > layer->penalty_limits[1] ? layer->penalty_limits[1] : weight;
    *layer->penalty_weight = weight;
}
