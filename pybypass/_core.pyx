# cython: language_level=3
"""A path and the application's end of its rings: their life, the loop's thread, waiting, and calls that the loop answers."""

import errno as _errno
import os
import threading

from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport free

from pybypass._convert cimport fill_config, ip_in, until_of
from pybypass._group cimport Group
from pybypass._port cimport Queue
from pybypass.c.dev cimport pb_dev
from pybypass.c.flag cimport pb_call_depth
from pybypass.c.path cimport *
from pybypass.c.stdlib cimport aligned_alloc, usleep
from pybypass.c.tcp cimport pb_tcp_config, pb_tcp_config_default
from pybypass.c.types cimport pb_ip, uint16_t, uint64_t

from pybypass.errors import PybypassError, connection_error

cdef uint64_t FOREVER = 0xffffffffffffffff
cdef uint64_t SLICE_NS = 50000000   # signals are looked at this often


cdef class Core:
    def __cinit__(self, Queue queue not None, list locals_, dict config, *, gw4=None, gw6=None, int vlan=0,
                  int max_socks=1024, slowpath=None, Group group=None, int member=0):
        cdef pb_tcp_config cfg
        cdef pb_app_config acfg
        cdef int err = 0, rc
        cdef pb_dev *dev
        self.queue = queue
        self.umem = queue.umem
        self.pid = os.getpid()
        self.slowpath = slowpath
        self.spin_ns = 50000
        self.asking = threading.RLock()
        pb_tcp_config_default(&cfg)
        fill_config(&cfg, config)
        cfg.mtu = config.get("mtu", 0)
        acfg.max_socks = max_socks
        acfg.sndbuf_bytes = cfg.sndbuf_bytes
        acfg.reserve_frames = cfg.reserve_frames
        self.chan = <pb_chan *>aligned(sizeof(pb_chan))
        if self.chan == NULL:
            raise MemoryError
        rc = pb_chan_init(self.chan, 4096)
        if rc:
            free(self.chan)
            self.chan = NULL
            raise PybypassError.make("PB040", -rc, "rings")
        dev = queue.take(self)
        self.path = pb_path_create(dev, &cfg, self.chan, &err)
        if self.path == NULL:
            queue.untake(dev)
            raise PybypassError.make("PB040", -err, "the engine's limits", hint="see EngineConfig for the ranges")
        try:
            self.furnish(locals_, gw4, gw6, vlan, &acfg)
            if group is not None:
                group.join(self.path, member)
        except BaseException:
            self.destroy()
            queue.abandon()
            raise

    cdef int furnish(self, list locals_, gw4, gw6, int vlan, const pb_app_config *acfg) except -1:
        cdef pb_ip ip
        cdef int err = 0, rc
        for raw, prefix in locals_:
            ip_in(raw, &ip)
            rc = pb_net_add_local(&self.path.net, &ip, <unsigned>prefix)
            if rc:
                raise PybypassError.make("PB040", -rc, f"local address with prefix {prefix}")
        if gw4 is not None:
            ip_in(gw4, &self.path.net.gw4)
        if gw6 is not None:
            ip_in(gw6, &self.path.net.gw6)
        self.path.net.vlan = <uint16_t>vlan
        self.app = pb_app_create(self.path, acfg, &err)
        if self.app == NULL:
            raise PybypassError.make("PB001", -err, "the application's end")
        return 0

    def __dealloc__(self):
        self.destroy()

    cdef void destroy(self) noexcept:
        """Each pointer is taken out before the GIL goes, so that nobody finds what is being freed."""
        cdef pb_loop *loop = self.loop
        cdef pb_path *path = self.path
        cdef pb_app *app = self.app
        cdef pb_chan *chan = self.chan
        self.loop, self.path, self.app, self.chan = NULL, NULL, NULL, NULL
        if os.getpid() != self.pid:
            return   # a forked child: rings, device and memory are the parent's
        # The path before the application's end: what it owns goes back by the application's rings.
        with nogil:
            if loop != NULL:
                pb_loop_stop(loop)
            if path != NULL:
                pb_path_destroy(path)
            if app != NULL:
                pb_app_destroy(app)
            if chan != NULL:
                pb_chan_fini(chan)
                free(chan)
        free(self.tap.buf)
        self.tap.buf = NULL

    cdef pb_app *alive(self) except NULL:
        if self.app == NULL or self.closing:
            raise PybypassError.make("PB043", _errno.EBADF)
        if os.getpid() != self.pid:
            raise PybypassError.make("PB015", _errno.EBADF)
        return self.app

    cdef int enter(self) except -1:
        """Before anything that may release the GIL: close() waits until all have left."""
        self.alive()
        self.users += 1
        pb_call_depth()[0] += 1
        return 0

    cdef void leave(self) noexcept:
        self.users -= 1
        pb_call_depth()[0] -= 1

    @property
    def closed(self):
        return self.app == NULL

    @property
    def live_views(self):
        return self.holds

    def close(self, bint force=False):
        if self.app == NULL or self.closing:
            return
        if self.holds and not force:
            raise BufferError(f"{self.holds} views of received data are alive: drop them before the engine is closed")
        if pb_call_depth()[0] and os.getpid() == self.pid:
            raise PybypassError.make("PB045", _errno.EDEADLK)
        self.closing = True
        if os.getpid() == self.pid:
            pb_app_shut(self.app)
            while self.users:
                with nogil:
                    usleep(100)
        self.destroy()
        self.slowpath = None

    def in_use(self):
        """For the measuring loops in C: `with core.in_use() as pointer` keeps the engine from being closed."""
        return InUse(self)

    # ---- the loop ----

    def start_loop(self, int cpu, long long spin_ns):
        cdef pb_loop_config cfg
        cdef int err = 0
        self.enter()
        try:
            cfg.cpu = cpu
            cfg.spin_ns = FOREVER if spin_ns < 0 else <uint64_t>spin_ns
            pb_app_set_inline(self.app, False)
            self.loop = pb_loop_start(self.path, &cfg, &err)
            if self.loop == NULL:
                pb_app_set_inline(self.app, True)
                raise PybypassError.make("PB044", -err, f"cpu {cpu}")
        finally:
            self.leave()

    def stop_loop(self):
        cdef pb_loop *l = self.loop
        self.enter()
        try:
            self.loop = NULL
            if l != NULL:
                with nogil:
                    pb_loop_stop(l)
                pb_app_set_inline(self.app, True)
        finally:
            self.leave()

    @property
    def loop_cpu(self):
        return pb_loop_cpu(self.loop) if self.loop != NULL else -1

    def loop_info(self):
        cdef pb_loop_info i
        if self.loop == NULL:
            return None
        pb_loop_get_info(self.loop, &i)
        return {"cpu_s": i.cpu_ns / 1e9, "wall_s": i.wall_ns / 1e9, "sleeps": i.sleeps}

    @property
    def threaded(self):
        return self.loop != NULL

    cdef int check_loop(self) except -1:
        cdef int rc
        if self.loop != NULL:
            rc = pb_loop_error(self.loop)
            if rc:
                raise PybypassError.make("PB033", -rc)
        return 0

    cdef int kick(self) except -1:
        """After a call that gave the loop something to do: without a thread it is done here."""
        cdef int rc
        if self.loop == NULL:
            with nogil:
                rc = pb_app_progress(self.app)
            if rc < 0:
                raise PybypassError.make("PB033", -rc)
        return 0

    def wait(self, int s, unsigned mask, timeout=None):
        """Waits for what mask names; returns what is true, 0 at the timeout (seconds, None: for ever)."""
        self.enter()
        try:
            return self.wait_until(s, mask, until_of(timeout))
        finally:
            self.leave()

    cdef int wait_until(self, int s, unsigned mask, uint64_t until) except -1:
        cdef uint64_t stop, now, spin = self.spin_ns
        cdef int m
        while True:
            self.alive()
            now = pb_now_ns()
            stop = now + SLICE_NS
            if stop > until:
                stop = until
            with nogil:
                m = pb_app_wait(self.app, s, mask, stop, spin)
            if m < 0:
                self.alive()   # being closed is not the device's fault
                raise PybypassError.make("PB033", -m)
            if m & PB_SOCK_SLOWPATH and s != SLOWPATH_ONLY:
                if self.slowpath is not None:
                    self.slowpath()
                m &= ~PB_SOCK_SLOWPATH
                if m:
                    return m
                if pb_now_ns() < until:
                    continue
            if m:
                return m
            self.check_loop()
            PyErr_CheckSignals()
            if self.loop == NULL and self.slowpath is not None:
                self.slowpath()   # it may be waiting for neighbours that the kernel is to find
            if pb_now_ns() >= until:
                return 0
            spin = 0   # it has spun already

    cdef int ask(self, pb_cmd_op op, void *ptr) except -1:
        """With `asking` held. ptr belongs to this object: the loop may write it after the caller has given up."""
        cdef uint64_t until = pb_now_ns() + 5000000000
        self.alive()
        while pb_app_call(self.app, op, ptr) != -_errno.EINPROGRESS:
            self.wait_until(ANY_SOCK, 0, pb_now_ns() + 1000000)
        while not pb_app_replied(self.app):
            if pb_now_ns() > until:
                self.check_loop()
                raise connection_error(_errno.ETIMEDOUT, "the loop does not answer")
            self.kick()
            if self.loop != NULL:
                with nogil:
                    pb_app_wait(self.app, ANY_SOCK, 0, pb_now_ns() + 1000000, 20000)
        return 0


cdef class InUse:
    cdef Core core

    def __cinit__(self, Core core):
        self.core = core

    def __enter__(self):
        self.core.enter()
        return <size_t>self.core.app

    def __exit__(self, *exc):
        self.core.leave()


cdef void *aligned(size_t n) noexcept:
    return aligned_alloc(64, (n + 63) & ~<size_t>63)
