# cython: language_level=3
"""What the engines of several queues share: the table of flows, rings for what strays, and where to wait for any of them."""

import os

cimport cython
from cpython.exc cimport PyErr_CheckSignals

from pybypass._convert cimport until_of
from pybypass.c.path cimport *
from pybypass.c.types cimport uint8_t, uint32_t, uint64_t

from pybypass.errors import PybypassError

MEMBERS_MAX = PB_GROUP_MAX
cdef uint64_t SLICE_NS = 50000000   # signals are looked at this often


@cython.final
cdef class Group:
    def __cinit__(self, int members, long long flows):
        cdef int err = 0
        cdef bytes secret = os.urandom(16)
        if members < 0 or not 0 <= flows < 1 << 32:
            raise PybypassError.make("PB040", 22, f"{members} engines with {flows} connections")
        self.g = pb_group_create(<uint32_t>members, <uint32_t>flows, <const uint8_t *><const char *>secret, &err)
        if self.g == NULL:
            raise PybypassError.make("PB040", -err, f"{members} engines with {flows} connections",
                                     hint=f"at most {PB_GROUP_MAX} engines, and 2**26 connections together")

    def __dealloc__(self):
        pb_group_unref(self.g)   # the members hold it too

    cdef int join(self, pb_path *path, int member) except -1:
        cdef int rc = pb_group_join(self.g, path, <uint32_t>member)
        if rc:
            raise PybypassError.make("PB040", -rc, f"member {member} of a group")
        return 0

    @property
    def flows(self):
        return pb_group_flows(self.g)

    def wait(self, look, timeout=None, bint slow=False):
        cdef uint64_t until = until_of(timeout), now, left
        cdef uint32_t seq
        cdef pb_waitq *q = pb_group_waitq(self.g, slow)
        while True:
            seq = pb_waitq_enter(q)
            try:
                found = look()
                now = pb_now_ns()
                if found is not None or now >= until:
                    return found
                left = until - now
                with nogil:
                    pb_waitq_wait(q, seq, left if left < SLICE_NS else SLICE_NS)
            finally:
                pb_waitq_leave(q)
            PyErr_CheckSignals()

    def wake(self):
        pb_waitq_wake_always(pb_group_waitq(self.g, False))
        pb_waitq_wake_always(pb_group_waitq(self.g, True))
