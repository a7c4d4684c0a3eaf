# csrc/net/net.h, csrc/path/*.h
from pybypass.c.dev cimport pb_dev, pb_dev_stats
from pybypass.c.drops cimport pb_drops
from pybypass.c.pool cimport pb_desc
from pybypass.c.tcp cimport pb_cc_ops, pb_tcp_trace, pb_tcp_config, pb_tcp_endpoint, pb_tcp_info, pb_tcp_stats
from pybypass.c.types cimport int64_t, pb_ip, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "net/net.h" nogil:
    cdef struct pb_net:
        pb_ip gw4, gw6
        uint16_t vlan
    cdef struct pb_net_routes:
        uint32_t n
    int pb_net_routes_add(pb_net_routes *r, const pb_ip *dst, unsigned prefix, const pb_ip *gw)
    int pb_net_add_local(pb_net *net, const pb_ip *addr, unsigned prefix)

cdef extern from "path/tap.h" nogil:
    cdef struct pb_tap:
        uint8_t *buf
        size_t size, used
        uint64_t pkts, dropped

cdef extern from "path/chan.h" nogil:
    cdef enum pb_cmd_op:
        PB_CMD_STATS
        PB_CMD_TRACE
        PB_CMD_TAP
        PB_CMD_ROUTES
    cdef struct pb_trace_want:
        pb_tcp_trace *records
        int room, n
        uint64_t lost
    cdef enum pb_exc_reason:
        PB_EXC_ARP
        PB_EXC_ICMP
        PB_EXC_UDP
        PB_EXC_IP_OTHER
        PB_EXC_L2_OTHER
        PB_EXC_NEIGH
        PB_EXC_DOUBT
        PB_EXC_ACCEPT
        PB_EXC_NOT_OURS
    cdef struct pb_exc:
        pb_desc d
        uint32_t reason
        pb_ip addr
    cdef struct pb_chan:
        pass
    cdef struct pb_waitq:
        pass
    uint32_t pb_waitq_enter(pb_waitq *q)
    void pb_waitq_wait(pb_waitq *q, uint32_t seq, uint64_t max_ns)
    void pb_waitq_leave(pb_waitq *q)
    void pb_waitq_wake_always(pb_waitq *q)
    int pb_chan_init(pb_chan *ch, uint32_t slots)
    void pb_chan_fini(pb_chan *ch)

cdef extern from "path/path.h" nogil:
    cdef struct pb_path_stats:
        uint64_t steps, idle_steps, rx_pkts, tx_pkts, exceptions, injected, parked, stray_out, stray_in
        pb_drops drops
    cdef struct pb_path:
        pb_dev *dev
        pb_net net
    cdef struct pb_path_report:
        pb_path_stats path
        pb_tcp_stats tcp
        pb_dev_stats dev
    pb_path *pb_path_create(pb_dev *dev, const pb_tcp_config *tcp, pb_chan *chan, int *err)
    void pb_path_destroy(pb_path *p)
    int pb_path_step(pb_path *p, uint64_t now_ns)

cdef extern from "path/group.h" nogil:
    enum: PB_GROUP_MAX
    cdef struct pb_group
    pb_group *pb_group_create(uint32_t members, uint32_t flows, const uint8_t *secret, int *err)
    void pb_group_unref(pb_group *g)
    int pb_group_join(pb_group *g, pb_path *p, uint32_t who)
    pb_waitq *pb_group_waitq(pb_group *g, bint slow)
    uint32_t pb_group_flows(const pb_group *g)

cdef extern from "path/loop.h" nogil:
    cdef struct pb_loop
    cdef struct pb_loop_config:
        int cpu
        uint64_t spin_ns
    pb_loop *pb_loop_start(pb_path *p, const pb_loop_config *cfg, int *err)
    void pb_loop_stop(pb_loop *l)
    int pb_loop_cpu(const pb_loop *l)
    int pb_loop_error(const pb_loop *l)
    cdef struct pb_loop_info:
        uint64_t cpu_ns, wall_ns, sleeps
    void pb_loop_get_info "pb_loop_info"(const pb_loop *l, pb_loop_info *info)
    uint64_t pb_now_ns()

cdef extern from "path/sock.h" nogil:
    cdef struct pb_app
    enum:
        PB_SOCK_CONNECTED
        PB_SOCK_ACCEPT
        PB_SOCK_READ
        PB_SOCK_WRITE
        PB_SOCK_FIN
        PB_SOCK_CLOSED
        PB_SOCK_ERROR
        PB_SOCK_GONE
        PB_SOCK_REPLY
        PB_SOCK_SLOWPATH
        PB_SOCK_SENT
        PB_SOCK_OPENED
    cdef struct pb_sock_name:
        pb_tcp_endpoint local, remote
    cdef struct pb_app_config:
        uint32_t max_socks
        uint32_t sndbuf_bytes
        uint32_t reserve_frames
    pb_app *pb_app_create(pb_path *p, const pb_app_config *cfg, int *err)
    void pb_app_destroy(pb_app *a)
    void pb_app_set_inline(pb_app *a, bint on)
    int pb_sock_connect(pb_app *a, const pb_tcp_endpoint *local, const pb_tcp_endpoint *remote)
    int pb_sock_listen(pb_app *a, const pb_tcp_endpoint *local, uint32_t backlog)
    int pb_sock_accept(pb_app *a, int listener)
    int64_t pb_sock_send(pb_app *a, int s, const void *buf, size_t n, unsigned flags)
    int64_t pb_sock_recv(pb_app *a, int s, void *buf, size_t n)
    int pb_sock_recv_frame(pb_app *a, int s, pb_desc *d)
    void pb_sock_release(pb_app *a, int s, uint64_t serial, const pb_desc *d)
    uint64_t pb_sock_serial(pb_app *a, int s)
    int pb_sock_shutdown(pb_app *a, int s, int how)
    int pb_sock_info(pb_app *a, int s)
    int pb_sock_set_option(pb_app *a, int s, unsigned option, int64_t value)
    int pb_sock_get_option(pb_app *a, int s, unsigned option, int64_t *value)
    int pb_sock_set_cc(pb_app *a, int s, const pb_cc_ops *cc)
    int pb_sock_reply(pb_app *a, int s, pb_tcp_info *info)
    int pb_sock_close(pb_app *a, int s, bint abort)
    unsigned pb_sock_poll(pb_app *a, int s)
    int pb_sock_error(pb_app *a, int s)
    int pb_sock_get_name "pb_sock_name"(pb_app *a, int s, pb_sock_name *name)
    int pb_app_freed(pb_app *a, pb_tcp_endpoint *local, int n)
    void pb_app_shut(pb_app *a)
    void pb_app_wake_all(pb_app *a)
    int pb_app_progress(pb_app *a)
    int pb_app_wait(pb_app *a, int s, unsigned mask, uint64_t until_ns, uint64_t spin_ns)
    int pb_app_exceptions(pb_app *a, pb_exc *x, int n)
    void pb_app_free(pb_app *a, uint64_t addr)
    void pb_app_hand_over(pb_app *a, bint on)
    int pb_app_inject(pb_app *a, const void *frame, uint32_t n)
    int pb_app_judged(pb_app *a, const void *frame, uint32_t n, bint admitted)
    int pb_app_neigh(pb_app *a, const pb_ip *addr, const uint8_t *mac)
    int pb_app_call(pb_app *a, pb_cmd_op op, void *ptr)
    bint pb_app_replied(pb_app *a)
