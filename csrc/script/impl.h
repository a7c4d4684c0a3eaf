/* The host's own structures. Private to csrc/script. */
#ifndef PB_SCRIPT_IMPL_H
#define PB_SCRIPT_IMPL_H
#include "script/host.h"
#include "script/linux.h"

/* name, numbers, their defaults (those of the kernel). */
#define KNOB_LIST(X)                                                                                                   \
	X(tcp_rmem, 3, 4096, 131072, 6291456)                                                                          \
	X(tcp_wmem, 3, 4096, 16384, 4194304)                                                                           \
	X(tcp_timestamps, 1, 1, 0, 0)                                                                                  \
	X(tcp_sack, 1, 1, 0, 0)                                                                                        \
	X(tcp_dsack, 1, 1, 0, 0)                                                                                       \
	X(tcp_fack, 1, 0, 0, 0)                                                                                        \
	X(tcp_window_scaling, 1, 1, 0, 0)                                                                              \
	X(tcp_ecn, 1, 2, 0, 0)                                                                                         \
	X(tcp_ecn_fallback, 1, 1, 0, 0)                                                                                \
	X(tcp_ecn_option, 1, 2, 0, 0)                                                                                  \
	X(tcp_syn_retries, 1, 6, 0, 0)                                                                                 \
	X(tcp_syn_linear_timeouts, 1, 4, 0, 0)                                                                         \
	X(tcp_synack_retries, 1, 5, 0, 0)                                                                              \
	X(tcp_retries1, 1, 3, 0, 0)                                                                                    \
	X(tcp_retries2, 1, 15, 0, 0)                                                                                   \
	X(tcp_orphan_retries, 1, 0, 0, 0)                                                                              \
	X(tcp_frto, 1, 2, 0, 0)                                                                                        \
	X(tcp_recovery, 1, 1, 0, 0)                                                                                    \
	X(tcp_early_retrans, 1, 3, 0, 0)                                                                               \
	X(tcp_reordering, 1, 3, 0, 0)                                                                                  \
	X(tcp_max_reordering, 1, 300, 0, 0)                                                                            \
	X(tcp_slow_start_after_idle, 1, 1, 0, 0)                                                                       \
	X(tcp_mtu_probing, 1, 0, 0, 0)                                                                                 \
	X(tcp_base_mss, 1, 1024, 0, 0)                                                                                 \
	X(tcp_min_snd_mss, 1, 48, 0, 0)                                                                                \
	X(tcp_mtu_probe_floor, 1, 48, 0, 0)                                                                            \
	X(tcp_probe_interval, 1, 600, 0, 0)                                                                            \
	X(tcp_probe_threshold, 1, 8, 0, 0)                                                                             \
	X(tcp_fin_timeout, 1, 60, 0, 0)                                                                                \
	X(tcp_keepalive_time, 1, 7200, 0, 0)                                                                           \
	X(tcp_keepalive_intvl, 1, 75, 0, 0)                                                                            \
	X(tcp_keepalive_probes, 1, 9, 0, 0)                                                                            \
	X(tcp_min_tso_segs, 1, 2, 0, 0)                                                                                \
	X(tcp_tso_win_divisor, 1, 3, 0, 0)                                                                             \
	X(tcp_tso_rtt_log, 1, 9, 0, 0)                                                                                 \
	X(tcp_pacing_ss_ratio, 1, 200, 0, 0)                                                                           \
	X(tcp_pacing_ca_ratio, 1, 120, 0, 0)                                                                           \
	X(tcp_notsent_lowat, 1, 4294967295, 0, 0)                                                                      \
	X(tcp_invalid_ratelimit, 1, 500, 0, 0)                                                                         \
	X(tcp_challenge_ack_limit, 1, 2147483647, 0, 0)                                                                \
	X(tcp_tw_reuse, 1, 2, 0, 0)                                                                                    \
	X(tcp_rfc1337, 1, 0, 0, 0)                                                                                     \
	X(tcp_abort_on_overflow, 1, 0, 0, 0)                                                                           \
	X(tcp_autocorking, 1, 1, 0, 0)                                                                                 \
	X(tcp_limit_output_bytes, 1, 4194304, 0, 0)                                                                    \
	X(tcp_moderate_rcvbuf, 1, 1, 0, 0)                                                                             \
	X(tcp_adv_win_scale, 1, 1, 0, 0)                                                                               \
	X(tcp_no_metrics_save, 1, 0, 0, 0)                                                                             \
	X(tcp_fastopen, 1, 1, 0, 0)                                                                                    \
	X(tcp_syncookies, 1, 1, 0, 0)                                                                                  \
	X(tcp_max_syn_backlog, 1, 4096, 0, 0)                                                                          \
	X(tcp_stdurg, 1, 0, 0, 0)                                                                                      \
	X(tcp_shrink_window, 1, 0, 0, 0)                                                                               \
	X(tcp_thin_linear_timeouts, 1, 0, 0, 0)                                                                        \
	X(tcp_comp_sack_delay_ns, 1, 1000000, 0, 0)                                                                    \
	X(tcp_comp_sack_nr, 1, 44, 0, 0)                                                                               \
	X(tcp_rto_min_us, 1, 200000, 0, 0)                                                                             \
	X(tcp_rto_max_ms, 1, 120000, 0, 0)                                                                             \
	X(ip_default_ttl, 1, 64, 0, 0)                                                                                 \
	X(ip_no_pmtu_disc, 1, 0, 0, 0)

enum knob {
#define X(name, n, a, b, c) KNOB_##name,
	KNOB_LIST(X)
#undef X
		KNOB_COUNT
};

#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull
#define PKT_BYTES 2048u

/* A packet that went out and was not fetched. */
struct out_pkt {
	uint64_t time_ns;
	uint32_t len;
	uint8_t b[PKT_BYTES - 12];
};

struct outbox {
	struct out_pkt *pkts;
	uint32_t head, n, room; /* the first that was not fetched, the end, what fits */
	uint32_t step;          /* the first of what happens now */
};

/* What setsockopt() keeps; options.c has the table. */
enum opt {
	OPT_REUSEADDR,
	OPT_REUSEPORT,
	OPT_SNDBUF,
	OPT_RCVBUF,
	OPT_KEEPALIVE,
	OPT_OOBINLINE,
	OPT_PRIORITY,
	OPT_RCVLOWAT,
	OPT_MARK,
	OPT_BUSY_POLL,
	OPT_MAX_PACING_RATE,
	OPT_ZEROCOPY,
	OPT_NODELAY,
	OPT_MAXSEG,
	OPT_CORK,
	OPT_KEEPIDLE,
	OPT_KEEPINTVL,
	OPT_KEEPCNT,
	OPT_SYNCNT,
	OPT_LINGER2,
	OPT_DEFER_ACCEPT,
	OPT_WINDOW_CLAMP,
	OPT_QUICKACK,
	OPT_THIN_LINEAR,
	OPT_USER_TIMEOUT,
	OPT_NOTSENT_LOWAT,
	OPT_INQ,
	OPT_RTO_MAX_MS,
	OPT_RTO_MIN_US,
	OPT_DELACK_MAX_US,
	OPT_TOS,
	OPT_TTL,
	OPT_MTU_DISCOVER,
	OPT_RECVERR,
	OPT_FREEBIND,
	OPT_V6ONLY,
	OPT_COUNT
};

enum phase {
	SOCK_NEW, /* perhaps bound */
	SOCK_LISTENING,
	SOCK_CONNECTING, /* the application was not told how it went */
	SOCK_CONNECTED,  /* or was: what the connection is now, the engine knows */
	SOCK_FAILED,     /* a connect failed, and the application knows */
};

#define CC_NAME_MAX 16

#define PSH_KEPT 128u

/* Where Linux would have set PSH in the stream, modulo 2^32 from its first byte: at the end of what was written, and of
 * a buffer that filled half of the window. It is shown again when the segment is sent again. That of a super-segment is
 * shown again only when all of it is sent again at once: those are kept too. */
struct pushes {
	uint32_t at[PSH_KEPT];
	uint32_t n;                               /* ever added */
	uint32_t first[PSH_KEPT], past[PSH_KEPT]; /* of super-segments */
	uint32_t supers;                          /* ever added */
	uint32_t written;                         /* by the application */
	uint32_t pushed;                          /* up to here it was marked by what was written */
	uint32_t sent;
	uint32_t base; /* sequence number of the first byte */
	bool based;
};

struct sock {
	bool used;
	uint8_t family; /* 4 or 6 */
	uint8_t phase;
	bool rcv_shut, snd_shut;
	int32_t error;      /* SO_ERROR */
	pb_tcp_handle conn; /* or listener; 0: none */
	pb_tcp_handle next; /* listener: what accept() will give; 0: ask the engine */
	struct pb_tcp_endpoint local, remote;
	struct pb_lx_linger linger;
	uint64_t linger_ns; /* close() waits until then; 0: it was not called */
	struct pushes psh;
	uint32_t tail_bytes; /* in the buffer that was begun last (io.c) */
	uint32_t max_wnd;    /* the largest window that the peer had */
	bool nospace;        /* send() had no room, so it waits for some */
	uint64_t set;        /* options that the application set: a bit each */
	int32_t opt[OPT_COUNT];
	char cc[CC_NAME_MAX];
};
_Static_assert(OPT_COUNT <= 64, "one bit each in sock.set");

struct pb_host {
	struct pb_host_config cfg;
	char cc[CC_NAME_MAX]; /* of sockets that name none */
	uint64_t now_ns;
	struct pb_pool *pool;
	struct pb_pool_cache *cache;
	struct pb_tcp *tcp; /* made with the first socket */
	int64_t knob[KNOB_COUNT][3];
	struct outbox out;
	bool stuck;
	uint16_t next_port;
	struct sock socks[PB_HOST_SOCKETS];
};

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint32_t clamp_u32(int64_t v, uint32_t low, uint32_t high)
{
	return v < (int64_t)low ? low : v > (int64_t)high ? high : (uint32_t)v;
}

/* host.c: lets everything that can happen now happen. */
void host_settle(struct pb_host *h);
/* The engine, made when there is none. 0 or -errno. */
int host_engine(struct pb_host *h);

/* knobs.c */
void knobs_default(struct pb_host *h);
/* What they mean to an engine. */
void knobs_config(const struct pb_host *h, struct pb_tcp_config *c);

/* outbox.c */
bool outbox_init(struct outbox *o);
void outbox_free(struct outbox *o);
/* False: no memory, and the packet is lost. */
bool outbox_add(struct outbox *o, const uint8_t *ip, uint32_t len, uint64_t now_ns);
/* What went out since the last call is a step: PSH is set, options are laid out. */
void outbox_end_step(struct pb_host *h);

static inline void psh_add(struct pushes *p, uint32_t pos)
{
	p->at[p->n++ % PSH_KEPT] = pos;
}

/* layout.c: rewrites the options of a segment; returns the new length. buf has PKT_BYTES. */
uint32_t layout_options(uint8_t *ip, uint32_t len, enum pb_host_layout layout);
/* Lengths and checksums of a TCP packet anew. */
void packet_finish(uint8_t *ip, uint32_t len);

/* icmp.c: an ICMP message; the reason it was not used. */
unsigned icmp_input(struct pb_host *h, const uint8_t *ip, uint32_t len);

/* sock.c */
struct sock *sock_get(struct pb_host *h, int s);
/* Its error, once: -errno, or 0. */
int sock_error(struct sock *s);
/* SO_SNDBUF and SO_RCVBUF as the knobs are now, for a socket that did not set them. */
void sock_buffers(const struct pb_host *h, struct sock *s);

/* options.c */
void options_default(struct pb_host *h, struct sock *s);
/* All that was set, to a connection or listener that is new. 0 or -errno. */
int options_apply(struct pb_host *h, struct sock *s);

/* info.c: TCP_INFO; up to n bytes, returns how many. */
uint32_t info_linux(struct pb_host *h, struct sock *s, void *v, uint32_t n);
#endif
