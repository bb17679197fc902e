"""How small passes choose between one thread and all (csrc/threads.c)."""
from stochnet._kernels.engine cimport engine, sn_pace


cdef class Pace:
    """The choice of successive passes, with times that are given, not measured.

    Attributes
    ----------
    threaded : bool
        Whether the next pass takes all threads.
    """

    cdef sn_pace c

    @property
    def threaded(self):
        return self.c.threaded != 0

    def count_pass(self, n_rows, seconds):
        """Account for a pass over so many rows.

        Parameters
        ----------
        n_rows : int
        seconds : float
            How long it took, in the way that `threaded` says.
        """
        engine.count_pass(&self.c, n_rows, seconds)

    def put_off_trial(self, n_threads, idle):
        """Go back to one thread where a trial of all, just begun, lacks cores.

        Parameters
        ----------
        n_threads : int
        idle : int
            As `idle_cores` says.
        """
        engine.put_off_trial(&self.c, n_threads, idle)


def idle_cores():
    """Cores that nothing runs on at the moment; -1 if unknown."""
    return engine.idle_cores()
