"""Mirror of csrc/stochnet.h."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from "stochnet.h":
    enum:
        SN_PAD
        SN_TRAINING
        SN_SAMPLING
        SN_UNIFORM
        SN_ADDITIVE
        SN_BETA
        SN_DROPOUT
        SN_PROBE
        SN_WEIGHTS
        SN_NO_NOISE
        SN_GAUSSIAN
        SN_LOGISTIC
        SN_Z_NONE
        SN_Z_UNIFORM
        SN_Z_ADDITIVE
        SN_CREDIT_ACTIVE
        SN_CREDIT_ALL
        SN_CREDIT_LOSS
        SN_CREDIT_PROBE
        SN_BASELINE_NONE
        SN_BASELINE_MEAN
        SN_BASELINE_UNIT
        SN_GRADIENT
        SN_SGD
        SN_ADAM

    ctypedef struct sn_draw:
        uint32_t key[2]
        uint32_t step
        uint32_t layer
        uint32_t mode
        uint32_t row

    ctypedef struct sn_noise:
        int32_t additive
        float scale
        const float *quantiles
        int64_t n_quantiles
        float mean
        int32_t draw_only

    ctypedef struct sn_unit_row:
        int64_t n
        const float *a
        const float *a_draw
        const float *z
        const float *p
        const sn_noise *noise
        float temperature

    ctypedef struct sn_unit:
        const char *name
        int32_t z
        int32_t gate_noise
        int32_t always_fires
        float default_temperature
        void (*forward)(float *, const sn_unit_row *) noexcept nogil
        void (*derivative)(float *, const float *, const sn_unit_row *) noexcept nogil
        int32_t smooth_probability
        void (*probability)(float *, float *, const sn_unit_row *) noexcept nogil
        const char *values[3]
        void (*value)(float *, int32_t, const sn_unit_row *) noexcept nogil
        float (*positive_above)(int32_t) noexcept nogil
        double (*initial_bias)(
            double, double, const sn_noise *, double) noexcept nogil

    ctypedef struct sn_estimator_row:
        int64_t n
        int64_t n_rows
        const float *a
        const float *h
        const float *dh_da
        const float *dl_dh
        const float *loss
        const float *z
        float baseline
        float temperature
        int32_t sigmoid_derivative

    ctypedef struct sn_estimator:
        const char *name
        int32_t credit
        int32_t credit_choice
        int32_t credit_probe
        int32_t needs_derivative
        int32_t needs_difference
        int32_t needs_z
        float default_temperature
        void (*gradient)(float *, const sn_estimator_row *) noexcept nogil

    ctypedef struct sn_penalty_row:
        int64_t n_gates
        int64_t ld
        int64_t n
        int64_t n_rows
        const float *h
        const float *dh_da
        const float *p
        const float *dp_da
        float weight
        float density

    ctypedef struct sn_penalty:
        const char *name
        int32_t needs_smooth_probability
        float default_weight
        void (*gradient)(float *, float *, const sn_penalty_row *) noexcept nogil

    ctypedef struct sn_optimizer:
        int32_t solver
        int32_t nesterov
        float learning_rate
        float momentum
        float beta_1
        float beta_2
        float epsilon
        float decay
        float max_norm

    ctypedef struct sn_parameters:
        int64_t n_rows
        int64_t n
        int64_t ld
        float *weight
        float *bias
        float *weight_state[2]
        float *bias_state[2]
        int32_t *steps
        int32_t failed

    ctypedef struct sn_layer:
        int64_t n_inputs
        int64_t ld_inputs
        int64_t n_hidden
        int64_t ld_hidden
        int64_t n_gates
        int64_t experts_per_gate
        int64_t n_units
        int64_t ld_units
        sn_parameters hidden
        sn_parameters gate
        sn_parameters expert
        int32_t unit
        int32_t estimator
        int32_t penalty
        int32_t credit
        int32_t baseline
        int32_t sigmoid_derivative
        float probe_rate
        sn_noise noise
        float temperature
        float density
        float averages_decay
        float firing_rate_step
        float penalty_factor
        float penalty_limits[2]
        float *penalty_weight
        float *rate
        float *reinforce
        int64_t *fired
        float threshold
        int32_t value
        float *hidden_output
        float *hidden_gradient
        float *a
        float *h
        float *da
        float *expert_output
        float *output
        float *output_gradient
        int32_t *rows
        int32_t *count
        int32_t *gates
        int32_t *n_gates_of_row
        int32_t *credited
        int32_t *n_credited
        int32_t *credited_gates
        int32_t *n_credited_of_row
        float *penalty_value
        int64_t *reads

    ctypedef struct sn_pace:
        double mean[2]
        int32_t threaded

    ctypedef struct sn_nonzeros:
        int32_t *column
        float *value
        int32_t *end
        int64_t ld

    ctypedef struct sn_softmax:
        float *loss
        float *logits
        float *gradient
        int64_t ld

    ctypedef struct sn_network:
        int64_t n_layers
        int64_t n_classes
        int64_t ld_classes
        sn_layer *layers
        sn_parameters readout
        sn_parameters readout_bias
        sn_optimizer main
        sn_optimizer gater
        uint32_t key[2]
        int64_t ld_rows
        float input_dropout
        float *input
        uint64_t *filled
        int64_t ld_filled
        sn_nonzeros nonzeros
        float *input_columns
        float *hidden_columns
        int32_t *target
        const int32_t *indices
        float *partials
        float *logits
        float *logit_gradient
        float *logit_gradient_t
        float *probability_t
        float *loss
        float *scratch
        int64_t scratch_size
        sn_pace pace

    ctypedef struct sn_examples:
        const float *X
        const int32_t *y
        const int64_t *order
        int64_t n
        int64_t batch_size
        uint32_t step

    ctypedef struct sn_rows:
        const float *x
        int64_t ld
        const uint64_t *filled
        int64_t ld_filled

    ctypedef struct sn_engine:
        const char *name
        void (*philox)(uint32_t *, const uint32_t *, const uint32_t *) noexcept nogil
        void (*uniform)(
            float *, const sn_draw *, uint32_t, uint32_t, int64_t) noexcept nogil
        void (*additive)(
            float *, const sn_noise *, const sn_draw *, uint32_t, int64_t, int64_t
        ) noexcept nogil
        void (*uniform_weights)(
            float *, int64_t, const sn_draw *, float, int64_t, int64_t, int32_t
        ) noexcept nogil
        const sn_unit *const *units
        const sn_estimator *const *estimators
        const sn_penalty *const *penalties
        int32_t n_units
        int32_t n_estimators
        int32_t n_penalties
        int32_t (*active_rows)(int32_t *, const float *, int64_t) noexcept nogil
        void (*find_filled)(uint64_t *, const float *, int64_t) noexcept nogil
        void (*dot_products)(
            float *, int64_t, int64_t, const float *, int64_t, const float *, int64_t,
            const sn_rows *, const int32_t *, int64_t, int64_t) noexcept nogil
        void (*find_nonzeros)(
            const sn_nonzeros *, int64_t, const float *, int64_t) noexcept nogil
        void (*sparse_products)(
            float *, int64_t, int64_t, const float *, int64_t, const float *, int64_t,
            const sn_nonzeros *, int64_t, int64_t, int64_t, float *) noexcept nogil
        void (*expert_forward)(
            float *, int64_t, const sn_parameters *, int64_t, const sn_rows *,
            const int32_t *, const int32_t *, int64_t, int64_t) noexcept nogil
        void (*weighted_sums)(
            float *, int64_t, const int32_t *, int64_t, const float *, int64_t, int64_t,
            const sn_rows *, const int32_t *, int64_t, int64_t, float
        ) noexcept nogil
        void (*tanh)(float *, int64_t) noexcept nogil
        void (*softmax_cross_entropy)(
            const sn_softmax *, const int32_t *, float, int64_t, int64_t) noexcept nogil
        void (*update_row)(
            sn_parameters *, int64_t, const float *, float, const sn_optimizer *
        ) noexcept nogil
        void (*update_listed_units)(
            sn_parameters *, int64_t, int64_t, const sn_optimizer *, const float *,
            int64_t, const sn_rows *, const int32_t *, const int32_t *, int64_t, float *
        ) noexcept nogil
        double (*enumerate)(
            double *, double *, const double *, const double *, const double *,
            const double *, int64_t, int64_t, int64_t, double *, int32_t *
        ) noexcept nogil
        int64_t serial_work
        void (*count_pass)(sn_pace *, int64_t, double) noexcept nogil
        void (*put_off_trial)(sn_pace *, int32_t, int64_t) noexcept nogil
        int64_t (*idle_cores)() noexcept nogil
        int64_t (*train)(
            double *, double *, sn_network *, const sn_examples *, int32_t
        ) noexcept nogil
        void (*predict)(
            float *, sn_network *, const float *, int64_t, const sn_draw *, int, int32_t
        ) noexcept nogil
        void (*scores)(
            sn_network *, int64_t, const float *, int64_t, int32_t) noexcept nogil

    const sn_engine *sn_select(const char *)
    int sn_openmp_version()
    int sn_max_threads()
    const char *sn_compiler()

cdef extern from "layout.h":
    enum:
        UPDATE_UNITS
        EXPERTS_TOGETHER
    bint sn_leaves_L2(int64_t n_rows, int64_t n) noexcept nogil
    int64_t padded(int64_t n) noexcept nogil
    int64_t sn_row_length(int64_t n) noexcept nogil
    int64_t sn_piece_count(int64_t n) noexcept nogil
    int64_t sn_nonzeros_length(int64_t n) noexcept nogil
    bint sn_has_many_classes(const sn_network *net) noexcept nogil
    int64_t sn_partials_size(const sn_network *net) noexcept nogil
    int64_t sn_input_columns_size(const sn_network *net) noexcept nogil
    int64_t sn_hidden_columns_size(const sn_network *net) noexcept nogil
    int64_t sn_index_count(const sn_network *net) noexcept nogil
    int64_t sn_scratch_size(const sn_network *net) noexcept nogil

cdef const sn_engine *engine
