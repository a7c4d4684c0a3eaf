#include "path/chan.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

int pb_chan_init(struct pb_chan *ch, uint32_t slots)
{
	memset(ch, 0, sizeof(*ch));
	ch->loop_fd = ch->app_fd = -1;
	int rc = pb_ring_init(&ch->cmd, slots, sizeof(struct pb_cmd));
	if (!rc)
		rc = pb_ring_init(&ch->ev, slots, sizeof(struct pb_ev));
	if (!rc)
		rc = pb_ring_init(&ch->inj, 256, sizeof(struct pb_desc));
	if (!rc)
		rc = pb_ring_init(&ch->exc, 256, sizeof(struct pb_exc));
	if (!rc) {
		ch->loop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		ch->app_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		rc = ch->loop_fd < 0 || ch->app_fd < 0 ? -errno : 0;
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
	if (ch->app_fd >= 0)
		close(ch->app_fd);
	ch->loop_fd = ch->app_fd = -1;
}

static void wake(_Atomic uint32_t *sleeps, int fd)
{
	/* Orders the ring's index before the mark: the sleeper sets the mark and then looks at the ring. */
	atomic_thread_fence(memory_order_seq_cst);
	if (!atomic_load_explicit(sleeps, memory_order_relaxed))
		return;
	uint64_t one = 1;
	ssize_t n = write(fd, &one, sizeof(one));
	(void)n; /* EAGAIN: the counter is not zero, so it polls readable already */
}

void pb_chan_wake_loop(struct pb_chan *ch)
{
	wake(&ch->loop_sleeps, ch->loop_fd);
}

void pb_chan_wake_app(struct pb_chan *ch)
{
	wake(&ch->app_sleeps, ch->app_fd);
}
