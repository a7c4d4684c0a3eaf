#include "dev/dpdk_impl.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* net_af_xdp of DPDK 22.11 deletes the socket of a queue and not its UMEM, which is the same descriptor: it stays open
 * with the program's and its map's, and the queue stays busy for as long as the process lives. So what a port has
 * opened is remembered, and what is still there when it was closed is closed too. Nobody else may open AF_XDP sockets
 * meanwhile. */

#ifndef AF_XDP
#define AF_XDP 44
#endif

static bool is_xdp_socket(int fd, uint64_t *id)
{
	struct stat st;
	int domain = 0;
	socklen_t len = sizeof(domain);
	if (fstat(fd, &st) || !S_ISSOCK(st.st_mode) || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len))
		return false;
	*id = (uint64_t)st.st_ino;
	return domain == AF_XDP;
}

/* A BPF program's or map's, by the number that the kernel shows (proc_pid_fdinfo(5)). */
static bool is_bpf(int fd, uint64_t *id)
{
	char name[64], target[64] = {0}, text[1024] = {0};
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	if (readlink(name, target, sizeof(target) - 1) < 0 || strncmp(target, "anon_inode:bpf-", 15) != 0)
		return false;
	snprintf(name, sizeof(name), "/proc/self/fdinfo/%d", fd);
	int info = open(name, O_RDONLY | O_CLOEXEC);
	ssize_t n = info >= 0 ? read(info, text, sizeof(text) - 1) : -1;
	if (info >= 0)
		close(info);
	const char *prog = strstr(text, "prog_id:"), *map = strstr(text, "map_id:");
	if (n <= 0 || (!prog && !map))
		return false;
	*id = prog ? UINT64_C(1) << 62 | strtoul(prog + 8, NULL, 10) : UINT64_C(1) << 63 | strtoul(map + 7, NULL, 10);
	return true;
}

static bool known(int fd, uint64_t *id)
{
	return is_xdp_socket(fd, id) || is_bpf(fd, id);
}

/* Calls f for each descriptor that this file knows. */
static void for_each(void (*f)(struct pb_dpdk_socks *s, int fd, uint64_t id), struct pb_dpdk_socks *s)
{
	DIR *dir = opendir("/proc/self/fd");
	uint64_t id;
	for (struct dirent *e; dir && (e = readdir(dir));) {
		int fd = atoi(e->d_name);
		if (e->d_name[0] != '.' && known(fd, &id))
			f(s, fd, id);
	}
	if (dir)
		closedir(dir);
}

static bool has_id(const struct pb_dpdk_socks *s, uint64_t id)
{
	for (uint32_t i = 0; i < s->n; i++)
		if (s->sock[i].id == id)
			return true;
	return false;
}

static bool has(const struct pb_dpdk_socks *s, int fd, uint64_t id)
{
	for (uint32_t i = 0; i < s->n; i++)
		if (s->sock[i].fd == fd && s->sock[i].id == id)
			return true;
	return false;
}

static void add(struct pb_dpdk_socks *s, int fd, uint64_t id)
{
	if (s->n < PB_DPDK_SOCKS) {
		s->sock[s->n].fd = fd;
		s->sock[s->n++].id = id;
	}
}

void pb_dpdk_socks_look(struct pb_dpdk_socks *s)
{
	s->n = 0;
	for_each(add, s);
}

void pb_dpdk_socks_keep_new(struct pb_dpdk_socks *s, const struct pb_dpdk_socks *before)
{
	uint32_t keep = 0;
	pb_dpdk_socks_look(s);
	for (uint32_t i = 0; i < s->n; i++)
		if (!has(before, s->sock[i].fd, s->sock[i].id))
			s->sock[keep++] = s->sock[i];
	s->n = keep;
}

void pb_dpdk_socks_close(struct pb_dpdk_socks *s, const struct pb_dpdk_socks *before)
{
	struct pb_dpdk_socks now;
	if (!s->n)
		return;
	pb_dpdk_socks_look(&now);
	/* Those that the port opened, and those that closing it opened: another port's of the same interface stand for
	 * the same program, by other descriptors. */
	for (uint32_t i = 0; i < now.n; i++) {
		int fd = now.sock[i].fd;
		uint64_t id = now.sock[i].id;
		if (has(s, fd, id) || (has_id(s, id) && !has(before, fd, id)))
			close(fd);
	}
	s->n = 0;
}
