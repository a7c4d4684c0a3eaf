from pybypass.c.types cimport uint32_t

cdef extern from "base/forks.h" nogil:
    uint32_t pb_forks
