# csrc/app/*.h
from pybypass.c.path cimport pb_app
from pybypass.c.types cimport uint32_t

cdef extern from "app/pingpong.h" nogil:
    cdef enum pb_spin:
        PB_SPIN_NOT
        PB_SPIN_HARD
        PB_SPIN_YIELD
    int pb_pingpong(pb_app *a, int s, uint32_t n, uint32_t nbytes, uint32_t *samples_ns)
    int pb_pingpong_echo(pb_app *a, int s, uint32_t n, uint32_t nbytes)
    int pb_pingpong_kernel(int fd, uint32_t n, uint32_t nbytes, pb_spin spin, uint32_t *samples_ns)
    int pb_pingpong_kernel_echo(int fd, uint32_t n, uint32_t nbytes, pb_spin spin)
