/* The table of estimators. One line to include one, its name in the list. */
#include "concrete_st.c"
#include "local_expectation.c"
#include "pathwise.c"
#include "reinforce.c"
#include "reinmax.c"
#include "straight_through.c"

static const sn_estimator *const estimator_table[] = {
    &pathwise,          &straight_through, &reinforce,
    &local_expectation, &reinmax,          &concrete_st,
};
