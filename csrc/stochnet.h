/* stochnet: conventions, types and the table of kernels.
 *
 * Notation, the same in C, Cython, Python and the tests:
 *   B rows of a mini-batch   D inputs of a layer     M hidden units of the gater
 *   K gates                  G experts of each gate  E = K G experts   C classes
 *   a pre-activation of a gate, z its noise, h its output, H an expert's output.
 *
 * Conventions
 *   - float32 throughout; sizes and strides are int64_t, row indices int32_t.
 *   - A matrix is row-major. Its rows are padded with zeros to a multiple of
 *     SN_PAD floats and `ld_x` is their length: no kernel has a remainder loop
 *     along a row, and all kernels keep the padding at zero.
 *   - Gate quantities are unit-major, (K, B): one unit's row is contiguous.
 *   - Kernels never allocate, print, exit or keep state. They do serial work on the
 *     rows that they are given; how threads share rows is said once, in network.c.
 *   - OUT arguments come first, then IN, then sizes.
 */
#ifndef STOCHNET_H
#define STOCHNET_H

#include <stdint.h>

#define SN_PAD 16

/* ---- Randomness: a function of (key, counter), see philox.h ------------------ */

enum { SN_TRAINING = 0, SN_SAMPLING = 1 };               /* who draws */
enum { /* what for */
    SN_UNIFORM = 0,
    SN_ADDITIVE = 1,
    SN_BETA = 2,
    SN_DROPOUT = 3, /* units are rows of the mini-batch, rows are inputs */
    SN_PROBE = 4,
    SN_WEIGHTS = 5 /* units and rows are those of a matrix; its number is the step */
};

typedef struct {
    uint32_t key[2];
    uint32_t step;   /* mini-batch in training, draw in sampling */
    uint32_t layer;
    uint32_t mode;   /* SN_TRAINING or SN_SAMPLING */
    uint32_t row;    /* of the first element; a multiple of 4 */
} sn_draw;

/* The noise z that is added to a pre-activation. */
enum { SN_NO_NOISE = 0, SN_GAUSSIAN = 1, SN_LOGISTIC = 2 };

typedef struct {
    int32_t additive;       /* SN_NO_NOISE, SN_GAUSSIAN or SN_LOGISTIC */
    float scale;            /* Gaussian: standard deviation; logistic: scale */
    const float *quantiles; /* (n_quantiles) of the Beta noise, or NULL */
    int64_t n_quantiles;    /* at probabilities 0, 1/(n-1), ..., 1 */
    float mean;             /* of all that is added: replaces it at prediction */
    int32_t draw_only;      /* noise reaches the firing decision, not the value */
} sn_noise;

/* ---- Units: how a gate fires, one file each in units/ ------------------------- */

/* Units over a mini-batch: all pointers are rows of n floats, n padded. */
typedef struct {
    int64_t n;
    const float *a;       /* pre-activation that gives the value */
    const float *a_draw;  /* pre-activation that decides the draw */
    const float *z;       /* uniform, or additive noise, or NULL: as `z` says below */
    const float *p;       /* what `probability` gives, for `forward` */
    const sn_noise *noise;
    float temperature;
} sn_unit_row;

enum { SN_Z_NONE = 0, SN_Z_UNIFORM = 1, SN_Z_ADDITIVE = 2 };

typedef struct {
    const char *name;
    int32_t z;             /* which noise h = f(a, z) takes (Eq. 1) */
    int32_t gate_noise;    /* accepts additive noise on its input (App. A.2) */
    int32_t always_fires;  /* never zero: not thresholded at prediction */
    float default_temperature; /* 0: it has none */
    void (*forward)(float *h, const sn_unit_row *row);
    /* dh/da for fixed noise, given h; NULL where it is zero almost everywhere */
    void (*derivative)(float *dh, const float *h, const sn_unit_row *row);
    int32_t smooth_probability; /* else no penalty can act through it */
    /* P(h != 0 | a) and, where it depends on a smoothly, its derivative: both at once, as
       they have the exponential in common. OUT p, dp (n), which is left alone elsewhere */
    void (*probability)(float *p, float *dp, const sn_unit_row *row);
    /* deterministic counterpart: names of the choices, NULL-terminated, and the
       value of choice v for a gate that fires */
    const char *values[3];
    void (*value)(float *h, int32_t v, const sn_unit_row *row);
    /* choice v is positive only where a is above this, else 0 */
    float (*positive_above)(int32_t v);
    /* gate bias at which a unit fires with probability `density`; `spread` is the
       standard deviation that the input gives to a */
    double (*initial_bias)(double density, double spread, const sn_noise *noise,
                           double temperature);
} sn_unit;

/* ---- Estimators: how the loss reaches a, one file each in estimators/ --------- */

/* What an estimator must know: the experts that ran, all of them, or the loss; or the
   experts that ran and a random sample of the others, which are weighted so that the
   mean over samples is what all of them say. */
enum {
    SN_CREDIT_ACTIVE = 0,
    SN_CREDIT_ALL = 1,
    SN_CREDIT_LOSS = 2,
    SN_CREDIT_PROBE = 3
};
enum { SN_BASELINE_NONE = 0, SN_BASELINE_MEAN = 1, SN_BASELINE_UNIT = 2 };

typedef struct {
    int64_t n;            /* padded row length */
    int64_t n_rows;       /* B */
    const float *a, *h;
    const float *dh_da;   /* the unit's derivative, or NULL */
    const float *dl_dh;   /* gradient of the mean loss; 0 where no credit reaches */
    const float *loss;    /* each example's own loss */
    const float *z;       /* the noise that h was drawn with, or NULL */
    float baseline;       /* L-bar of this unit */
    float temperature;
    int32_t sigmoid_derivative;
} sn_estimator_row;

typedef struct {
    const char *name;
    int32_t credit;         /* by default */
    int32_t credit_choice;  /* active and all are both possible */
    int32_t credit_probe;   /* so is probe */
    int32_t needs_derivative;
    int32_t needs_difference; /* dl_dh is L(h = 1) - L(h = 0); last layer only */
    int32_t needs_z;
    int32_t ignores_a;      /* but for the sigmoid's derivative */
    float default_temperature; /* 0: it has none */
    void (*gradient)(float *da, const sn_estimator_row *row); /* adds to da */
} sn_estimator;

/* ---- Penalties: what holds the density, one file each in penalties/ ----------- */

/* n_gates rows, the first floats of each ld apart, n = n_rows padded. */
typedef struct {
    int64_t n_gates, ld, n, n_rows;
    const float *h, *dh_da;       /* dh_da may be NULL */
    const float *p, *dp_da;       /* dp_da may be NULL */
    float weight, density;
} sn_penalty_row;

typedef struct {
    const char *name;
    int32_t needs_smooth_probability;
    float default_weight;
    /* OUT da: the gradient; value (n_gates): each gate's term of the criterion */
    void (*gradient)(float *da, float *value, const sn_penalty_row *row);
} sn_penalty;

/* ---- Parameters and optimisers ------------------------------------------------ */

enum { SN_GRADIENT = 0, SN_SGD = 1, SN_ADAM = 2 };

typedef struct {
    int32_t solver;   /* SN_GRADIENT stores the gradient and leaves the weights */
    int32_t nesterov;
    float learning_rate, momentum, beta_1, beta_2, epsilon;
    float decay;      /* alpha / B: weight of w in its own gradient */
    float max_norm;   /* of a row's weights; 0 for none */
} sn_optimizer;

/* Units with their incoming weights, one unit a row, and the optimiser's state. */
typedef struct {
    int64_t n_rows, n, ld;
    float *weight;           /* (n_rows, ld) */
    float *bias;             /* (n_rows) or NULL */
    float *weight_state[2];  /* momentum; or Adam's moments; or the gradient */
    float *bias_state[2];
    int32_t *steps;          /* (n_rows) updates taken, for Adam */
    int32_t failed;          /* whether a step left a row that is not finite */
} sn_parameters;

/* ---- A conditional layer and the network --------------------------------------- */

typedef struct {
    int64_t n_inputs, ld_inputs, n_hidden, ld_hidden;
    int64_t n_gates, experts_per_gate, n_units, ld_units; /* K, G, E */
    sn_parameters hidden;    /* (M, D) tanh bottleneck of the gater */
    sn_parameters gate;      /* (K, M) */
    sn_parameters expert;    /* (E, D), gate k's from row k G on */

    int32_t unit, estimator, penalty; /* rows of the tables; penalty -1: none */
    int32_t credit, baseline, sigmoid_derivative;
    float probe_rate;        /* chance of a gate that did not fire, SN_CREDIT_PROBE */
    sn_noise noise;
    float temperature;       /* of unit or estimator, where they have one */
    float density;           /* target s */
    float averages_decay;    /* of all moving averages of a unit */
    float firing_rate_step;  /* of the bias control, 0: none */
    float penalty_factor;    /* adaptive weight: times 1 + factor, 0: fixed */
    float penalty_limits[2];

    float *penalty_weight;   /* (1) state of the adaptive weight */
    float *rate;             /* (K) moving average of the firing rate */
    float *reinforce;        /* (2, K) numerator and denominator of Eq. 10 */
    int64_t *fired;          /* (K) non-zero gates since it was last cleared */
    float threshold;         /* at prediction a gate fires where a > threshold */
    int32_t value;

    /* workspace for batches of up to ld_rows rows */
    float *hidden_output;    /* (B, ld_hidden) U */
    float *hidden_gradient;  /* (B, ld_hidden) */
    float *a, *h, *da;       /* (K, ld_rows), a and h only where they are read again */
    float *expert_output;    /* (E, ld_rows) */
    float *output;           /* (B, ld_units) y, input of the layer above, or NULL */
    float *output_gradient;  /* (B, ld_units); of the last layer (E, ld_rows), or NULL */
    int32_t *rows;           /* (K, ld_rows) active rows of each gate, as h */
    int32_t *count;          /* (K) how many */
    int32_t *gates;          /* (B, K) active gates of each row, where there is output */
    int32_t *n_gates_of_row; /* (B) how many */
    /* the same for gates that fired or are probed in training; where nothing is probed
       these are the four arrays above */
    int32_t *credited, *n_credited;
    int32_t *credited_gates, *n_credited_of_row;
    float *penalty_value;    /* (K) */
    int64_t *reads;          /* (K) experts asked for, once per example and pass */
} sn_layer;

/* How long small passes took; all zero at first. See threads.c. */
typedef struct {
    int64_t n_rows;         /* of each */
    double mean[2];         /* seconds of a pass with one thread, with all */
    double sum;             /* seconds of the n_passes of this run */
    double spent, wait;     /* seconds in this way; until the other is tried */
    double saved;           /* by this way, beside one thread's mean */
    int32_t n_passes;
    int32_t threaded;       /* whether this way takes all threads */
    int32_t wakes;          /* whether its next pass is the first with all */
    int32_t for_lost;       /* times what a trial lost, until the next */
    int32_t put_off;        /* times that the next trial was put off */
} sn_pace;

/* What rows have beside zeros, piece by piece (see PIECE). */
typedef struct {
    int32_t *column; /* (*, ld) counted from the piece's first */
    float *value;    /* (*, ld) */
    int32_t *end;    /* (*, pieces) where a piece's nonzeros end, and the next one's begin */
    int64_t ld;      /* sn_nonzeros_length */
} sn_nonzeros;

/* Rows of softmax. */
typedef struct {
    float *loss;                       /* (B) */
    float *logits;                     /* (B, ld) which become probabilities */
    float *gradient;                   /* (B, ld) */
    int64_t ld;                        /* a row's classes, padded */
    float *gradient_t, *probability_t; /* (C, ld_t) class by class; both may be NULL */
    int64_t ld_t;
} sn_softmax;

typedef struct {
    int64_t n_layers, n_classes, ld_classes;
    sn_layer *layers;
    sn_parameters readout;       /* (E, C), expert-major, no bias of its own */
    sn_parameters readout_bias;  /* one row of C */
    sn_optimizer main, gater;
    uint32_t key[2];

    int64_t ld_rows;        /* padded largest batch */
    float input_dropout;    /* share of the inputs that training sets to zero */
    float *input;           /* (B, ld_inputs of the first layer) */
    uint64_t *filled;       /* (B, ld_filled) its filled chunks, see sn_rows */
    int64_t ld_filled;
    sn_nonzeros nonzeros;   /* (B) its nonzeros, in training */
    /* rows of a layer's hidden units and, in training, of its input, transposed: see
       columns.c */
    float *input_columns, *hidden_columns; /* (sn_input_columns_size and so on) */
    int32_t *target;        /* (B) */
    const int32_t *indices; /* (sn_index_count) 0, 1, 2, ... */
    float *partials;        /* (sn_partials_size) sums of blocks of gates */
    float *logits;          /* (B, ld_classes), after the loss: probabilities */
    float *logit_gradient;  /* (B, ld_classes) */
    float *logit_gradient_t;/* (C, ld_rows) in training, as is the next */
    float *probability_t;   /* (C, ld_rows) */
    float *loss;            /* (B) */
    float *scratch;         /* (n_threads, scratch_size) */
    int64_t scratch_size;
    sn_pace pace;
} sn_network;

/* Rows of the training set in the order in which mini-batches take them. */
typedef struct {
    const float *X;        /* (n, n_inputs), not padded */
    const int32_t *y;      /* (n) */
    const int64_t *order;  /* (n) or NULL: as they lie */
    int64_t n, batch_size;
    uint32_t step;         /* of the first mini-batch */
} sn_examples;

/* Rows that a product reads. A chunk is SN_PAD floats of a row, and filled where they are
   not all zeros. */
typedef struct {
    const float *x;         /* (*, ld) */
    int64_t ld;
    const uint64_t *filled; /* (*, ld_filled) a bit for each chunk, an integer for each
                               piece of a row (PIECE); NULL: take all for filled */
    int64_t ld_filled;
} sn_rows;

/* ---- The table of kernels: one per instruction set ------------------------------ */

typedef struct {
    const char *name;

    void (*philox)(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);
    void (*uniform)(float *out, const sn_draw *draw, uint32_t purpose, uint32_t unit,
                    int64_t n);
    void (*additive)(float *out, const sn_noise *noise, const sn_draw *draw,
                     uint32_t first, int64_t n_units, int64_t n);
    void (*uniform_weights)(float *w, int64_t ld_w, const sn_draw *draw, float limit,
                            int64_t n_units, int64_t n, int32_t n_threads);

    const sn_unit *const *units;
    const sn_estimator *const *estimators;
    const sn_penalty *const *penalties;
    int32_t n_units, n_estimators, n_penalties;

    int32_t (*active_rows)(int32_t *rows, const float *h, int64_t n_rows);
    void (*find_filled)(uint64_t *filled, const float *x, int64_t n);
    void (*dot_products)(float *out, int64_t ld_unit, int64_t ld_row, const float *w,
                         int64_t ld_w, const float *bias, int64_t n_units,
                         const sn_rows *x, const int32_t *rows, int64_t n_rows,
                         int64_t n);
    void (*find_nonzeros)(const sn_nonzeros *nonzeros, int64_t b, const float *x,
                          int64_t n);
    void (*sparse_products)(float *out, int64_t ld_unit, int64_t ld_row, const float *w,
                            int64_t ld_w, const float *bias, int64_t n_units,
                            const sn_nonzeros *x, int64_t first, int64_t end, int64_t n,
                            float *panel);
    void (*expert_forward)(float *H, int64_t ld_rows, const sn_parameters *expert,
                           int64_t experts_per_gate, const sn_rows *x,
                           const int32_t *rows, const int32_t *count, int64_t first,
                           int64_t end);
    void (*weighted_sums)(float *out, int64_t ld_out, const int32_t *units,
                          int64_t n_units, const float *c, int64_t ld_unit,
                          int64_t ld_row, const sn_rows *v, const int32_t *rows,
                          int64_t n_rows, int64_t n, float keep);
    void (*tanh)(float *out, int64_t n);
    void (*softmax_cross_entropy)(const sn_softmax *to, const int32_t *target, float scale,
                                  int64_t n_rows, int64_t n_classes);
    void (*update_row)(sn_parameters *p, int64_t row, const float *gradient,
                       float bias_gradient, const sn_optimizer *optimizer);
    void (*update_listed_units)(sn_parameters *p, int64_t first, int64_t end,
                                const sn_optimizer *optimizer, const float *c,
                                int64_t ld_rows, const sn_rows *x, const int32_t *rows,
                                const int32_t *count, int64_t n_rows, float *gradient);

    double (*enumerate)(double *probability_gradient, double *value_gradient,
                        const double *base, const double *contribution,
                        const double *probability, const double *value, int64_t target,
                        int64_t n_gates, int64_t n_classes, double *scratch,
                        int32_t *active);

    int64_t serial_work; /* multiplications from which a step takes all threads */
    void (*count_pass)(sn_pace *pace, int64_t n_rows, double seconds);
    void (*put_off_trial)(sn_pace *pace, int32_t n_threads, int64_t idle);
    int64_t (*idle_cores)(void);

    /* whole network; see network.c */
    int64_t (*train)(double *loss, double *penalty, sn_network *net,
                     const sn_examples *examples, int32_t n_threads);
    void (*predict)(float *probability, sn_network *net, const float *X, int64_t n_rows,
                    const sn_draw *draw, int keeps_gates, int32_t n_threads);
    void (*scores)(sn_network *net, int64_t layer, const float *X, int64_t n_rows,
                   int32_t n_threads);
} sn_engine;

/* The engine for this machine; `name` forces one ("baseline", "avx2", "avx512").
   NULL where the machine or the build does not have it. */
const sn_engine *sn_select(const char *name);
int sn_openmp_version(void);
int sn_max_threads(void);
const char *sn_compiler(void);

#endif
