/* The table of units. One line to include a unit, its name in the list. */
#include "bernoulli.c"
#include "concrete.c"
#include "hard_concrete.c"
#include "noisy_rectifier.c"
#include "rectifier.c"
#include "sigmoid.c"
#include "sts.c"

static const sn_unit *const unit_table[] = {
    &noisy_rectifier, &sts,      &bernoulli,     &rectifier,
    &sigmoid,         &concrete, &hard_concrete,
};
