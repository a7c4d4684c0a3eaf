from pybypass.c.pool cimport pb_pool


cdef class Umem:
    cdef pb_pool *pool
    cdef readonly bint unaligned, dpdk
    cdef pb_pool *handle(self) except NULL
    cdef object node(self)
