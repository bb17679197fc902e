/* The table of estimators. One line to include one, its name in the list. */
#include "local_expectation.c"
#include "pathwise.c"
#include "reinforce.c"
#include "straight_through.c"

static const sn_estimator *const estimator_table[] = {
    &pathwise, &straight_through, &reinforce, &local_expectation,
};
