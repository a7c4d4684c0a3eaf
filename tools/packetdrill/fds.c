#include "pd.h"

#include <fcntl.h>
#include <unistd.h>

#define FDS 4096

static struct {
	int sock; /* plus 1; 0: none of ours */
	bool nonblocking;
} table[FDS];

int pd_fd_new(int sock)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (fd < 0 || fd >= FDS) {
		if (fd >= 0)
			close(fd);
		return -EMFILE;
	}
	table[fd].sock = sock + 1;
	table[fd].nonblocking = false;
	return fd;
}

int pd_fd_sock(int fd)
{
	return fd >= 0 && fd < FDS && table[fd].sock ? table[fd].sock - 1 : -EBADF;
}

bool pd_fd_nonblocking(int fd)
{
	return table[fd].nonblocking;
}

void pd_fd_set_nonblocking(int fd, bool on)
{
	table[fd].nonblocking = on;
}

void pd_fd_close(int fd)
{
	table[fd].sock = 0;
	close(fd);
}
