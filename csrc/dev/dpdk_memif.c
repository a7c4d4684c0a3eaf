#include "dev/dpdk_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <rte_dev.h>
#include <rte_devargs.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* net_memif is stopped and closed in DPDK's interrupt thread, which gets the messages of the other end. Elsewhere that
 * thread may be at the same connection, which the other end has just given up, and both free it: "Invalid memory".
 *
 * And the driver (seen with 22.11) never closes a listening socket, nor takes it from what the interrupt thread looks
 * at, though it frees what it would then look into. By default the socket's name is an abstract one, so it is taken for
 * as long as the process lives, and a client that connects to it would have freed memory used. The descriptor has to
 * stay, for the EAL panics over one that is closed; so it is made into one of which nothing ever comes. */

#define DEFAULT_SOCKET "/run/memif.sock"
#define SOCKET_MAX sizeof(((struct sockaddr_un *)0)->sun_path)
#define LOOKS 10000 /* of the interrupt thread at its descriptors, until it has read what waits */

static bool is_memif(const char *driver)
{
	return driver && !strcmp(driver, "net_memif");
}

/* The socket that a device's arguments name, as the driver cuts it. */
static void socket_of(const char *args, char *out, size_t n)
{
	snprintf(out, n, "%s", DEFAULT_SOCKET);
	while (args && *args) {
		size_t len = strcspn(args, ",");
		if (!strncmp(args, "socket=", 7))
			snprintf(out, n, "%.*s", (int)(len - 7), args + 7);
		args += len + (args[len] == ',');
	}
}

/* Whether another device has it: all of a process that name the same one share it. */
static bool is_used(const char *name)
{
	struct rte_eth_dev_info info;
	char other[SOCKET_MAX];
	uint16_t id;
	RTE_ETH_FOREACH_DEV(id)
	{
		if (rte_eth_dev_info_get(id, &info) || !is_memif(info.driver_name))
			continue;
		const struct rte_devargs *args = rte_dev_devargs(info.device);
		socket_of(args ? args->args : NULL, other, sizeof(other));
		if (!strcmp(name, other))
			return true;
	}
	return false;
}

static bool is_name(const struct sockaddr_un *at, socklen_t len, const char *name)
{
	if (at->sun_family != AF_UNIX || len <= offsetof(struct sockaddr_un, sun_path))
		return false;
	size_t n = len - offsetof(struct sockaddr_un, sun_path), abstract = !at->sun_path[0];
	n = strnlen(at->sun_path + abstract, n - abstract);
	return strlen(name) == n && !memcmp(at->sun_path + abstract, name, n);
}

static int option(int fd, int which)
{
	int value = 0;
	socklen_t len = sizeof(value);
	return getsockopt(fd, SOL_SOCKET, which, &value, &len) ? -1 : value;
}

/* Either end of a connection by that name, or who listens there. */
static bool is_of(int fd, const char *name)
{
	struct sockaddr_un at = {0};
	socklen_t len = sizeof(at);
	if (option(fd, SO_TYPE) != SOCK_SEQPACKET || getsockname(fd, (struct sockaddr *)&at, &len))
		return false;
	if (is_name(&at, len, name))
		return true;
	len = sizeof(at);
	return !getpeername(fd, (struct sockaddr *)&at, &len) && is_name(&at, len, name);
}

static void silence(int fd)
{
	int nothing = eventfd(0, EFD_CLOEXEC);
	if (nothing < 0)
		return;
	(void)dup3(nothing, fd, O_CLOEXEC);
	close(nothing);
}

static bool is_readable(int fd)
{
	struct pollfd waits = {.fd = fd, .events = POLLIN};
	return poll(&waits, 1, 0) > 0;
}

/* Whether something waits at this process's sockets of that name: a client, a message, the end of a connection.
 * Silences who listens, if so wanted. */
static bool look_at_sockets(const char *name, bool no_more)
{
	bool found = false;
	DIR *dir = opendir("/proc/self/fd");
	for (struct dirent *e; dir && (e = readdir(dir));) {
		int fd = atoi(e->d_name);
		if (e->d_name[0] == '.' || !is_of(fd, name))
			continue;
		found |= is_readable(fd);
		if (no_more && option(fd, SO_ACCEPTCONN) == 1)
			silence(fd);
	}
	if (dir)
		closedir(dir);
	return found;
}

/* ---- in the interrupt thread ---- */

static int nothing(struct pb_dpdk_port *p)
{
	(void)p;
	return 0;
}

/* -EAGAIN: the two ends are talking, which is one message at a time and over when both have connected. An end that goes
 * away meanwhile has the driver of the other close descriptors that it leaves to the EAL, which panics, or use what it
 * has freed. When nothing waits nobody is in between, for here is the thread that answers. */
static int stop_memif(struct pb_dpdk_port *p)
{
	char name[SOCKET_MAX];
	socket_of(p->cfg.devargs, name, sizeof(name));
	return look_at_sockets(name, false) ? -EAGAIN : rte_eth_dev_stop(p->id);
}

static int stop_anyway(struct pb_dpdk_port *p)
{
	return rte_eth_dev_stop(p->id);
}

static int close_memif(struct pb_dpdk_port *p)
{
	char name[SOCKET_MAX];
	int rc = rte_eth_dev_close(p->id);
	socket_of(p->cfg.devargs, name, sizeof(name));
	if (!is_used(name))
		(void)look_at_sockets(name, true);
	return rc;
}

/* ---- for all drivers ---- */

int pb_dpdk_dev_begin(struct pb_dpdk_port *p)
{
	if (!is_memif(p->info.driver_name))
		return 0;
	pb_dpdk_eal_stay();
	return pb_dpdk_in_intr(p, nothing);
}

int pb_dpdk_dev_stop(struct pb_dpdk_port *p)
{
	int rc = -EAGAIN;
	if (!is_memif(p->info.driver_name))
		return rte_eth_dev_stop(p->id);
	for (int i = 0; i < LOOKS && rc == -EAGAIN && !pb_dpdk_is_intr(); i++)
		rc = pb_dpdk_in_intr(p, stop_memif);
	return rc == -EAGAIN ? pb_dpdk_in_intr(p, stop_anyway) : rc;
}

int pb_dpdk_dev_close(struct pb_dpdk_port *p)
{
	return is_memif(p->info.driver_name) ? pb_dpdk_in_intr(p, close_memif) : rte_eth_dev_close(p->id);
}
