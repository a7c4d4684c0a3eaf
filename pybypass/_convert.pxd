from pybypass.c.drops cimport pb_drops
from pybypass.c.path cimport pb_path_report
from pybypass.c.tcp cimport pb_tcp_config, pb_tcp_endpoint, pb_tcp_info, pb_tcp_stats
from pybypass.c.types cimport pb_ip, uint64_t

cdef int ip_in(bytes raw, pb_ip *out) except -1
cdef bytes ip_out(const pb_ip *ip)
cdef int endpoint_in(tuple t, pb_tcp_endpoint *out) except -1
cdef int fill_config(pb_tcp_config *c, dict v) except -1
cdef dict drops_dict(const pb_drops *d)
# Of the counters those that nstat has too, or the others.
cdef dict counters_dict(const pb_tcp_stats *t, bint nstat)
cdef dict info_dict(const pb_tcp_info *i)
cdef dict report_dict(const pb_path_report *r)
# Any C-contiguous buffer as a flat one of bytes, without a copy.
cdef object as_bytes(data)
# The time at which a timeout (seconds, None: never) ends.
cdef uint64_t until_of(timeout) except? 0
