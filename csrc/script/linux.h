/* The numbers that a program on Linux hands to its socket calls, and the layout of what TCP_INFO gives back (kernel
 * UAPI: asm-generic/socket.h, linux/tcp.h, linux/in.h, linux/in6.h, linux/errqueue.h). Restated here so that scripts
 * mean the same wherever they run. */
#ifndef PB_SCRIPT_LINUX_H
#define PB_SCRIPT_LINUX_H
#include "base/types.h"

enum pb_lx_level { LX_SOL_IP = 0, LX_SOL_SOCKET = 1, LX_SOL_TCP = 6, LX_SOL_IPV6 = 41 };

enum pb_lx_so {
	LX_SO_REUSEADDR = 2,
	LX_SO_TYPE = 3,
	LX_SO_ERROR = 4,
	LX_SO_SNDBUF = 7,
	LX_SO_RCVBUF = 8,
	LX_SO_KEEPALIVE = 9,
	LX_SO_OOBINLINE = 10,
	LX_SO_PRIORITY = 12,
	LX_SO_LINGER = 13,
	LX_SO_REUSEPORT = 15,
	LX_SO_RCVLOWAT = 18,
	LX_SO_ACCEPTCONN = 30,
	LX_SO_SNDBUFFORCE = 32,
	LX_SO_RCVBUFFORCE = 33,
	LX_SO_MARK = 36,
	LX_SO_TIMESTAMPING = 37,
	LX_SO_PROTOCOL = 38,
	LX_SO_DOMAIN = 39,
	LX_SO_BUSY_POLL = 46,
	LX_SO_MAX_PACING_RATE = 47,
	LX_SO_MEMINFO = 55,
	LX_SO_ZEROCOPY = 60,
};

enum pb_lx_tcp {
	LX_TCP_NODELAY = 1,
	LX_TCP_MAXSEG = 2,
	LX_TCP_CORK = 3,
	LX_TCP_KEEPIDLE = 4,
	LX_TCP_KEEPINTVL = 5,
	LX_TCP_KEEPCNT = 6,
	LX_TCP_SYNCNT = 7,
	LX_TCP_LINGER2 = 8,
	LX_TCP_DEFER_ACCEPT = 9,
	LX_TCP_WINDOW_CLAMP = 10,
	LX_TCP_INFO = 11,
	LX_TCP_QUICKACK = 12,
	LX_TCP_CONGESTION = 13,
	LX_TCP_THIN_LINEAR_TIMEOUTS = 16,
	LX_TCP_USER_TIMEOUT = 18,
	LX_TCP_TIMESTAMP = 24,
	LX_TCP_NOTSENT_LOWAT = 25,
	LX_TCP_CC_INFO = 26,
	LX_TCP_INQ = 36,
	LX_TCP_RTO_MAX_MS = 44,
	LX_TCP_RTO_MIN_US = 45,
	LX_TCP_DELACK_MAX_US = 46,
};

enum pb_lx_ip {
	LX_IP_TOS = 1,
	LX_IP_TTL = 2,
	LX_IP_MTU_DISCOVER = 10,
	LX_IP_RECVERR = 11,
	LX_IP_MTU = 14,
	LX_IP_FREEBIND = 15,
	LX_IPV6_UNICAST_HOPS = 16,
	LX_IPV6_MTU_DISCOVER = 23,
	LX_IPV6_MTU = 24,
	LX_IPV6_RECVERR = 25,
	LX_IPV6_V6ONLY = 26,
	LX_IPV6_TCLASS = 67,
};

enum pb_lx_msg {
	LX_MSG_OOB = 0x1,
	LX_MSG_PEEK = 0x2,
	LX_MSG_TRUNC = 0x20,
	LX_MSG_DONTWAIT = 0x40,
	LX_MSG_EOR = 0x80,
	LX_MSG_WAITALL = 0x100,
	LX_MSG_ERRQUEUE = 0x2000,
	LX_MSG_NOSIGNAL = 0x4000,
	LX_MSG_MORE = 0x8000,
	LX_MSG_ZEROCOPY = 0x4000000,
	LX_MSG_FASTOPEN = 0x20000000,
};

enum pb_lx_ioctl { LX_SIOCINQ = 0x541b, LX_SIOCOUTQ = 0x5411, LX_SIOCOUTQNSD = 0x894b };

enum pb_lx_poll {
	LX_POLLIN = 0x1,
	LX_POLLOUT = 0x4,
	LX_POLLERR = 0x8,
	LX_POLLHUP = 0x10,
	LX_POLLRDHUP = 0x2000,
};

enum { LX_SOCK_STREAM = 1, LX_IPPROTO_TCP = 6 };

/* tcpi_state: Linux counts from 1 and in another order. */
enum pb_lx_state {
	LX_ESTABLISHED = 1,
	LX_SYN_SENT,
	LX_SYN_RECV,
	LX_FIN_WAIT1,
	LX_FIN_WAIT2,
	LX_TIME_WAIT,
	LX_CLOSE,
	LX_CLOSE_WAIT,
	LX_LAST_ACK,
	LX_LISTEN,
	LX_CLOSING,
};

enum pb_lx_info_opt {
	LX_TCPI_OPT_TIMESTAMPS = 1,
	LX_TCPI_OPT_SACK = 2,
	LX_TCPI_OPT_WSCALE = 4,
	LX_TCPI_OPT_ECN = 8,
	LX_TCPI_OPT_ECN_SEEN = 16,
};

/* struct tcp_info. Where Linux has bit fields, whole bytes: the first bit is the lowest. */
struct pb_lx_tcp_info {
	uint8_t state, ca_state, retransmits, probes, backoff, options;
	uint8_t wscale; /* sending in the low half, receiving in the high one */
	uint8_t app_limited;
	uint32_t rto, ato, snd_mss, rcv_mss; /* us, us, bytes */
	uint32_t unacked, sacked, lost, retrans, fackets;
	uint32_t last_data_sent, last_ack_sent, last_data_recv, last_ack_recv; /* ms ago */
	uint32_t pmtu, rcv_ssthresh, rtt, rttvar, snd_ssthresh, snd_cwnd, advmss, reordering;
	uint32_t rcv_rtt, rcv_space, total_retrans;
	uint64_t pacing_rate, max_pacing_rate, bytes_acked, bytes_received;
	uint32_t segs_out, segs_in, notsent_bytes, min_rtt, data_segs_in, data_segs_out;
	uint64_t delivery_rate, busy_time, rwnd_limited, sndbuf_limited; /* times in us */
	uint32_t delivered, delivered_ce;
	uint64_t bytes_sent, bytes_retrans;
	uint32_t dsack_dups, reord_seen, rcv_ooopack, snd_wnd, rcv_wnd, rehash;
	uint16_t total_rto, total_rto_recoveries;
	uint32_t total_rto_time, received_ce;
	uint32_t delivered_bytes[3], received_bytes[3]; /* by ECN code point: accurate ECN, not spoken here */
	uint32_t ecn_mode;
};
_Static_assert(offsetof(struct pb_lx_tcp_info, rto) == 8, "UAPI");
_Static_assert(offsetof(struct pb_lx_tcp_info, pacing_rate) == 104, "UAPI");
_Static_assert(offsetof(struct pb_lx_tcp_info, delivered) == 192, "UAPI");
_Static_assert(offsetof(struct pb_lx_tcp_info, total_rto) == 240, "UAPI");
_Static_assert(sizeof(struct pb_lx_tcp_info) == 280, "UAPI");

enum { LX_TCP_INFINITE_SSTHRESH = 0x7fffffff };

struct pb_lx_linger {
	int32_t onoff, seconds;
};
#endif
