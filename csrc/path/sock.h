/* The application's end of a channel: sockets without system calls. Calls do not block; pb_app_wait() does, either by
 * running the loop itself (no thread: run to completion on the caller's core) or by waiting for the loop's thread.
 *
 * Any thread may call; one lock per application end, never on the loop's side.
 * Sockets are small numbers >= 0. Errors: -errno, as the socket call of the same name gives; -EAGAIN: not now. */
#ifndef PB_PATH_SOCK_H
#define PB_PATH_SOCK_H
#include "path/loop.h"
#include "path/path.h"

struct pb_app;

enum pb_sock_ready {
	PB_SOCK_CONNECTED = 1u << 0,
	PB_SOCK_ACCEPT = 1u << 1,
	PB_SOCK_READ = 1u << 2,
	PB_SOCK_WRITE = 1u << 3,
	PB_SOCK_FIN = 1u << 4,    /* the peer sends no more */
	PB_SOCK_CLOSED = 1u << 5, /* connection over, in order or not */
	PB_SOCK_ERROR = 1u << 6,
	PB_SOCK_GONE = 1u << 7, /* engine and steering have let go */
	PB_SOCK_REPLY = 1u << 8,
	PB_SOCK_SLOWPATH = 1u << 9, /* from pb_app_wait: exceptions wait for the slow path */
	PB_SOCK_SENT = 1u << 10,    /* everything sent was acknowledged */
	PB_SOCK_OPENED = 1u << 11,  /* the engine has, or had, it: pb_app_freed() will report it */
};

struct pb_sock_name {
	struct pb_tcp_endpoint local, remote;
};

struct pb_app_config {
	uint32_t max_socks; /* open ones; as many may wait for their end */
	uint32_t sndbuf_bytes;
	uint32_t reserve_frames;
};

/* Joins an application to a path (its pool, its channel). NULL and -errno in *err. */
PB_API struct pb_app *pb_app_create(struct pb_path *p, const struct pb_app_config *cfg, int *err);
/* Releases what the application holds in frames that were not handed out as views. The loop must be stopped. */
PB_API void pb_app_destroy(struct pb_app *a);
/* inline: the application's own calls drive the path (no loop thread). */
PB_API void pb_app_set_inline(struct pb_app *a, bool on);

PB_API int pb_sock_connect(struct pb_app *a, const struct pb_tcp_endpoint *local, const struct pb_tcp_endpoint *remote);
/* backlog | PB_TCP_ASK: SYNs come up as exceptions first. */
PB_API int pb_sock_listen(struct pb_app *a, const struct pb_tcp_endpoint *local, uint32_t backlog);
/* Asks for the next connection; the new socket becomes CONNECTED, or is given back with -EAGAIN when none waits. */
PB_API int pb_sock_accept(struct pb_app *a, int listener);
/* flags: enum pb_tcp_send_flag. */
PB_API int64_t pb_sock_send(struct pb_app *a, int s, const void *buf, size_t len, unsigned flags);
PB_API int64_t pb_sock_recv(struct pb_app *a, int s, void *buf, size_t len);
/* One piece of received data where it lies (owner APP); 0: end of stream. 1 or 2: the caller gives the frame back with
 * pb_sock_release(), also after the socket was closed. 2: the socket's frames are half of its receive buffer already,
 * or the pool is short: copy it out and release it at once, or the stream may stop. */
PB_API int pb_sock_recv_frame(struct pb_app *a, int s, struct pb_desc *d);
PB_API void pb_sock_release(struct pb_app *a, int s, uint64_t serial, const struct pb_desc *d);
PB_API uint64_t pb_sock_serial(struct pb_app *a, int s); /* tells a reused number from the old one */
/* These need an answer of the loop: -EINPROGRESS, then PB_SOCK_REPLY, then pb_sock_reply(). */
PB_API int pb_sock_shutdown(struct pb_app *a, int s, int how);
PB_API int pb_sock_info(struct pb_app *a, int s);
/* enum pb_tcp_option; the value is written before the reply comes. */
PB_API int pb_sock_set_option(struct pb_app *a, int s, unsigned option, int64_t value);
PB_API int pb_sock_get_option(struct pb_app *a, int s, unsigned option, int64_t *value);
PB_API int pb_sock_set_cc(struct pb_app *a, int s, const struct pb_cc_ops *cc);
PB_API int pb_sock_reply(struct pb_app *a, int s, struct pb_tcp_info *info);
/* The number is void afterwards. */
PB_API int pb_sock_close(struct pb_app *a, int s, bool abort);
PB_API unsigned pb_sock_poll(struct pb_app *a, int s);
PB_API int pb_sock_error(struct pb_app *a, int s); /* positive errno or 0 */
PB_API int pb_sock_name(struct pb_app *a, int s, struct pb_sock_name *name);
/* Local endpoints (as pb_sock_name() gives them) of sockets that are gone (TIME-WAIT included) since the last call: one
 * entry for each socket that got a handle and was closed, so that whoever holds a port may let go of it. What is not
 * taken is kept. Returns how many. */
PB_API int pb_app_freed(struct pb_app *a, struct pb_tcp_endpoint *local, int n);

/* Handles what the loop told (inline: runs one step first). Returns events handled, or -errno of the device. */
PB_API int pb_app_progress(struct pb_app *a);
#define PB_WAIT_ANY (-1)      /* until anything happened */
#define PB_WAIT_SLOWPATH (-2) /* until exceptions wait */
/* Waits until one of `mask` is true of socket s (or PB_WAIT_*), or until_ns. Inline, exceptions end every wait: the
 * caller is the slow path too. PB_WAIT_SLOWPATH also ends, with PB_SOCK_GONE, when pb_app_freed() has something; a
 * socket that another thread closes ends with PB_SOCK_CLOSED. Returns the ready mask, 0 at the deadline, -errno of the
 * device, -ESHUTDOWN after pb_app_shut(). spin_ns: how long before it sleeps. */
PB_API int pb_app_wait(struct pb_app *a, int s, unsigned mask, uint64_t until_ns, uint64_t spin_ns);
/* From now on pb_app_wait() does not wait: every thread in it comes out. Any thread, no lock. */
PB_API void pb_app_shut(struct pb_app *a);
/* Every thread that sleeps in pb_app_wait() looks again. */
PB_API void pb_app_wake_all(struct pb_app *a);

/* The slow path: takes up to n exceptions (frames have owner APP: give them back with pb_app_free). */
PB_API int pb_app_exceptions(struct pb_app *a, struct pb_exc *x, int n);
PB_API void pb_app_free(struct pb_app *a, uint64_t addr);
/* Copies a whole L2 frame out. 0, -EMSGSIZE, -ENOBUFS. */
PB_API int pb_app_inject(struct pb_app *a, const void *frame, uint32_t len);
/* From now on IP packets for other addresses are exceptions (PB_EXC_NOT_OURS), or again dropped. */
PB_API void pb_app_hand_over(struct pb_app *a, bool on);
/* The verdict on the SYN of a PB_EXC_ACCEPT exception, with the frame as it came. As pb_app_inject(). */
PB_API int pb_app_judged(struct pb_app *a, const void *frame, uint32_t len, bool admitted);
PB_API int pb_app_neigh(struct pb_app *a, const struct pb_ip *addr, const uint8_t *mac);
/* Synchronous: -EINPROGRESS, then wait for PB_SOCK_REPLY with s = -1 by pb_app_replied(). ptr must stay until then. */
PB_API int pb_app_call(struct pb_app *a, enum pb_cmd_op op, void *ptr);
PB_API bool pb_app_replied(struct pb_app *a);
#endif
