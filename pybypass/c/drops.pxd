# csrc/base/drops.h, csrc/base/handles.h
from libc.stdint cimport uint64_t, int64_t

cdef extern from "base/drops.h" nogil:
    enum: PB_DROP_COUNT
    cdef struct pb_drops:
        uint64_t n[1]
    const char *pb_drop_name(unsigned reason)
    const char *pb_drop_why(unsigned reason)

cdef extern from "base/handles.h" nogil:
    enum: PB_HANDLE_COUNT
    cdef enum pb_handle:
        pass
    int64_t pb_handles_live(pb_handle kind)
    const char *pb_handle_name(unsigned kind)
