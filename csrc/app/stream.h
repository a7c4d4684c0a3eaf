/* A byte stream that does not block, ours or the kernel's: what the loops of rr.h and bulk.h run over, so that both are
 * measured by the same code. */
#ifndef PB_APP_STREAM_H
#define PB_APP_STREAM_H
#include "app/pingpong.h"

struct pb_stream {
	/* Bytes taken or given, 0: end of stream (recv), -EAGAIN, or -errno. */
	int64_t (*send)(struct pb_stream *s, const void *buf, size_t len);
	int64_t (*recv)(struct pb_stream *s, void *buf, size_t len);
	/* Until it is readable (and, if `write`, writable), or until_ns. 0; -EINTR: the caller's slow path has work; or
	 * -errno. May come back early. */
	int (*wait)(struct pb_stream *s, bool write, uint64_t until_ns);
	/* the engine's */
	struct pb_app *app;
	int sock;
	/* the kernel's */
	int fd;
	enum pb_spin how;
};

PB_API void pb_stream_of_app(struct pb_stream *s, struct pb_app *app, int sock);
/* A connected TCP socket; it stays the caller's. */
PB_API void pb_stream_of_kernel(struct pb_stream *s, int fd, enum pb_spin how);
#endif
