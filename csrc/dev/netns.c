#define _GNU_SOURCE
#include "dev/netns.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* /proc/self is the process, whose namespace is that of its first thread. */
#define PB_NETNS_SELF "/proc/thread-self/ns/net"

static int open_own(void)
{
	int fd = open(PB_NETNS_SELF, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static void *make(void *arg)
{
	int *result = arg;
	*result = unshare(CLONE_NEWNET) ? -errno : open_own();
	return NULL;
}

int pb_netns_new(void)
{
	pthread_t thread;
	int result = -EAGAIN;
	int err = pthread_create(&thread, NULL, make, &result);
	if (err)
		return -err;
	pthread_join(thread, NULL);
	return result;
}

int pb_netns_enter(int fd)
{
	int before = open_own();
	if (before < 0)
		return before;
	if (setns(fd, CLONE_NEWNET)) {
		int err = -errno;
		close(before);
		return err;
	}
	return before;
}

uint64_t pb_netns_id(void)
{
	struct stat st;
	return stat(PB_NETNS_SELF, &st) ? 0 : st.st_ino;
}

int pb_pdeathsig(int sig)
{
	return prctl(PR_SET_PDEATHSIG, (unsigned long)sig) ? -errno : 0;
}
