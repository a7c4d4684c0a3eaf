/* Shared by the parts of the AF_XDP test program. Driven by tests/veth/test_xsk_dev.py. */
#ifndef PB_TESTS_XSK_CHECK_H
#define PB_TESTS_XSK_CHECK_H
#include "dev/xsk.h"

#include <stdio.h>

/* Where and how to open: read from arguments of the form key=value. */
struct xsk_args {
	struct pb_xsk_config cfg;
	int netns; /* -1: stay */
	uint32_t frames;
	uint32_t frame_bytes;
	uint32_t count;
};

int xsk_args_read(struct xsk_args *a, int argc, char **argv, const char *prefix);
/* Enters the namespace, opens, comes back. */
struct pb_dev *xsk_open_at(const struct xsk_args *a, struct pb_pool *pool, struct pb_xsk_report *rep, int *err);
void xsk_steer_all(struct pb_dev *dev);
uint64_t xsk_now_ns(void);
/* Completed frames go back to the pool; returns how many. */
int xsk_reap_all(struct pb_dev *dev);
/* "own":{...},"violations":n,"frames":n */
void xsk_print_pool(struct pb_pool *pool);
void xsk_print_stats(struct pb_dev *dev);

int xsk_serve(int argc, char **argv);
int xsk_echo(int argc, char **argv);
int xsk_flood(int argc, char **argv);
int xsk_reopen(int argc, char **argv);
int xsk_vlan(int argc, char **argv);
int xsk_threads(int argc, char **argv);
int xsk_again(int argc, char **argv);
#endif
