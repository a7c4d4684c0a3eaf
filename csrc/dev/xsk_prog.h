/* Inside of the XDP program handle: shared by xsk_prog.c (life) and xsk_steer.c (maps). */
#ifndef PB_DEV_XSK_PROG_H
#define PB_DEV_XSK_PROG_H
#include "dev/xsk.h"

#include <pthread.h>

struct bpf_object;

struct pb_xsk_prog {
	struct pb_xsk_prog *next; /* list of this process, under the list's lock */
	uint64_t netns;           /* with ifindex: which interface */
	uint32_t ifindex;
	int refs;
	enum pb_xsk_mode mode;
	bool metadata;
	bool frags;
	char no_metadata[160];
	uint32_t prog_id;
	struct bpf_object *obj;
	int link_fd, xsks_fd, steer_fd, ranges_fd, conf_fd, counters_fd, rss_fd, hash_fd;
	int acts_fd, act_order_fd, act_counts_fd;
	pthread_mutex_t lock; /* for what follows and the maps behind it */
	struct pb_steer_conf conf;
	struct pb_steer_rule ranges[PB_STEER_RANGES];
	uint8_t rss_key[PB_RSS_KEY_BYTES]; /* while conf.nrss */
	uint32_t act_order[PB_ACT_RULES];  /* the map's first conf.nacts */
	uint32_t act_priority[PB_ACT_RULES];
	uint32_t act_next;
};

/* Fills *f and returns err. fmt as printf; ": " and the text of err follow it when err is not 0. */
int pb_xsk_fail_set(struct pb_xsk_fail *f, enum pb_xsk_stage stage, int err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Whether this process has a program on the interface, in whatever mode. */
bool pb_xsk_prog_is_here(uint32_t ifindex);
/* Hands p->conf to the program. With the lock; 0 or -errno. */
int pb_xsk_prog_store_conf(struct pb_xsk_prog *p);
/* One more socket (+1), or one less (-1), wants metadata. 0 or -errno. */
int pb_xsk_prog_meta(struct pb_xsk_prog *p, int change);
/* Enters socket 0 to 15 of a queue, or takes it out. 0 or -errno. */
int pb_xsk_prog_map_set(struct pb_xsk_prog *p, uint32_t queue, uint32_t socket, int xsk_fd);
void pb_xsk_prog_map_del(struct pb_xsk_prog *p, uint32_t queue, uint32_t socket);
#endif
