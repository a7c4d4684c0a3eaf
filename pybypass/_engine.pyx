# cython: language_level=3
"""The sockets of one queue's engine, over the rings of its loop. No call here makes a Python object per packet."""

import errno as _errno

import numpy as np

from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport EAGAIN

from pybypass._control cimport Control
from pybypass._convert cimport as_bytes, endpoint_in, info_dict, ip_out, until_of
from pybypass._core cimport ANY_SOCK, SLOWPATH_ONLY, Core
from pybypass.c.path cimport *
from pybypass.c.pool cimport PB_OWN_APP, pb_desc, pb_pool, pb_pool_cache, pb_pool_cache_create, pb_pool_cache_destroy, pb_pool_put
from pybypass.c.tcp cimport PB_TCP_ASK, PB_TCP_EOR, PB_TCP_MORE, pb_cc_find, pb_cc_ops, pb_tcp_endpoint, pb_tcp_info
from pybypass.c.types cimport int64_t, uint32_t, uint64_t

from pybypass.errors import connection_error

CONNECTED, ACCEPT, READ, WRITE = PB_SOCK_CONNECTED, PB_SOCK_ACCEPT, PB_SOCK_READ, PB_SOCK_WRITE
FIN, CLOSED, ERROR, GONE = PB_SOCK_FIN, PB_SOCK_CLOSED, PB_SOCK_ERROR, PB_SOCK_GONE
REPLY, SLOWPATH, SENT = PB_SOCK_REPLY, PB_SOCK_SLOWPATH, PB_SOCK_SENT
SEND_MORE, SEND_EOR = PB_TCP_MORE, PB_TCP_EOR
WAIT_ANY, WAIT_SLOWPATH = ANY_SOCK, SLOWPATH_ONLY


cdef class EngineCore(Control):
    cdef int begun(self, int s) except -1:
        """A new socket, or the error in its place; the loop is told of it."""
        if s < 0:
            raise connection_error(-s)
        self.kick()
        return s

    def connect(self, tuple local, tuple remote):
        cdef pb_tcp_endpoint l, r
        self.enter()
        try:
            endpoint_in(local, &l)
            endpoint_in(remote, &r)
            return self.begun(pb_sock_connect(self.app, &l, &r))
        finally:
            self.leave()

    def listen(self, tuple local, int backlog, bint ask=False):
        cdef pb_tcp_endpoint l
        self.enter()
        try:
            endpoint_in(local, &l)
            return self.begun(pb_sock_listen(self.app, &l, <uint32_t>backlog | (PB_TCP_ASK if ask else 0)))
        finally:
            self.leave()

    def accept(self, int listener):
        """A socket that will become CONNECTED, or fail with EAGAIN."""
        self.enter()
        try:
            return self.begun(pb_sock_accept(self.app, listener))
        finally:
            self.leave()

    def poll(self, int s):
        self.alive()
        return pb_sock_poll(self.app, s)

    def error(self, int s):
        self.alive()
        return pb_sock_error(self.app, s)

    def name(self, int s):
        cdef pb_sock_name n
        self.alive()
        cdef int rc = pb_sock_get_name(self.app, s, &n)
        if rc:
            raise connection_error(-rc)
        return (ip_out(&n.local.addr), n.local.port), (ip_out(&n.remote.addr), n.remote.port)

    def send(self, int s, data, timeout=None, bint everything=False, unsigned int flags=0):
        """Bytes taken: at least one, or all of them when `everything`."""
        cdef const unsigned char[::1] src = as_bytes(data)
        cdef size_t done = 0, size = src.shape[0]
        cdef int64_t k
        cdef uint64_t until = 0
        cdef bint have_until = False
        self.enter()
        try:
            while done < size:
                with nogil:
                    k = pb_sock_send(self.app, s, &src[done], size - done, flags)
                if k > 0:
                    done += k
                    self.kick()
                    if not everything:
                        break
                    continue
                if k != -EAGAIN:
                    raise connection_error(<int>-k)
                if timeout is not None and timeout <= 0:
                    if done:
                        break
                    raise connection_error(EAGAIN)
                if not have_until:
                    until = until_of(timeout)
                    have_until = True
                if not self.wait_until(s, PB_SOCK_WRITE | PB_SOCK_CLOSED | PB_SOCK_ERROR, until):
                    if done:
                        break
                    raise connection_error(_errno.ETIMEDOUT, "send")
            return done
        finally:
            self.leave()

    def recv_into(self, int s, buffer, timeout=None, size_t nbytes=0):
        """Bytes received; 0 at the end of the stream."""
        cdef unsigned char[::1] dst = as_bytes(buffer)
        cdef size_t size = dst.shape[0]
        cdef int64_t k
        cdef uint64_t until = 0
        cdef bint have_until = False
        self.enter()
        try:
            if nbytes and nbytes < size:
                size = nbytes
            if not size:
                return 0
            while True:
                with nogil:
                    k = pb_sock_recv(self.app, s, &dst[0], size)
                if k >= 0:
                    return k
                if k != -EAGAIN:
                    raise connection_error(<int>-k)
                if timeout is not None and timeout <= 0:
                    self.kick()
                    k = pb_sock_recv(self.app, s, &dst[0], size)
                    if k >= 0:
                        return k
                    raise connection_error(<int>-k)
                if not have_until:
                    until = until_of(timeout)
                    have_until = True
                if not self.wait_until(s, PB_SOCK_READ, until):
                    raise connection_error(_errno.ETIMEDOUT, "recv")
        finally:
            self.leave()

    def recv_view(self, int s, timeout=None):
        """One piece of received data where it lies, or None at the end of the stream."""
        cdef pb_desc d
        cdef int rc
        cdef uint64_t until = until_of(timeout)
        self.enter()
        try:
            while True:
                rc = pb_sock_recv_frame(self.app, s, &d)
                if rc > 0:
                    view = np.frombuffer(make_span(self, s, &d), dtype=np.uint8)
                    return view if rc == 1 else view.copy()
                if rc == 0:
                    return None
                if rc != -EAGAIN:
                    raise connection_error(-rc)
                if timeout is not None and timeout <= 0:
                    self.kick()
                    if pb_sock_poll(self.app, s) & PB_SOCK_READ:
                        continue
                    raise connection_error(EAGAIN)
                if not self.wait_until(s, PB_SOCK_READ, until):
                    raise connection_error(_errno.ETIMEDOUT, "recv")
        finally:
            self.leave()

    cdef int call(self, int s, int rc, pb_tcp_info *info) except -1:
        """Waits for the loop's answer to a call that gave rc."""
        cdef uint64_t until = pb_now_ns() + 5000000000
        if rc != -_errno.EINPROGRESS:
            raise connection_error(-rc)
        while True:
            if not self.wait_until(s, PB_SOCK_REPLY, until):
                raise connection_error(_errno.ETIMEDOUT, "the loop does not answer")
            rc = pb_sock_reply(self.app, s, info)
            if rc != -_errno.EINPROGRESS:
                break
        if rc:
            raise connection_error(-rc)
        return 0

    def shutdown(self, int s, int how):
        cdef int rc
        self.enter()
        try:
            with self.asking:
                while True:
                    rc = pb_sock_shutdown(self.app, s, how)
                    if rc != -EAGAIN:
                        break
                    self.wait_until(ANY_SOCK, 0, pb_now_ns() + 1000000)   # the command ring is full
                self.call(s, rc, NULL)
        finally:
            self.leave()

    def set_option(self, int s, unsigned option, int64_t value):
        self.enter()
        try:
            with self.asking:
                self.call(s, pb_sock_set_option(self.app, s, option, value), NULL)
        finally:
            self.leave()

    def get_option(self, int s, unsigned option):
        cdef int64_t value = 0
        self.enter()
        try:
            with self.asking:
                self.call(s, pb_sock_get_option(self.app, s, option, &value), NULL)
            return value
        finally:
            self.leave()

    def set_congestion(self, int s, name):
        cdef const pb_cc_ops *ops = pb_cc_find(name.encode())
        if ops == NULL:
            raise ValueError(f"no congestion control named {name!r}")
        self.enter()
        try:
            with self.asking:
                self.call(s, pb_sock_set_cc(self.app, s, ops), NULL)
        finally:
            self.leave()

    def info(self, int s):
        cdef pb_tcp_info i
        self.enter()
        try:
            with self.asking:
                self.call(s, pb_sock_info(self.app, s), &i)
            return info_dict(&i)
        finally:
            self.leave()

    def close_sock(self, int s, bint abort=False):
        """Gives a socket up; also when the device is gone, which is no reason to fail."""
        cdef int rc
        self.enter()
        try:
            while True:
                rc = pb_sock_close(self.app, s, abort)
                if self.loop == NULL:
                    with nogil:
                        pb_app_progress(self.app)
                if rc != -EAGAIN:
                    return
                self.wait_until(ANY_SOCK, 0, pb_now_ns() + 1000000)
        finally:
            self.leave()

    def opened(self, int s):
        """Whether the engine ever had this socket: then it will be reported by freed()."""
        self.alive()
        return bool(pb_sock_poll(self.app, s) & PB_SOCK_OPENED)

    def freed(self):
        """(address, port) of each local end whose socket is gone since the last call."""
        cdef pb_tcp_endpoint ends[64]
        cdef int n = 64, i
        self.alive()
        out = []
        while n == 64:
            n = pb_app_freed(self.app, ends, 64)
            for i in range(n):
                out.append((ip_out(&ends[i].addr), ends[i].port))
        return out


cdef class Span:
    """Exports received data and pins its frame while anything is based on it."""
    cdef Core core
    cdef int s
    cdef uint64_t serial
    cdef pb_desc d

    def __dealloc__(self):
        cdef int err = 0
        cdef pb_pool_cache *cache
        if self.core is None:
            return
        self.core.holds -= 1
        if self.core.app != NULL and not self.core.closing:
            pb_sock_release(self.core.app, self.s, self.serial, &self.d)
            return
        cache = pb_pool_cache_create(self.core.umem.handle(), &err)
        if cache != NULL:
            pb_pool_put(cache, self.d.addr, PB_OWN_APP)
            pb_pool_cache_destroy(cache)

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef pb_pool *pool = self.core.umem.handle()
        PyBuffer_FillInfo(view, self, pool.base + self.d.addr + self.d.off, self.d.len, 0, flags)


cdef Span make_span(Core core, int s, const pb_desc *d):
    cdef Span span = Span.__new__(Span)
    span.core = core
    span.s = s
    span.serial = pb_sock_serial(core.app, s)
    span.d = d[0]
    core.holds += 1
    return span
