/* Round trips, ours and the kernel's, with the same loop around them: send, wait for as many bytes back, take the time.
 * Times are CLOCK_MONOTONIC, ns; one sample per round trip. */
#ifndef PB_APP_PINGPONG_H
#define PB_APP_PINGPONG_H
#include "path/sock.h"

enum pb_spin {
	PB_SPIN_NOT = 0,   /* blocking calls */
	PB_SPIN_HARD = 1,  /* never gives the core away */
	PB_SPIN_YIELD = 2, /* sched_yield() between two looks: both ends share a core */
};

/* n round trips over socket s of an application end. samples_ns has room for n; returns n, or -errno (-ETIMEDOUT: an
 * answer took longer than 5 s; -ECONNRESET: the stream ended; -EBADMSG: an answer does not begin with the 8 bytes, the
 * time, that its request began with). bytes: 8 to 65536. */
PB_API int pb_pingpong(struct pb_app *a, int s, uint32_t n, uint32_t bytes, uint32_t *samples_ns);
/* The other end: sends back what comes, until n * bytes have passed. */
PB_API int pb_pingpong_echo(struct pb_app *a, int s, uint32_t n, uint32_t bytes);
/* The same over a connected kernel socket with TCP_NODELAY set by the caller. */
PB_API int pb_pingpong_kernel(int fd, uint32_t n, uint32_t bytes, enum pb_spin spin, uint32_t *samples_ns);
/* The kernel's other end. It blocks until the first byte, so that an end between two measurements does not load its
 * core. */
PB_API int pb_pingpong_kernel_echo(int fd, uint32_t n, uint32_t bytes, enum pb_spin spin);
#endif
