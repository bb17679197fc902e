/* How many threads a mini-batch takes.
 *
 * A large one takes all, a tiny one takes one. Between the two it depends on the machine
 * and on what else runs there: the ten barriers of a step cost microseconds where every
 * thread has a core of its own, and milliseconds where one of them has to wait for a
 * thread that is not running. Small steps and predictions of successive calls are therefore
 * timed both ways, at first and now and then, and go on with the faster. Results are the
 * same bits either way.
 */
#include <math.h>

#include "stochnet.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* Multiplications from which a mini-batch takes all threads, and from which it tries
   them: about 0.2 ms and 10 us of one thread. */
enum { SERIAL_WORK = 4000000, TINY_WORK = 100000 };

/* Passes in one way before the two are compared; how many such runs there are between two
   trials of the slower way, twice as many each time that it stays the slower; and the weight
   of a slow run in the mean of its way. */
enum { PASSES_OF_RUN = 8, LEAST_WAIT = 16, MOST_WAIT = 64 };
static const double WEIGHT_OF_SLOW_RUN = 0.25;

static double seconds_now(void)
{
#ifdef _OPENMP
    return omp_get_wtime();
#else
    return 0.0; /* nobody compares: there is one thread */
#endif
}

static int64_t work_of_rows(const sn_network *net, int64_t n_rows)
{
    int64_t work = 0;
    for (int64_t l = 0; l < net->n_layers; l++) {
        const sn_layer *layer = net->layers + l;
        work += layer->n_hidden * (layer->n_inputs + layer->n_gates) + layer->n_units;
    }
    return n_rows * work;
}

/* For a pass that is made once. */
static int32_t useful_threads(const sn_network *net, int64_t n_rows, int32_t n_threads)
{
    return work_of_rows(net, n_rows) < SERIAL_WORK ? 1 : n_threads;
}

/* For one of many passes over so many rows. OUT start: when it began, if it is to be timed;
   else 0. */
static int32_t paced_threads(const sn_network *net, int64_t n_rows, int32_t n_threads,
                             double *start)
{
    const int64_t work = work_of_rows(net, n_rows);
    *start = 0.0;
    if (n_threads == 1 || work >= SERIAL_WORK)
        return n_threads;
    if (work < TINY_WORK)
        return 1;
    *start = seconds_now();
    return net->pace.threaded ? n_threads : 1;
}

/* One barrier that waits may take as long as fifty passes: a run counts as twice the other
   way at most, and ends there, so that a way takes several within few runs to be the
   slower. One that was not tried yet has mean 0. */
static double most_seconds(const sn_pace *pace)
{
    const double other = pace->mean[!pace->threaded];
    return other > 0.0 ? 2.0 * PASSES_OF_RUN * other : INFINITY;
}

/* Takes a run into the mean of its way. What a fast one shows is possible now; a slow one
   may have met with something else. */
static void end_run(sn_pace *pace)
{
    const double most = most_seconds(pace);
    const double of_run = (pace->sum < most ? pace->sum : most) / PASSES_OF_RUN;
    double *mean = pace->mean + pace->threaded;
    *mean += (of_run > *mean && *mean > 0.0 ? WEIGHT_OF_SLOW_RUN : 1.0) * (of_run - *mean);
    pace->sum = 0.0;
    pace->n_passes = 0;
}

/* Account for a pass that began at `start`, if it was timed, and choose the way of the
   next. Passes over another number of rows than the last start from the beginning. */
static void end_pass(sn_pace *pace, int64_t n_rows, double start)
{
    if (start == 0.0)
        return;
    if (pace->n_rows != n_rows) {
        *pace = (sn_pace){.n_rows = n_rows};
        return;
    }
    pace->sum += seconds_now() - start;
    if (++pace->n_passes < PASSES_OF_RUN && pace->sum < most_seconds(pace))
        return;
    end_run(pace);
    const int faster = pace->mean[1] < pace->mean[0], was_faster = pace->faster;
    if (faster != was_faster)
        pace->wait = LEAST_WAIT;
    else if (pace->threaded != faster && pace->wait < MOST_WAIT)
        pace->wait *= 2;
    pace->faster = faster;
    const int trial = ++pace->n_runs >= pace->wait;
    pace->threaded = trial ? !faster : faster;
    pace->n_runs = trial ? 0 : pace->n_runs;
}
