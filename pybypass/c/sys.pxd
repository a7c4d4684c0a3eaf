from libc.stdint cimport uint64_t


cdef extern from "dev/netns.h" nogil:
    int pb_netns_new()
    int pb_netns_enter(int fd)
    uint64_t pb_netns_id()
    int pb_pdeathsig(int sig)
