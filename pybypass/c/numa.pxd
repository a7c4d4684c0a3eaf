cdef extern from "mem/numa.h" nogil:
    cdef struct pb_numa_policy:
        int mode
    int pb_numa_prefer(int node, pb_numa_policy *before)
    void pb_numa_restore(const pb_numa_policy *before)
    int pb_numa_node_of(const void *at)
