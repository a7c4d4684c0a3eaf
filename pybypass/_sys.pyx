# cython: language_level=3
"""Network namespaces held by file descriptors, and the parent-death signal."""

import os

from pybypass.c cimport sys as c


cdef int check(int rc) except -1:
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
    return rc


def netns_new():
    cdef int fd
    with nogil:
        fd = c.pb_netns_new()
    return check(fd)


def netns_enter(int fd):
    return check(c.pb_netns_enter(fd))


def netns_id():
    return c.pb_netns_id()


def pdeathsig(int sig):
    check(c.pb_pdeathsig(sig))
