# cython: language_level=3
"""What is told to and asked of a path as a whole: the slow path's frames, neighbours, routes, counters, captures."""

import errno as _errno

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pybypass._convert cimport ip_in, ip_out, report_dict
from pybypass._core cimport Core
from pybypass.c.path cimport *
from pybypass.c.pool cimport pb_pool
from pybypass.c.tcp cimport pb_tcp_trace
from pybypass.c.types cimport pb_ip, uint8_t, uint32_t

from pybypass.errors import PybypassError, connection_error

EXC_REASONS = {PB_EXC_ARP: "arp", PB_EXC_ICMP: "icmp", PB_EXC_UDP: "udp", PB_EXC_IP_OTHER: "ip", PB_EXC_L2_OTHER: "l2",
               PB_EXC_NEIGH: "neigh", PB_EXC_DOUBT: "doubt", PB_EXC_ACCEPT: "accept", PB_EXC_NOT_OURS: "not_ours"}


cdef class Control(Core):
    def exceptions(self):
        """[(reason, frame or None, next hop or None)]; frames are copied."""
        cdef pb_exc x[32]
        cdef pb_pool *pool = self.umem.handle()
        cdef int n, i
        self.alive()
        n = pb_app_exceptions(self.app, x, 32)
        out = []
        for i in range(n):
            if x[i].reason in (PB_EXC_NEIGH, PB_EXC_DOUBT):
                out.append((EXC_REASONS[x[i].reason], None, ip_out(&x[i].addr)))
                continue
            out.append((EXC_REASONS.get(x[i].reason, "?"),
                        PyBytes_FromStringAndSize(<char *>pool.base + x[i].d.addr + x[i].d.off, x[i].d.len), None))
            pb_app_free(self.app, x[i].d.addr)
        return out

    def judged(self, bytes frame, bint admitted):
        """The verdict on the SYN in an "accept" exception; PB003 when there is no frame or no room to say it."""
        cdef int rc
        self.enter()
        try:
            rc = pb_app_judged(self.app, <const char *>frame, <uint32_t>len(frame), admitted)
            if rc:
                raise PybypassError.make("PB003" if rc == -_errno.ENOBUFS else "PB027", -rc, "judged")
            self.kick()
        finally:
            self.leave()

    def hand_over(self, bint on):
        self.enter()
        try:
            pb_app_hand_over(self.app, on)
        finally:
            self.leave()

    def inject(self, bytes frame):
        cdef int rc
        self.enter()
        try:
            rc = pb_app_inject(self.app, <const char *>frame, <uint32_t>len(frame))
            if rc:
                raise PybypassError.make("PB003" if rc == -_errno.ENOBUFS else "PB027", -rc, "inject")
            self.kick()
        finally:
            self.leave()

    def set_neighbour(self, bytes addr, mac):
        cdef pb_ip ip
        cdef bytes raw = mac if mac is not None else b""
        cdef int rc
        self.enter()
        try:
            ip_in(addr, &ip)
            if mac is not None and len(raw) != 6:
                raise ValueError("a MAC address has 6 bytes")
            rc = pb_app_neigh(self.app, &ip, <const uint8_t *><const char *>raw if mac is not None else NULL)
            if rc:
                raise connection_error(-rc)
            self.kick()
        finally:
            self.leave()

    def set_routes(self, routes):
        """[(network, prefix length, gateway or None)] take the place of all routes but the static ones."""
        cdef pb_ip dst, gw
        cdef int rc
        self.enter()
        try:
            with self.asking:
                self.routes.n = 0
                for network, prefix, gateway in routes:
                    ip_in(network, &dst)
                    if gateway is not None:
                        ip_in(gateway, &gw)
                    rc = pb_net_routes_add(&self.routes, &dst, <unsigned>prefix, &gw if gateway is not None else NULL)
                    if rc:
                        raise PybypassError.make("PB040", -rc, "a route")
                self.ask(PB_CMD_ROUTES, &self.routes)
        finally:
            self.leave()

    def stats(self):
        cdef pb_path_report r
        self.enter()
        try:
            with self.asking:
                if self.loop != NULL and pb_loop_error(self.loop):
                    self.stop_loop()
                self.ask(PB_CMD_STATS, &self.report)
                r = self.report
            return report_dict(&r)
        finally:
            self.leave()

    def trace(self, int room):
        """(records as bytes, how many were overwritten before they were read)."""
        cdef size_t size = sizeof(pb_tcp_trace) * <size_t>room
        self.enter()
        try:
            with self.asking:
                memset(&self.traced, 0, sizeof(self.traced))
                self.traced.records = <pb_tcp_trace *>malloc(size)
                if self.traced.records == NULL:
                    raise MemoryError
                self.traced.room = room
                try:
                    self.ask(PB_CMD_TRACE, &self.traced)
                    size = sizeof(pb_tcp_trace) * <size_t>self.traced.n
                    return PyBytes_FromStringAndSize(<const char *>self.traced.records, <Py_ssize_t>size), self.traced.lost
                finally:
                    free(self.traced.records)
        finally:
            self.leave()

    def capture_start(self, size_t nbytes):
        self.enter()
        try:
            with self.asking:
                if self.tap.buf != NULL:
                    raise PybypassError.make("PB040", _errno.EBUSY, "a capture is running")
                memset(&self.tap, 0, sizeof(self.tap))
                self.tap.buf = <uint8_t *>malloc(nbytes)
                if self.tap.buf == NULL:
                    raise MemoryError
                self.tap.size = nbytes
                try:
                    self.ask(PB_CMD_TAP, &self.tap)
                except BaseException:
                    self.tap.size = 0   # the loop may still take it up: it finds no room, and the buffer stays
                    raise
        finally:
            self.leave()

    def capture_stop(self):
        """(records, packets, dropped): each record is struct pb_tap_rec (ts_ns u64, len u32, out u32) and the packet."""
        self.enter()
        try:
            with self.asking:
                if self.tap.buf == NULL:
                    raise PybypassError.make("PB040", _errno.EINVAL, "no capture is running")
                self.ask(PB_CMD_TAP, NULL)
                data = PyBytes_FromStringAndSize(<char *>self.tap.buf, self.tap.used)
                free(self.tap.buf)
                self.tap.buf = NULL
                return data, self.tap.pkts, self.tap.dropped
        finally:
            self.leave()
