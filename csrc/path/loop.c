#define _GNU_SOURCE
#include "path/loop.h"

#include "base/handles.h"
#include "path/group.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct pb_loop {
	struct pb_path *path;
	struct pb_loop_config cfg;
	pthread_t thread;
	_Atomic uint32_t stop;
	_Atomic int error;
	_Atomic uint64_t sleeps;
	uint64_t started_ns;
	int cpu;
};

uint64_t pb_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void pb_path_sleep(struct pb_path *p, uint64_t now_ns, uint64_t max_ns, const _Atomic uint32_t *urgent)
{
	struct pb_chan *ch = p->chan;
	atomic_store_explicit(&ch->loop_sleeps, 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	uint64_t next = pb_path_next_ns(p);
	uint64_t wait = next <= now_ns ? 0 : next - now_ns;
	wait = wait < max_ns ? wait : max_ns;
	int fd = p->dev->ops->fd ? p->dev->ops->fd(p->dev) : -1;
	if (fd < 0 && wait > 50000)
		wait = 50000; /* a device without a descriptor: look again soon */
	bool called =
		(urgent && atomic_load_explicit(urgent, memory_order_relaxed)) || (p->group && pb_group_waiting(p));
	if (wait && !called && !pb_ring_count(&ch->cmd) && !pb_ring_count(&ch->inj)) {
		struct pollfd f[2] = {{.fd = ch->loop_fd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
		struct timespec t = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
		ppoll(f, fd < 0 ? 1 : 2, &t, NULL);
	}
	atomic_store_explicit(&ch->loop_sleeps, 0, memory_order_relaxed);
	uint64_t drained;
	ssize_t n = read(ch->loop_fd, &drained, sizeof(drained));
	(void)n;
}

static void *run(void *arg)
{
	struct pb_loop *l = arg;
	uint64_t busy_ns = pb_now_ns();
	while (!atomic_load_explicit(&l->stop, memory_order_relaxed)) {
		uint64_t now_ns = pb_now_ns();
		int n = pb_path_step(l->path, now_ns);
		if (n < 0) {
			atomic_store(&l->error, n);
			pb_waitq_wake(&l->path->chan->app);
			break;
		}
		if (n)
			busy_ns = now_ns;
		else if (now_ns - busy_ns >= l->cfg.spin_ns && l->cfg.spin_ns != UINT64_MAX) {
			atomic_fetch_add_explicit(&l->sleeps, 1, memory_order_relaxed);
			pb_path_sleep(l->path, now_ns, 100000000, &l->stop);
		}
	}
	return NULL;
}

static int affinity(const struct pb_loop_config *cfg, pthread_attr_t *attr)
{
	if (cfg->cpu < 0)
		return 0;
	cpu_set_t mine, one;
	CPU_ZERO(&one);
	size_t cpu = (size_t)cfg->cpu;
	if (cpu >= CPU_SETSIZE || sched_getaffinity(getpid(), sizeof(mine), &mine) || !CPU_ISSET(cpu, &mine))
		return EINVAL;
	CPU_SET(cpu, &one);
	return pthread_attr_setaffinity_np(attr, sizeof(one), &one);
}

struct pb_loop *pb_loop_start(struct pb_path *p, const struct pb_loop_config *cfg, int *err)
{
	*err = -EINVAL;
	if (!p->chan)
		return NULL;
	struct pb_loop *l = calloc(1, sizeof(*l));
	*err = -ENOMEM;
	if (!l)
		return NULL;
	l->path = p;
	l->cfg = *cfg;
	l->cpu = cfg->cpu;
	l->started_ns = pb_now_ns();
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	int rc = affinity(cfg, &attr);
	if (!rc)
		rc = pthread_create(&l->thread, &attr, run, l);
	pthread_attr_destroy(&attr);
	*err = -rc;
	if (rc) {
		free(l);
		return NULL;
	}
	pthread_setname_np(l->thread, "pb-loop");
	pb_handle_opened(PB_HANDLE_LOOP);
	return l;
}

void pb_loop_stop(struct pb_loop *l)
{
	if (!l)
		return;
	atomic_store(&l->stop, 1);
	pb_chan_wake_loop(l->path->chan);
	pthread_join(l->thread, NULL);
	free(l);
	pb_handle_closed(PB_HANDLE_LOOP);
}

int pb_loop_cpu(const struct pb_loop *l)
{
	cpu_set_t set;
	if (pthread_getaffinity_np(l->thread, sizeof(set), &set) || CPU_COUNT(&set) != 1)
		return -1;
	return l->cpu;
}

void pb_loop_info(const struct pb_loop *l, struct pb_loop_info *info)
{
	*info = (struct pb_loop_info){
		.wall_ns = pb_now_ns() - l->started_ns,
		.sleeps = atomic_load_explicit(&l->sleeps, memory_order_relaxed),
	};
	clockid_t clock;
	struct timespec t;
	if (!pthread_getcpuclockid(l->thread, &clock) && !clock_gettime(clock, &t))
		info->cpu_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int pb_loop_error(const struct pb_loop *l)
{
	return atomic_load(&l->error);
}
