from stochnet._kernels.engine cimport sn_draw, sn_noise

cdef sn_noise noise_of(object noise) except *
cdef sn_draw draw_of(
    object key, object step, object layer, object mode, object row
) except *
