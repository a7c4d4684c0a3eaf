# csrc/script/host.h
from pybypass.c.tcp cimport pb_tcp, pb_tcp_endpoint
from pybypass.c.types cimport int32_t, int64_t, pb_ip, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "script/host.h" nogil:
    cdef struct pb_host:
        pass
    cdef struct pb_host_config:
        uint8_t layout
        uint8_t acks
        bint psh
        const char *cc
        uint16_t mtu[2]
        uint32_t frames
        uint64_t start_ns
        uint8_t secret[16]
        pb_ip addr[2]
    enum:
        PB_HOST_PACKET_MAX
    void pb_host_config_default(pb_host_config *cfg)
    pb_host *pb_host_create(const pb_host_config *cfg, int *err)
    void pb_host_destroy(pb_host *h)
    const char *pb_host_knob_name(unsigned i, unsigned *fields)
    int pb_host_set_knob(pb_host *h, const char *name, unsigned field, int64_t value)
    int pb_host_get_knob(const pb_host *h, const char *name, unsigned field, int64_t *value)
    uint64_t pb_host_now(const pb_host *h)
    uint64_t pb_host_next_ns(const pb_host *h)
    void pb_host_advance(pb_host *h, uint64_t now_ns)
    unsigned pb_host_input(pb_host *h, const void *ip, uint32_t n)
    int pb_host_output(pb_host *h, void *ip, uint32_t room, uint64_t *time_ns)
    void pb_host_set_stuck(pb_host *h, bint stuck)
    int pb_host_socket(pb_host *h, int family, int type, int protocol)
    int pb_host_bind(pb_host *h, int s, const pb_tcp_endpoint *local)
    int pb_host_listen(pb_host *h, int s, int backlog)
    int pb_host_accept(pb_host *h, int s, pb_tcp_endpoint *remote)
    int pb_host_connect(pb_host *h, int s, const pb_tcp_endpoint *remote)
    int64_t pb_host_recv(pb_host *h, int s, void *buf, size_t n, int flags)
    int64_t pb_host_send(pb_host *h, int s, const void *buf, size_t n, int flags)
    int pb_host_shutdown(pb_host *h, int s, int how)
    int pb_host_close(pb_host *h, int s)
    int pb_host_ioctl(pb_host *h, int s, unsigned long request, int32_t *value)
    int pb_host_setsockopt(pb_host *h, int s, int level, int name, const void *v, uint32_t n)
    int pb_host_getsockopt(pb_host *h, int s, int level, int name, void *v, uint32_t *n)
    int pb_host_events(pb_host *h, int s)
    int pb_host_names(pb_host *h, int s, pb_tcp_endpoint *local, pb_tcp_endpoint *remote)
    pb_tcp *pb_host_engine(pb_host *h)
