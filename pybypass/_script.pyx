# cython: language_level=3
"""The host for packet scripts: sockets over one engine on a virtual clock."""

import errno as _errno

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memset

from pybypass._convert cimport counters_dict, ip_in, ip_out
from pybypass.c.drops cimport pb_drop_name
from pybypass.c.script cimport *
from pybypass.c.tcp cimport pb_tcp, pb_tcp_endpoint, pb_tcp_get_stats
from pybypass.c.types cimport int32_t, int64_t, uint32_t, uint64_t

from pybypass.errors import PybypassError

cdef uint64_t FOREVER = 0xffffffffffffffff


def knobs():
    cdef unsigned fields = 0, i = 0
    cdef const char *name
    found = {}
    while True:
        name = pb_host_knob_name(i, &fields)
        if name == NULL:
            return found
        found[name.decode()] = fields
        i += 1


cdef int endpoint_in(tuple where, pb_tcp_endpoint *e) except -1:
    memset(e, 0, sizeof(e[0]))
    addr, port = where
    e.port = port
    if addr is not None:
        ip_in(addr, &e.addr)
    return 0


cdef class Host:
    cdef pb_host *h
    cdef bytes cc

    def __cinit__(self, *, int layout=0, int acks=0, bint psh=False, cc=None, mtu=(1500, 1500), addresses=None):
        cdef pb_host_config cfg
        cdef int err = 0
        pb_host_config_default(&cfg)
        cfg.layout = layout
        cfg.acks = acks
        cfg.psh = psh
        cfg.mtu[0], cfg.mtu[1] = mtu
        if cc is not None:
            self.cc = cc.encode()
            cfg.cc = self.cc
        if addresses is not None:
            ip_in(addresses[0], &cfg.addr[0])
            ip_in(addresses[1], &cfg.addr[1])
        self.h = pb_host_create(&cfg, &err)
        if self.h == NULL:
            code = "PB101" if err == -_errno.EPROTONOSUPPORT else "PB001" if err == -_errno.ENOMEM else "PB040"
            raise PybypassError.make(code, -err, "a host for scripts")

    def __dealloc__(self):
        pb_host_destroy(self.h)
        self.h = NULL

    def set_knob(self, str name not None, unsigned field, int64_t value):
        cdef bytes key = name.encode()
        return pb_host_set_knob(self.h, key, field, value)

    def knob(self, str name not None, unsigned field=0):
        cdef bytes key = name.encode()
        cdef int64_t value = 0
        if pb_host_get_knob(self.h, key, field, &value):
            raise KeyError(name)
        return value

    @property
    def now_ns(self):
        return pb_host_now(self.h)

    @property
    def next_ns(self):
        cdef uint64_t t = pb_host_next_ns(self.h)
        return None if t == FOREVER else t

    def advance(self, uint64_t now_ns):
        with nogil:
            pb_host_advance(self.h, now_ns)

    def input(self, const unsigned char[::1] packet not None):
        cdef unsigned why = pb_host_input(self.h, &packet[0], <uint32_t>packet.shape[0]) if packet.shape[0] else 1
        return pb_drop_name(why).decode() if why else ""

    def output(self):
        cdef unsigned char buf[4096]
        cdef uint64_t at = 0
        cdef int n = pb_host_output(self.h, buf, sizeof(buf), &at)
        return (PyBytes_FromStringAndSize(<const char *>buf, n), at) if n > 0 else None

    def set_stuck(self, bint stuck):
        pb_host_set_stuck(self.h, stuck)

    def socket(self, int family, int kind, int protocol):
        return pb_host_socket(self.h, family, kind, protocol)

    def bind(self, int s, tuple where not None):
        cdef pb_tcp_endpoint e
        endpoint_in(where, &e)
        return pb_host_bind(self.h, s, &e)

    def listen(self, int s, int backlog):
        return pb_host_listen(self.h, s, backlog)

    def accept(self, int s):
        cdef pb_tcp_endpoint e
        return pb_host_accept(self.h, s, &e)

    def connect(self, int s, tuple where not None):
        cdef pb_tcp_endpoint e
        endpoint_in(where, &e)
        return pb_host_connect(self.h, s, &e)

    def recv(self, int s, size_t n, int flags, bint nowhere=False):
        cdef bytearray buf = bytearray(n)
        cdef unsigned char *p = NULL
        if not nowhere:
            p = buf
        cdef int64_t got = pb_host_recv(self.h, s, p, n, flags)
        return (got, bytes(buf[:got]) if got > 0 and not flags & 0x20 else b"")

    def send(self, int s, const unsigned char[::1] data, int flags):
        cdef const unsigned char *p = NULL
        cdef unsigned char none = 0
        if data is not None:
            p = &data[0] if data.shape[0] else &none
        return pb_host_send(self.h, s, p, data.shape[0] if data is not None else 1, flags)

    def shutdown(self, int s, int how):
        return pb_host_shutdown(self.h, s, how)

    def close(self, int s):
        return pb_host_close(self.h, s)

    def ioctl(self, int s, unsigned long request):
        cdef int32_t value = 0
        cdef int rc = pb_host_ioctl(self.h, s, request, &value)
        return rc, value

    def setsockopt(self, int s, int level, int name, bytes value):
        cdef const char *p = NULL
        if value is not None:
            p = value
        return pb_host_setsockopt(self.h, s, level, name, p, <uint32_t>(len(value) if value is not None else 4))

    def getsockopt(self, int s, int level, int name, uint32_t room):
        cdef unsigned char buf[1024]
        cdef uint32_t n = room if room < sizeof(buf) else sizeof(buf)
        cdef int rc = pb_host_getsockopt(self.h, s, level, name, buf, &n)
        return rc, PyBytes_FromStringAndSize(<const char *>buf, n) if not rc else b""

    def events(self, int s):
        return pb_host_events(self.h, s)

    def names(self, int s):
        cdef pb_tcp_endpoint a, b
        if pb_host_names(self.h, s, &a, &b):
            return None
        return (ip_out(&a.addr), a.port), (ip_out(&b.addr), b.port)

    def counters(self):
        cdef pb_tcp *e = pb_host_engine(self.h)
        if e == NULL:
            return {}, {}
        return counters_dict(pb_tcp_get_stats(e), True), counters_dict(pb_tcp_get_stats(e), False)
