from libc.stdint cimport int32_t, int64_t

from stochnet._kernels.engine cimport sn_nonzeros, sn_rows

cdef float *floats(object array, Py_ssize_t size) except? NULL
cdef const float *const_floats(object array, Py_ssize_t size) except? NULL
cdef int32_t *integers(object array, Py_ssize_t size) except? NULL
cdef int64_t *long_integers(object array, Py_ssize_t size) except? NULL

cdef class Rows:
    cdef sn_rows c
    cdef object keep

cdef class Nonzeros:
    cdef sn_nonzeros c
    cdef object end, keep
