from pybypass.c.bench cimport atomic_u32, pb_hist


cdef class Histogram:
    cdef pb_hist *h


cdef class Stop:
    cdef unsigned int word
    cdef atomic_u32 *address(self) noexcept
