# cython: language_level=3
"""Frame pools, drop reasons and live handles."""

import os

from cpython.pycapsule cimport PyCapsule_New

from pybypass.c cimport drops as cd
from pybypass.c.pool cimport (
    PB_OWN_COUNT,
    PB_WANT_4K,
    PB_WANT_BEST,
    PB_WANT_HUGETLB,
    PB_WANT_THP,
    pb_owner_name,
    pb_page_want,
    pb_pool_create_lead,
    pb_pool_get_info,
    pb_pool_info,
    pb_pool_unref,
)

from pybypass.c.numa cimport pb_numa_node_of, pb_numa_policy, pb_numa_prefer, pb_numa_restore

from pybypass.errors import PybypassError

cdef const char *POOL_CAPSULE = b"pybypass.pb_pool.v1"
cdef dict PAGES = {"best": PB_WANT_BEST, "hugetlb": PB_WANT_HUGETLB, "thp": PB_WANT_THP, "4k": PB_WANT_4K}
DPDK_LEAD = 192  # PB_DPDK_LEAD of csrc/dev/dpdk.h, which asserts it
PAGE_KINDS = ("4k", "thp", "hugetlb")


cdef class Umem:
    def __cinit__(self, *, frames=8192, frame_bytes=2048, str pages="best", bint unaligned=False, bint dpdk=False,
                  node=None):
        cdef int err = 0
        if pages not in PAGES:
            raise ValueError(f"pages must be one of {', '.join(PAGES)}, not {pages!r}")
        if not isinstance(frames, int) or not 64 <= frames <= 1 << 22:
            raise ValueError(f"frames must be 64 to {1 << 22}, not {frames!r}")
        if unaligned:
            if not isinstance(frame_bytes, int) or not 2048 <= frame_bytes <= 4096 or frame_bytes % 64:
                raise ValueError(f"frame_bytes must be a multiple of 64 from 2048 to 4096, not {frame_bytes!r}")
        elif frame_bytes not in (2048, 4096):
            raise ValueError(f"frame_bytes must be 2048 or 4096, not {frame_bytes!r}")
        self.unaligned, self.dpdk = unaligned, dpdk
        cdef int n = frames, size = frame_bytes
        cdef int lead = DPDK_LEAD if dpdk else 0
        cdef pb_page_want want = <pb_page_want><int>PAGES[pages]
        cdef pb_numa_policy before
        cdef int where = -1
        if node is not None:
            where = node
            err = pb_numa_prefer(where, &before)
            if err:
                raise ValueError(f"node {node}: {os.strerror(-err)}")
        with nogil:
            self.pool = pb_pool_create_lead(n, size, lead, want, &err)
        if node is not None:
            pb_numa_restore(&before)
        if self.pool == NULL:
            raise PybypassError.make("PB002" if pages == "hugetlb" else "PB001", -err, f"{frames} frames of {frame_bytes} bytes")

    def __dealloc__(self):
        pb_pool_unref(self.pool)

    cdef pb_pool *handle(self) except NULL:
        if self.pool == NULL:
            raise ValueError("the Umem was not made")
        return self.pool

    cdef object node(self):
        cdef int found = pb_numa_node_of(self.handle().base)
        return found if found >= 0 else None

    def info(self):
        cdef pb_pool_info i
        pb_pool_get_info(self.handle(), &i)
        return {
            "frames": i.frames,
            "frame_bytes": i.frame_bytes,
            "lead": i.lead,
            "node": self.node(),
            "region_bytes": i.region_bytes,
            "pages": PAGE_KINDS[i.pages],
            "unaligned": bool(self.unaligned),
            "debug": bool(i.debug),
            "owners": {pb_owner_name(o).decode(): i.own[o] for o in range(<int>PB_OWN_COUNT)},
            "violations": i.violations,
        }

    def capsule(self):
        return PyCapsule_New(self.handle(), POOL_CAPSULE, NULL)

    def __repr__(self):
        return f"<Umem {self.handle().nframes} frames of {self.handle().stride} bytes, {self.info()['pages']} pages>"


def drop_reasons():
    return {cd.pb_drop_name(i).decode(): cd.pb_drop_why(i).decode() for i in range(1, cd.PB_DROP_COUNT)}


def live_handles():
    return {cd.pb_handle_name(i).decode(): cd.pb_handles_live(<cd.pb_handle>i) for i in range(cd.PB_HANDLE_COUNT)}
