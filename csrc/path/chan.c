#define _GNU_SOURCE
#include "path/chan.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int pb_chan_init(struct pb_chan *ch, uint32_t slots)
{
	memset(ch, 0, sizeof(*ch));
	ch->loop_fd = -1;
	int rc = pb_ring_init(&ch->cmd, slots, sizeof(struct pb_cmd));
	if (!rc)
		rc = pb_ring_init(&ch->ev, slots, sizeof(struct pb_ev));
	if (!rc)
		rc = pb_ring_init(&ch->inj, 256, sizeof(struct pb_desc));
	if (!rc)
		rc = pb_ring_init(&ch->exc, 256, sizeof(struct pb_exc));
	if (!rc) {
		ch->loop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		rc = ch->loop_fd < 0 ? -errno : 0;
	}
	if (rc)
		pb_chan_fini(ch);
	return rc;
}

void pb_chan_fini(struct pb_chan *ch)
{
	pb_ring_fini(&ch->cmd);
	pb_ring_fini(&ch->ev);
	pb_ring_fini(&ch->inj);
	pb_ring_fini(&ch->exc);
	if (ch->loop_fd >= 0)
		close(ch->loop_fd);
	ch->loop_fd = -1;
}

void pb_chan_wake_loop(struct pb_chan *ch)
{
	/* Orders the ring's index before the mark: the sleeper sets the mark and then looks at the ring. */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&ch->loop_sleeps, memory_order_relaxed))
		pb_chan_wake_loop_always(ch);
}

void pb_chan_wake_loop_always(struct pb_chan *ch)
{
	uint64_t one = 1;
	ssize_t n = write(ch->loop_fd, &one, sizeof(one));
	(void)n; /* EAGAIN: the counter is not zero, so it polls readable already */
}

uint32_t pb_waitq_enter(struct pb_waitq *q)
{
	atomic_fetch_add(&q->sleepers, 1);
	return atomic_load(&q->seq);
}

void pb_waitq_leave(struct pb_waitq *q)
{
	atomic_fetch_sub(&q->sleepers, 1);
}

void pb_waitq_wait(struct pb_waitq *q, uint32_t seq, uint64_t max_ns)
{
	struct timespec t = {(time_t)(max_ns / 1000000000u), (long)(max_ns % 1000000000u)};
	syscall(SYS_futex, &q->seq, FUTEX_WAIT_PRIVATE, seq, &t, NULL, 0);
}

void pb_waitq_wake(struct pb_waitq *q)
{
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&q->sleepers, memory_order_relaxed))
		pb_waitq_wake_always(q);
}

void pb_waitq_wake_always(struct pb_waitq *q)
{
	atomic_fetch_add(&q->seq, 1);
	syscall(SYS_futex, &q->seq, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}
