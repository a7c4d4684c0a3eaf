from libc.stdint cimport uint64_t

from pybypass.c.dpdk cimport pb_flow_rule

cdef list rss_names(uint64_t bits)
# KeyError for a name that is not in RSS_TYPES.
cdef uint64_t rss_bits(types) except? 0
cdef int rule_in(dict d, pb_flow_rule *r) except -1
