#include "dev/dpdk_impl.h"

#include <errno.h>
#include <rte_alarm.h>
#include <stdlib.h>
#include <time.h>

/* What a driver does in DPDK's interrupt thread and in its control functions is nowhere locked against each other.
 * Where that matters (dpdk_memif.c), the control function is called in that thread too: from an alarm, which the EAL
 * runs there.
 */

#define WAIT_S 5 /* for the thread to come; it has nothing to do that takes long */

struct job {
	int (*f)(struct pb_dpdk_port *p);
	struct pb_dpdk_port *p;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum { JOB_WAITS, JOB_RUNS, JOB_DONE, JOB_LEFT } state;
	int rc;
};

static __thread bool here; /* this is the interrupt thread */

static struct job *job_new(int (*f)(struct pb_dpdk_port *p), struct pb_dpdk_port *p)
{
	pthread_condattr_t attr;
	struct job *j = calloc(1, sizeof(*j));
	if (!j)
		return NULL;
	j->f = f;
	j->p = p;
	pthread_mutex_init(&j->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&j->changed, &attr);
	pthread_condattr_destroy(&attr);
	return j;
}

static void job_free(struct job *j)
{
	pthread_cond_destroy(&j->changed);
	pthread_mutex_destroy(&j->lock);
	free(j);
}

static void on_alarm(void *arg)
{
	struct job *j = arg;
	here = true;
	pthread_mutex_lock(&j->lock);
	bool left = j->state == JOB_LEFT;
	if (!left)
		j->state = JOB_RUNS;
	pthread_mutex_unlock(&j->lock);
	if (left) {
		job_free(j);
		return;
	}
	int rc = j->f(j->p);
	pthread_mutex_lock(&j->lock);
	j->rc = rc;
	j->state = JOB_DONE;
	pthread_cond_signal(&j->changed);
	pthread_mutex_unlock(&j->lock); /* the last touch: who waits frees it */
}

bool pb_dpdk_is_intr(void)
{
	return here;
}

int pb_dpdk_in_intr(struct pb_dpdk_port *p, int (*f)(struct pb_dpdk_port *p))
{
	struct timespec until;
	if (here)
		return f(p);
	struct job *j = job_new(f, p);
	if (!j) {
		p->stuck = true;
		return -ENOMEM;
	}
	int rc = rte_eal_alarm_set(1, on_alarm, j);
	if (rc == -ENOMEM) {
		job_free(j);
		p->stuck = true;
		return rc;
	}
	/* Another error: it is in the EAL's list, and may come with the next one. */
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += WAIT_S;
	pthread_mutex_lock(&j->lock);
	while (j->state == JOB_WAITS && pthread_cond_timedwait(&j->changed, &j->lock, &until) != ETIMEDOUT)
		;
	while (j->state == JOB_RUNS) /* it cannot be called back: as long as the driver takes */
		pthread_cond_wait(&j->changed, &j->lock);
	bool done = j->state == JOB_DONE;
	rc = done ? j->rc : -ETIMEDOUT;
	if (!done) {
		j->state = JOB_LEFT;
		p->stuck = true;
	}
	pthread_mutex_unlock(&j->lock);
	if (done)
		job_free(j);
	return rc;
}
