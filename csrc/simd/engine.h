/* The engine as one unit of compilation, included once per instruction set by the
 * files beside this one, which name the table that they define.
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "../stochnet.h"
#include "../layout.h"

#include "../noise.c"
#include "../units/table.h"
#include "../estimators/table.h"
#include "../penalties/table.h"
#include "../gate.c"
#include "../listed.c"
#include "../product.c"
#include "../sums.c"
#include "../columns.c"
#include "../sparse.c"
#include "../block.c"
#include "../block_row.c"
#include "../loss.c"
#include "../enumeration.c"
#include "../update.c"
#include "../step.c"
#include "../input.c"
#include "../partials.c"
#include "../readout.c"
#include "../gater.c"
#include "../forward.c"
#include "../backward.c"
#include "../threads.c"
#include "../network.c"

#define COUNT(table) ((int32_t)(sizeof(table) / sizeof(table)[0]))

const sn_engine SN_ENGINE = {
    .name = SN_ENGINE_NAME,
    .philox = philox_block,
    .uniform = uniform,
    .additive = additive,
    .uniform_weights = uniform_weights,
    .units = unit_table,
    .estimators = estimator_table,
    .penalties = penalty_table,
    .n_units = COUNT(unit_table),
    .n_estimators = COUNT(estimator_table),
    .n_penalties = COUNT(penalty_table),
    .active_rows = active_rows,
    .dot_products = dot_products,
    .find_filled = find_filled,
    .find_nonzeros = find_nonzeros,
    .sparse_products = sparse_products,
    .expert_forward = expert_forward,
    .weighted_sums = weighted_sums,
    .tanh = tanh_row,
    .softmax_cross_entropy = softmax_cross_entropy,
    .update_row = update_row,
    .update_listed_units = update_listed_units,
    .enumerate = enumerate,
    .serial_work = SERIAL_WORK,
    .count_pass = count_pass,
    .put_off_trial = put_off_trial,
    .idle_cores = idle_cores,
    .train = train,
    .predict = predict,
    .scores = scores,
};
