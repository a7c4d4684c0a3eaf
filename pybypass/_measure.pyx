# cython: language_level=3
"""Measuring loops in C: the same for this engine and for the kernel's sockets."""

import os

import numpy as np

from pybypass.c.app cimport *
from pybypass.c.path cimport pb_app
from pybypass.c.types cimport uint32_t

from pybypass.errors import connection_error

SPIN = {"blocking": PB_SPIN_NOT, "spin": PB_SPIN_HARD, "yield": PB_SPIN_YIELD}


cdef int check(int rc) except -1:
    if rc < 0:
        raise connection_error(-rc, os.strerror(-rc))
    return rc


def pingpong(core, int s, uint32_t n, uint32_t nbytes):
    cdef pb_app *a
    cdef int rc = 0
    samples = np.zeros(max(n, 1), dtype=np.uint32)
    cdef uint32_t[::1] out = samples
    with core.in_use() as pointer:
        a = <pb_app *><size_t>pointer
        with nogil:
            rc = pb_pingpong(a, s, n, nbytes, &out[0])
    check(rc)
    return samples


def pingpong_echo(core, int s, uint32_t n, uint32_t nbytes):
    cdef pb_app *a
    cdef int rc = 0
    with core.in_use() as pointer:
        a = <pb_app *><size_t>pointer
        with nogil:
            rc = pb_pingpong_echo(a, s, n, nbytes)
    return check(rc)


def kernel_pingpong(int fd, uint32_t n, uint32_t nbytes, str how):
    samples = np.zeros(max(n, 1), dtype=np.uint32)
    cdef uint32_t[::1] out = samples
    cdef pb_spin spin = <pb_spin><int>SPIN[how]
    cdef int rc = 0
    with nogil:
        rc = pb_pingpong_kernel(fd, n, nbytes, spin, &out[0])
    check(rc)
    return samples


def kernel_echo(int fd, uint32_t n, uint32_t nbytes, str how):
    cdef pb_spin spin = <pb_spin><int>SPIN[how]
    cdef int rc = 0
    with nogil:
        rc = pb_pingpong_kernel_echo(fd, n, nbytes, spin)
    return check(rc)
