/* The virtual clock, and who waits for it to move. */
#include "pd.h"

#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define IDLE_LIMIT_US 400000000ull /* a timer beyond this is not waited for */

struct pb_host *pd_host;

struct waiter {
	struct waiter *next;
	ssize_t (*fn)(void *);
	void *arg;
	ssize_t result;
	uint64_t until_us; /* when it wants to be tried again at the latest; UINT64_MAX: whenever something happens */
	uint64_t woken_us;
	bool done;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;
static struct waiter *waiters;
static int going_on; /* threads that were woken, and did not look at the clock yet */
/* When the call that this thread was blocked in came to its end: the next look at the clock sees that, not what the
 * other thread made of it meanwhile. */
static __thread uint64_t frozen_us;

void pd_enter(void)
{
	pthread_mutex_lock(&lock);
}

ssize_t pd_leave(ssize_t r)
{
	pthread_mutex_unlock(&lock);
	if (r >= 0)
		return r;
	errno = (int)-r;
	return -1;
}

uint64_t pd_now_us(void)
{
	return pb_host_now(pd_host) / 1000;
}

/* Timers are rounded up: none is ever early. */
uint64_t pd_next_us(void)
{
	uint64_t t = pb_host_next_ns(pd_host);
	if (t == UINT64_MAX || t / 1000 > pd_now_us() + IDLE_LIMIT_US)
		return UINT64_MAX;
	return (t + 999) / 1000;
}

/* The next timer, or the end of a call's own time: of poll(). */
static uint64_t wake_us(uint64_t until_us)
{
	uint64_t t = pd_next_us();
	t = t < until_us ? t : until_us;
	for (const struct waiter *w = waiters; w; w = w->next)
		t = w->until_us < t ? w->until_us : t;
	return t;
}

void pd_retry(void)
{
	bool any = false;
	for (struct waiter **link = &waiters, *w; (w = *link);) {
		ssize_t r = w->fn(w->arg);
		if (r == -EAGAIN) {
			link = &w->next;
			continue;
		}
		w->result = r;
		w->woken_us = pd_now_us();
		w->done = any = true;
		going_on++;
		*link = w->next;
	}
	if (any)
		pthread_cond_broadcast(&woken);
}

void pd_advance_us(uint64_t us)
{
	uint64_t t;
	while ((t = wake_us(UINT64_MAX)) <= us) {
		pb_host_advance(pd_host, t * 1000);
		pd_retry();
		if (wake_us(UINT64_MAX) <= t)
			break; /* a timer that stays has nothing to do now */
	}
	pb_host_advance(pd_host, us * 1000);
	pd_retry();
}

ssize_t pd_block(ssize_t (*fn)(void *), void *arg, bool once)
{
	return pd_block_until(fn, arg, once, UINT64_MAX);
}

ssize_t pd_block_until(ssize_t (*fn)(void *), void *arg, bool once, uint64_t until_us)
{
	ssize_t r = fn(arg);
	if (r != -EAGAIN || once) {
		pd_retry();
		return r;
	}
	if (syscall(SYS_gettid) != getpid()) {
		struct waiter *w = malloc(sizeof(*w));
		if (!w)
			return -ENOMEM;
		*w = (struct waiter){.next = waiters, .fn = fn, .arg = arg, .until_us = until_us};
		waiters = w;
		while (!w->done)
			pthread_cond_wait(&woken, &lock);
		frozen_us = w->woken_us;
		r = w->result;
		free(w);
		return r;
	}
	for (uint64_t limit = pd_now_us() + IDLE_LIMIT_US;;) {
		uint64_t t = wake_us(until_us);
		if (t > limit)
			return -ETIMEDOUT;
		pd_advance_us(t > pd_now_us() ? t : pd_now_us() + 1);
		r = fn(arg);
		if (r != -EAGAIN)
			return r;
	}
}

/* Virtual time passes at once, so a thread that was woken would not get to tell packetdrill of its result before the
 * next event: it gets a moment of real time. */
int pd_usleep(void *u, useconds_t us)
{
	(void)u;
	pd_enter();
	pd_read_qdisc(); /* a command of the script may have changed it */
	pd_advance_us(pd_now_us() + us);
	int woke = going_on;
	for (int i = 0; going_on && i < 100; i++) {
		pthread_mutex_unlock(&lock);
		usleep(100);
		pthread_mutex_lock(&lock);
	}
	pd_leave(0);
	if (woke)
		usleep(500);
	return 0;
}

/* packetdrill spins on this before each event: a microsecond passes with every call. */
int pd_gettimeofday(void *u, struct timeval *tv, struct timezone *tz)
{
	(void)u;
	(void)tz;
	pd_enter();
	uint64_t t = frozen_us;
	if (t)
		going_on--;
	if (!t) {
		t = pd_now_us() + 1;
		pd_advance_us(t);
	}
	frozen_us = 0;
	*tv = (struct timeval){.tv_sec = (time_t)(t / 1000000), .tv_usec = (suseconds_t)(t % 1000000)};
	return (int)pd_leave(0);
}
