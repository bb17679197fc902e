/* The table of penalties. One line to include one, its name in the list. */
#include "kl.c"
#include "l1.c"

static const sn_penalty *const penalty_table[] = {&kl, &l1};
