from pybypass._mem cimport Umem
from pybypass.c.pool cimport pb_desc


cdef class Lender:
    """Whose frames a burst has: a queue, as far as its bursts know it."""
    cdef readonly Umem umem
    cdef long long held       # frames in bursts
    cdef long long holds      # live views
    cdef int give_back(self, Burst b) except -1


cdef class Burst:
    cdef readonly Lender queue
    cdef pb_desc *d
    cdef unsigned long long *frames   # the frame of each descriptor, whatever was written into desc since
    cdef int n, cap
    cdef int holds
    cdef object array
    cdef bint released
    cdef int alive(self) except -1
    cdef int sent_first(self, int n) except -1


cdef Burst new_burst(Lender lender, int cap)
