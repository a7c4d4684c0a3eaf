/* Inside the application's end. Private to csrc/path. */
#ifndef PB_PATH_APP_H
#define PB_PATH_APP_H
#include "path/sock.h"

#include <pthread.h>

#define NO_FRAME UINT32_MAX

struct sock {
	uint64_t serial;
	pb_tcp_handle h;
	unsigned ready; /* what is true for good: CONNECTED, FIN, CLOSED, GONE, ERROR, REPLY, ACCEPT */
	bool used, listening, opening, closed_by_app, shut_wr;
	uint8_t want; /* 0, or CLOSE, ABORT or CONSUMED that has to go in as soon as there is room */
	int32_t error;
	int32_t listener; /* -1, or where it was accepted from */
	uint32_t mss;
	uint32_t rx_head, rx_tail; /* frames with unread data */
	uint32_t queued;           /* bytes sent and not acknowledged */
	uint32_t held, keep;       /* frames handed out and not released; how many may be, for long */
	uint32_t unreported;       /* frames consumed and not yet told to the engine */
	int32_t rc;                /* answer to the last call */
	struct pb_sock_name name;
	struct pb_tcp_info info;
};

struct frame_note {
	uint32_t next;
	uint16_t off, len;
};

struct pb_app {
	struct pb_path *path;
	struct pb_chan *chan;
	struct pb_pool *pool;
	struct pb_pool_cache *cache;
	struct pb_app_config cfg;
	struct sock *socks;
	struct frame_note *notes; /* by frame index */
	uint32_t nsocks, next_free;
	uint32_t nwant; /* sockets with a command that found no room */
	uint32_t nopen; /* not closed by the application: at most cfg.max_socks */
	uint64_t serial;
	bool inline_mode, call_done;
	/* Local endpoints of sockets that are gone. Room is taken when a socket is opened, for all that are: the end of
	 * one needs no memory. */
	struct pb_tcp_endpoint *freed;
	uint32_t nfreed, freed_room, nused;
	_Atomic uint32_t closing;
	_Atomic uint32_t waiters; /* threads that want the lock: a spinning waiter lets them in */
	pthread_mutex_t lock;
};

void app_lock(struct pb_app *a);
void app_unlock(struct pb_app *a);
struct sock *app_sock(struct pb_app *a, int s);
/* The number is free again. gone: it had a handle, so its local endpoint is told. */
void app_sock_free(struct pb_app *a, struct sock *s, bool gone);
int app_cmd(struct pb_app *a, const struct pb_cmd *c);
/* One that was written where it goes: no copy waits for what was just stored. */
void app_cmd_go(struct pb_app *a);
/* CLOSE or ABORT: at once, or as soon as the ring has room. */
void app_want(struct pb_app *a, struct sock *s, enum pb_cmd_op op);
/* Commands that may be data: the last places of the ring are for control. */
uint32_t app_send_room(struct pb_app *a);
/* With the lock held. drain handles what the loop told; progress runs a step before that when there is no thread. */
int app_progress(struct pb_app *a, uint64_t now_ns);
int app_drain(struct pb_app *a);
unsigned app_poll(struct pb_app *a, struct sock *s);
#endif
