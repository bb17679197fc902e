/* How many threads a mini-batch takes.
 *
 * A large one takes all, a tiny one takes one. Between the two it depends on the machine
 * and on what else runs there: the ten barriers of a step cost microseconds where every
 * thread has a core of its own, and milliseconds where one of them has to wait for a
 * thread that is not running. Small steps and predictions of successive calls are therefore
 * timed both ways, at first and now and then, and go on with the faster. A trial of all
 * threads waits a while for cores that are idle. Results are the same bits either way.
 */
#include <math.h>

#include "stochnet.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__linux__)
#include <fcntl.h>
#include <unistd.h>
#endif

/* Multiplications from which a mini-batch takes all threads, and from which it tries
   them: about 0.2 ms and 10 us of one thread; and from which a pass that is made once takes
   them all, even if one has to wait for a core: 1 ms. */
enum { SERIAL_WORK = 4000000, TINY_WORK = 100000, LARGE_WORK = 5 * SERIAL_WORK };

/* Passes in one way before it is judged; runs of one thread, and of all, that are enough
   to give the other way another run; how many times what it lost a trial of all threads has
   to wait for the next, twice as many after each that lost; and the weight of a slow run in
   the mean of its way. */
enum { PASSES_OF_RUN = 8, LEAST_WAIT = 8, MOST_WAIT = 256 };
enum { LEAST_FOR_LOST = 4, MOST_FOR_LOST = 32 };
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
    enum { SOFTMAX = 16 }; /* of one class */
    const sn_layer *last = net->layers + net->n_layers - 1;
    const int64_t active = (int64_t)(last->density * (float)last->n_units);
    int64_t work = net->n_classes * (SOFTMAX + active);
    for (int64_t l = 0; l < net->n_layers; l++) {
        const sn_layer *layer = net->layers + l;
        work += layer->n_hidden * (layer->n_inputs + layer->n_gates) + layer->n_units;
    }
    return n_rows * work;
}

/* Cores that nothing runs on just now, as Linux counts them in a moment's time; -1 where
   nobody says. */
static int64_t idle_cores(void)
{
    int64_t running = 0;
#if defined(__linux__)
    char text[64];
    const int file = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    const int64_t length = file < 0 ? 0 : read(file, text, sizeof text);
    if (file >= 0)
        close(file);
    /* three means, then running / all threads */
    int64_t field = 0;
    for (int64_t i = 0; i < length && text[i] != '/'; i++) {
        field += text[i] == ' ';
        if (field == 3 && text[i] != ' ')
            running = 10 * running + (text[i] - '0');
    }
    const int64_t cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (running > 0)
        return running < cores ? cores - running : 0;
#endif
    (void)running;
    return -1;
}

/* How many of the threads have a core, for all that is known. IN idle: as above. */
static int32_t threads_with_core(int32_t n_threads, int64_t idle)
{
    return idle >= 0 && idle < n_threads - 1 ? (int32_t)idle + 1 : n_threads;
}

/* For a pass that is made once. One that is not large waits for no core. */
static int32_t useful_threads(const sn_network *net, int64_t n_rows, int32_t n_threads)
{
    const int64_t work = work_of_rows(net, n_rows);
    if (n_threads == 1 || work < SERIAL_WORK)
        return 1;
    return work < LARGE_WORK ? threads_with_core(n_threads, idle_cores()) : n_threads;
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

/* Takes a run into the mean of its way. What a fast one shows is possible now; a slow one
   may have met with something else. */
static void end_run(sn_pace *pace)
{
    const double of_pass = pace->sum / pace->n_passes;
    double *mean = pace->mean + pace->threaded;
    *mean += (of_pass > *mean && *mean > 0.0 ? WEIGHT_OF_SLOW_RUN : 1.0) * (of_pass - *mean);
    pace->sum = 0.0;
    pace->n_passes = 0;
}

/* Goes on in the other way, and stays there for `wait` seconds at least. */
static void change_way(sn_pace *pace, double wait)
{
    pace->threaded = !pace->threaded;
    pace->wakes = pace->threaded;
    pace->saved = pace->spent = 0.0;
    pace->wait = wait;
}

/* How long all threads, which were slow just now, are left alone. */
static double wait_for_next_trial(sn_pace *pace)
{
    const double least = LEAST_WAIT * PASSES_OF_RUN * pace->mean[0];
    if (pace->saved > 0.0 || pace->for_lost == 0)
        pace->for_lost = LEAST_FOR_LOST;
    else if (pace->for_lost < MOST_FOR_LOST)
        pace->for_lost *= 2;
    return fmax(least, -pace->for_lost * pace->saved);
}

/* Account for a pass and choose the way of the next. Passes over another number of rows
   than the last start from the beginning.

   All threads are left after the first run in which one would have been faster, be it a
   single pass: where another program has the core, a barrier may wait for milliseconds, and
   what is fast between two such waits says nothing. How soon they are tried again depends
   on what they saved or lost since they were chosen. The first pass of a trial wakes
   threads that sleep, and does not count as a run's. */
static void count_pass(sn_pace *pace, int64_t n_rows, double seconds)
{
    if (pace->n_rows != n_rows) {
        *pace = (sn_pace){.n_rows = n_rows};
        return;
    }
    const double serial = pace->mean[0];
    pace->spent += seconds;
    pace->sum += seconds;
    pace->saved += serial - seconds;
    const int is_slow = pace->threaded && pace->sum > PASSES_OF_RUN * serial;
    if (pace->wakes && !is_slow) {
        pace->wakes = 0;
        pace->sum = 0.0;
        return;
    }
    if (++pace->n_passes < PASSES_OF_RUN && !is_slow)
        return;
    end_run(pace);
    const double most = MOST_WAIT * PASSES_OF_RUN * pace->mean[1];
    if (is_slow)
        change_way(pace, wait_for_next_trial(pace));
    else if (pace->spent >= pace->wait)
        change_way(pace, pace->threaded ? 0.0 : most);
}

/* Puts a trial of all threads off where it had to wait for a core, unless threads were the
   faster way when last seen, or it was put off for long. BLAS threads, for one, go on running
   for about 0.1 s after a product; a barrier waits for them for milliseconds.
   IN idle: as above. */
static void put_off_trial(sn_pace *pace, int32_t n_threads, int64_t idle)
{
    enum { MOST_TIMES = 128 };
    static const double SECONDS = 2e-3;
    const int pays = pace->mean[1] > 0.0 && pace->mean[1] < pace->mean[0];
    const int have_cores = threads_with_core(n_threads, idle) == n_threads;
    if (pays || have_cores || pace->put_off == MOST_TIMES) {
        pace->put_off = 0;
        return;
    }
    change_way(pace, SECONDS);
    pace->put_off++;
}

/* The end of a pass that paced_threads began. */
static void end_pass(sn_pace *pace, int64_t n_rows, int32_t n_threads, double start)
{
    if (start == 0.0)
        return;
    const int32_t was = pace->threaded;
    count_pass(pace, n_rows, seconds_now() - start);
    if (pace->threaded && !was)
        put_off_trial(pace, n_threads, idle_cores());
}
