#include "dev/dpdk_impl.h"

#include "base/fail.h"

#include <errno.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_version.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const stage_names[PB_DPDK_STAGE_COUNT] = {
#define X(id, name) name,
	PB_DPDK_STAGE_LIST(X)
#undef X
};

const char *pb_dpdk_stage_name(unsigned stage)
{
	return stage < PB_DPDK_STAGE_COUNT ? stage_names[stage] : "?";
}

int pb_dpdk_fail_set(struct pb_dpdk_fail *f, enum pb_dpdk_stage stage, int err, const char *fmt, ...)
{
	f->err = err;
	f->stage = stage;
	va_list ap;
	va_start(ap, fmt);
	pb_fail_text(f->text, sizeof(f->text), err, fmt, ap);
	va_end(ap);
	return err;
}

/* ---- its log ---- */

#define LOG_BYTES 65536

static struct {
	pthread_mutex_t lock;
	char text[LOG_BYTES];
	size_t n;
	uint64_t lost;
} eal_log = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Each piece as '\x1e', the level as a digit, text. Called by stdio, with a line at a time or less. */
static ssize_t log_write(void *cookie, const char *text, size_t n)
{
	(void)cookie;
	int level = rte_log_cur_msg_loglevel();
	pthread_mutex_lock(&eal_log.lock);
	if (eal_log.n + n + 2 <= LOG_BYTES) {
		eal_log.text[eal_log.n++] = '\x1e';
		eal_log.text[eal_log.n++] = (char)('0' + (level > 0 && level < 10 ? level : (int)RTE_LOG_INFO));
		memcpy(eal_log.text + eal_log.n, text, n);
		eal_log.n += n;
	} else {
		eal_log.lost += n;
	}
	pthread_mutex_unlock(&eal_log.lock);
	return (ssize_t)n;
}

size_t pb_dpdk_log_take(char *buf, size_t n)
{
	pthread_mutex_lock(&eal_log.lock);
	size_t k = eal_log.n < n ? eal_log.n : n;
	memcpy(buf, eal_log.text, k);
	memmove(eal_log.text, eal_log.text + k, eal_log.n - k);
	eal_log.n -= k;
	pthread_mutex_unlock(&eal_log.lock);
	return k;
}

int pb_dpdk_log_level(const char *pattern, uint32_t level)
{
	if (level < RTE_LOG_EMERG || level > RTE_LOG_DEBUG)
		return -EINVAL;
	return rte_log_set_level_pattern(pattern, level) < 0 ? -EINVAL : 0;
}

static void log_open(void)
{
	static FILE *stream;
	if (stream)
		return;
	stream = fopencookie(NULL, "w", (cookie_io_functions_t){.write = log_write});
	if (!stream)
		return;
	setvbuf(stream, NULL, _IOLBF, 4096);
	rte_openlog_stream(stream);
}

/* ---- threads ---- */

__thread bool pb_dpdk_known __attribute__((tls_model("initial-exec")));

static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;
static bool thread_key_made;

/* What the thread has in caches of mempools goes back. */
static void thread_ends(void *arg)
{
	(void)arg;
	pb_dpdk_pools_flush();
	rte_thread_unregister();
}

static void make_key(void)
{
	thread_key_made = !pthread_key_create(&thread_key, thread_ends);
}

/* A thread that DPDK has no number left for works too, with more effort for each frame. */
void pb_dpdk_know_thread(void)
{
	pb_dpdk_known = true;
	if (rte_lcore_id() != LCORE_ID_ANY)
		return;
	pthread_once(&thread_once, make_key);
	if (thread_key_made && !rte_thread_register())
		(void)pthread_setspecific(thread_key, &thread_key);
}

/* ---- start and stop ---- */

static pthread_mutex_t eal_lock = PTHREAD_MUTEX_INITIALIZER;
static enum { EAL_NEW, EAL_RUNS, EAL_FAILED, EAL_ENDED } eal_state;

/* DPDK keeps pointers into its arguments and permutes them. */
static char **copy_args(int argc, const char *const *argv)
{
	char **copy = calloc((size_t)argc + 1, sizeof(*copy));
	for (int i = 0; copy && i < argc; i++) {
		copy[i] = strdup(argv[i]);
		if (!copy[i])
			return NULL; /* a process without memory: a few bytes more do not matter */
	}
	return copy;
}

/* DPDK makes a folder for its files also when it makes none, and leaves it. Where there are files in it, of this
 * process or another, this fails, as it should. The folder above is everybody's: another program may be about to use
 * it. */
static void remove_folder(void)
{
	(void)rmdir(rte_eal_get_runtime_dir());
}

static int start(int argc, const char *const *argv, struct pb_dpdk_fail *fail)
{
	switch (eal_state) {
	case EAL_NEW:
		break;
	case EAL_RUNS:
	case EAL_FAILED:
		return pb_dpdk_fail_set(fail, PB_DPDK_STAGE_EAL, -EALREADY, "the EAL starts once in a process");
	case EAL_ENDED:
		return pb_dpdk_fail_set(fail, PB_DPDK_STAGE_EAL, -ENOTSUP, "the EAL was stopped");
	}
	char **args = copy_args(argc, argv);
	if (!args)
		return pb_dpdk_fail_set(fail, PB_DPDK_STAGE_MEMORY, -ENOMEM, "arguments");
	log_open();
	/* rte_eal_init() binds the thread to the first lcore; whose core it is is not DPDK's business here. */
	cpu_set_t before;
	bool known = !pthread_getaffinity_np(pthread_self(), sizeof(before), &before);
	char name[16];
	bool named = !pthread_getname_np(pthread_self(), name, sizeof(name));
	int rc = rte_eal_init(argc, args);
	int why = rte_errno;
	if (known)
		(void)pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
	if (named)
		(void)pthread_setname_np(pthread_self(), name);
	if (rc >= 0) {
		eal_state = EAL_RUNS;
		remove_folder(); /* now, for a process that is killed removes nothing */
		return 0;
	}
	remove_folder();
	/* What it had begun stays, as some of it cannot be undone: the arguments too. */
	eal_state = EAL_FAILED;
	return pb_dpdk_fail_set(fail, PB_DPDK_STAGE_EAL, why > 0 ? -why : -EIO, "rte_eal_init");
}

int pb_dpdk_eal_start(int argc, const char *const *argv, struct pb_dpdk_fail *fail)
{
	memset(fail, 0, sizeof(*fail));
	pthread_mutex_lock(&eal_lock);
	int rc = start(argc, argv, fail);
	pthread_mutex_unlock(&eal_lock);
	return rc;
}

static _Atomic bool eal_stays;

void pb_dpdk_eal_stay(void)
{
	atomic_store(&eal_stays, true);
}

void pb_dpdk_eal_stop(void)
{
	pthread_mutex_lock(&eal_lock);
	if (eal_state == EAL_RUNS) {
		if (!atomic_load(&eal_stays))
			(void)rte_eal_cleanup();
		remove_folder();
		eal_state = EAL_ENDED;
	}
	pthread_mutex_unlock(&eal_lock);
}

void pb_dpdk_eal_info(struct pb_dpdk_eal_info *info)
{
	memset(info, 0, sizeof(*info));
	snprintf(info->version, sizeof(info->version), "%s", rte_version());
	pthread_mutex_lock(&eal_lock);
	info->started = eal_state == EAL_RUNS;
	pthread_mutex_unlock(&eal_lock);
	if (info->started) {
		info->hugepages = rte_eal_has_hugepages();
		info->iova_va = rte_eal_iova_mode() == RTE_IOVA_VA;
		info->lcores = rte_lcore_count();
	}
	pthread_mutex_lock(&eal_log.lock);
	info->log_lost = eal_log.lost;
	pthread_mutex_unlock(&eal_log.lock);
}
