/* The pinned loop: a thread that runs pb_path_step() on one core until it is stopped. */
#ifndef PB_PATH_LOOP_H
#define PB_PATH_LOOP_H
#include "path/path.h"

struct pb_loop;

struct pb_loop_config {
	int cpu; /* -1: not pinned */
	/* Idle for this long, then sleep until something comes. UINT64_MAX: never sleep (spin). 0: sleep as soon as
	 * there is nothing to do (interrupt). Between: adaptive. Where the device polls busily, each idle pass and each
	 * sleep drives it. */
	uint64_t spin_ns;
};

/* The path belongs to the thread until pb_loop_stop() has returned. NULL and -errno in *err: -EINVAL (no such cpu, or
 * it is not in our affinity mask), -EAGAIN. */
PB_API struct pb_loop *pb_loop_start(struct pb_path *p, const struct pb_loop_config *cfg, int *err);
PB_API void pb_loop_stop(struct pb_loop *l);
/* Where the thread really runs: its cpu, or -1 when it is not pinned to one. */
PB_API int pb_loop_cpu(const struct pb_loop *l);
/* 0 while it runs; -errno of the device that ended it. */
PB_API int pb_loop_error(const struct pb_loop *l);
struct pb_loop_info {
	uint64_t cpu_ns;  /* of the thread, CLOCK_THREAD_CPUTIME_ID */
	uint64_t wall_ns; /* since it was started */
	uint64_t sleeps;  /* how often it went to sleep */
};
/* May be called while it runs. */
PB_API void pb_loop_info(const struct pb_loop *l, struct pb_loop_info *info);
PB_API uint64_t pb_now_ns(void);
/* The time stamp counter, or the clock where there is none. */
static inline uint64_t pb_cycles(void)
{
#if defined(__x86_64__) || defined(__i386__)
	return __builtin_ia32_rdtsc();
#else
	return pb_now_ns();
#endif
}

/* Sleeps until the device, the application (chan->loop_fd) or a deadline calls. Used by the loop and by inline callers.
 * It does not when *urgent is not zero (NULL: nothing is): whoever makes it so and then calls pb_chan_wake_loop() ends
 * the sleep, at whatever moment. */
PB_API void pb_path_sleep(struct pb_path *p, uint64_t now_ns, uint64_t max_ns, const _Atomic uint32_t *urgent);
#endif
