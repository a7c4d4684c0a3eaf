#include "dev/dpdk_impl.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* net_af_xdp of DPDK 22.11 deletes the socket of a queue and not its UMEM, which is the same descriptor: it stays open,
 * and the queue stays busy for as long as the process lives. So the sockets that a port has opened are remembered, and
 * those that are still there when it was closed are closed too. Nobody else may open AF_XDP sockets meanwhile. */

#ifndef AF_XDP
#define AF_XDP 44
#endif

static bool is_xdp(int fd, ino_t *ino)
{
	struct stat st;
	int domain = 0;
	socklen_t len = sizeof(domain);
	if (fstat(fd, &st) || !S_ISSOCK(st.st_mode) || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len))
		return false;
	*ino = st.st_ino;
	return domain == AF_XDP;
}

void pb_dpdk_socks_look(struct pb_dpdk_socks *s)
{
	DIR *dir = opendir("/proc/self/fd");
	s->n = 0;
	for (struct dirent *e; dir && (e = readdir(dir)) && s->n < PB_DPDK_SOCKS;) {
		int fd = atoi(e->d_name);
		if (e->d_name[0] != '.' && is_xdp(fd, &s->sock[s->n].ino))
			s->sock[s->n++].fd = fd;
	}
	if (dir)
		closedir(dir);
}

static bool among(const struct pb_dpdk_socks *s, ino_t ino)
{
	for (uint32_t i = 0; i < s->n; i++)
		if (s->sock[i].ino == ino)
			return true;
	return false;
}

void pb_dpdk_socks_keep_new(struct pb_dpdk_socks *s, const struct pb_dpdk_socks *before)
{
	uint32_t keep = 0;
	pb_dpdk_socks_look(s);
	for (uint32_t i = 0; i < s->n; i++)
		if (!among(before, s->sock[i].ino))
			s->sock[keep++] = s->sock[i];
	s->n = keep;
}

void pb_dpdk_socks_close(struct pb_dpdk_socks *s)
{
	ino_t ino;
	for (uint32_t i = 0; i < s->n; i++)
		if (is_xdp(s->sock[i].fd, &ino) && ino == s->sock[i].ino)
			close(s->sock[i].fd);
	s->n = 0;
}
