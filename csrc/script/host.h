/* A host for scripts: BSD sockets with Linux's numbers and semantics over ONE sans-IO TCP engine, on a virtual clock.
 * No system call, no clock, no thread, no global. A script's runner and a conformance tool's adapter sit on it alike,
 * so that they come to the same verdict.
 *
 *   pb_host_socket ... pb_host_close   what an application does     pb_host_input    an IP packet comes in
 *   pb_host_advance                    time passes, timers fire     pb_host_output   an IP packet that went out, with
 *   pb_host_next_ns                    when one is due                               its time
 *
 * Calls happen at pb_host_now(). Everything they cause goes out at that time, and the device is done with a packet at
 * once. No call blocks: -EAGAIN is for the caller, who lets time pass and asks again. Results are >= 0 or -errno, with
 * the errno that Linux gives. A socket is a small number from 0 up, its own until pb_host_close().
 *
 * Knobs have the names of /proc/sys/net/ipv4. The engine is made with the first socket or packet, by the knobs as they
 * are then; those of single connections (marked in knobs.c) are read again when a socket connects or listens. */
#ifndef PB_SCRIPT_HOST_H
#define PB_SCRIPT_HOST_H
#include "base/drops.h"
#include "tcp/tcp.h"

struct pb_host;

/* In which order TCP options stand in what goes out, and how they are padded. */
enum pb_host_layout { PB_HOST_AS_IS = 0, PB_HOST_LINUX, PB_HOST_FREEBSD };
/* When data is acknowledged. */
enum pb_host_acks { PB_HOST_ACKS_LINUX = 0, PB_HOST_ACKS_BSD };

struct pb_host_config {
	uint8_t layout; /* enum pb_host_layout */
	uint8_t acks;   /* enum pb_host_acks */
	bool psh;       /* PSH as Linux sets it: on the last of each super-segment that it would have built */
	const char
		*cc; /* congestion control of every socket that does not name one; NULL: the knob's, or the engine's */
	uint16_t mtu[2]; /* of the only interface, for IPv4 and IPv6 */
	uint32_t frames; /* of memory, 2048 bytes each */
	uint64_t start_ns;
	uint8_t secret[16];
	struct pb_ip addr[2]; /* source of a socket that connects without being bound: IPv4, IPv6 */
};

#define PB_HOST_SOCKETS 64
#define PB_HOST_PACKET_MAX 65600

PB_API void pb_host_config_default(struct pb_host_config *cfg);
/* NULL and -errno in *err: -EINVAL, -ENOMEM, -EPROTONOSUPPORT for a cc or an ACK profile that the engine lacks. */
PB_API struct pb_host *pb_host_create(const struct pb_host_config *cfg, int *err);
PB_API void pb_host_destroy(struct pb_host *h);

/* ---- knobs ---- */
/* The names, and how many numbers each has; NULL past the last. */
PB_API const char *pb_host_knob_name(unsigned i, unsigned *fields);
/* field: 0 for a single number; tcp_rmem has 0 to 2. -ENOENT: no such knob, -EINVAL: no such field. */
PB_API int pb_host_set_knob(struct pb_host *h, const char *name, unsigned field, int64_t value);
PB_API int pb_host_get_knob(const struct pb_host *h, const char *name, unsigned field, int64_t *value);

/* tcp_congestion_control: of sockets made from now on. -ENOENT: not known here. "cubic" to begin with. */
PB_API int pb_host_set_congestion(struct pb_host *h, const char *name);

/* ---- time and packets ---- */
PB_API uint64_t pb_host_now(const struct pb_host *h);
/* UINT64_MAX: nothing is due. Never in the past. */
PB_API uint64_t pb_host_next_ns(const struct pb_host *h);
/* To now_ns, stopping at every timer on the way. A time that has passed already is now. */
PB_API void pb_host_advance(struct pb_host *h, uint64_t now_ns);
/* Packets larger than the MTU are taken in pieces, as a NIC would have received them. Returns the reason (enum pb_drop)
 * why it was not used, 0 for none. */
PB_API unsigned pb_host_input(struct pb_host *h, const void *ip, uint32_t len);
/* The oldest packet that went out: its length and its time; 0 when there is none. -ENOBUFS: longer than room, and it
 * stays. */
PB_API int pb_host_output(struct pb_host *h, void *ip, uint32_t room, uint64_t *time_ns);
/* Nothing can leave any more (a queue without room), or it can again. */
PB_API void pb_host_set_stuck(struct pb_host *h, bool stuck);

/* ---- sockets ---- */
/* family 4 or 6, type and protocol as Linux counts them: streams of TCP only. */
PB_API int pb_host_socket(struct pb_host *h, int family, int type, int protocol);
PB_API int pb_host_bind(struct pb_host *h, int s, const struct pb_tcp_endpoint *local);
PB_API int pb_host_listen(struct pb_host *h, int s, int backlog);
/* The new socket. */
PB_API int pb_host_accept(struct pb_host *h, int s, struct pb_tcp_endpoint *remote);
/* -EINPROGRESS: it began; -EALREADY: not decided yet; 0: connected; -EISCONN: was before. An error is told once. */
PB_API int pb_host_connect(struct pb_host *h, int s, const struct pb_tcp_endpoint *remote);
/* flags: MSG_TRUNC (thrown away); MSG_WAITALL is the caller's affair, MSG_PEEK -EOPNOTSUPP. buf may be NULL with
 * MSG_TRUNC. */
PB_API int64_t pb_host_recv(struct pb_host *h, int s, void *buf, size_t n, int flags);
/* Bytes taken, perhaps not all. After -EAGAIN there must be a third of the buffer free, as for a call that waits in
 * Linux; with MSG_DONTWAIT any room will do. */
PB_API int64_t pb_host_send(struct pb_host *h, int s, const void *buf, size_t n, int flags);
PB_API int pb_host_shutdown(struct pb_host *h, int s, int how);
/* With SO_LINGER of no time, RST. With a time -EAGAIN while data or the FIN are not acknowledged: the socket is there
 * until a further call gives 0, which it does when the time is over too. Otherwise the socket is gone. */
PB_API int pb_host_close(struct pb_host *h, int s);
/* SIOCINQ, SIOCOUTQ, SIOCOUTQNSD. */
PB_API int pb_host_ioctl(struct pb_host *h, int s, unsigned long request, int32_t *value);
/* n: bytes at v; getsockopt: room, then what was written. */
PB_API int pb_host_setsockopt(struct pb_host *h, int s, int level, int name, const void *v, uint32_t n);
PB_API int pb_host_getsockopt(struct pb_host *h, int s, int level, int name, void *v, uint32_t *n);
/* POLLIN, POLLOUT, POLLERR, POLLHUP, POLLRDHUP; -EBADF. */
PB_API int pb_host_events(struct pb_host *h, int s);
/* Where a socket is bound or connected to; zero where it is not. */
PB_API int pb_host_names(struct pb_host *h, int s, struct pb_tcp_endpoint *local, struct pb_tcp_endpoint *remote);
/* The engine's own account of a connection. -ENOTCONN: it has none. */
PB_API int pb_host_info(struct pb_host *h, int s, struct pb_tcp_info *info);
/* NULL before the first socket. */
PB_API struct pb_tcp *pb_host_engine(struct pb_host *h);
/* Where its frames are from. */
PB_API struct pb_pool *pb_host_pool(struct pb_host *h);
#endif
