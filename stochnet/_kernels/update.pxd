from stochnet._kernels.engine cimport sn_optimizer, sn_parameters

cdef sn_optimizer optimizer_of(object optimizer) except *
cdef sn_parameters parameters_of(object parameters) except *
