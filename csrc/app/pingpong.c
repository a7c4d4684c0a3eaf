#include "app/pingpong.h"

#include <errno.h>
#include <sched.h>
#include <sys/socket.h>

#define BYTES_MAX 65536u
#define PATIENCE_NS 5000000000ull

static int check(uint32_t n, uint32_t bytes)
{
	return n && bytes >= 8 && bytes <= BYTES_MAX ? 0 : -EINVAL;
}

static int send_all(struct pb_app *a, int s, const uint8_t *buf, uint32_t bytes)
{
	for (uint32_t done = 0; done < bytes;) {
		int64_t k = pb_sock_send(a, s, buf + done, bytes - done, 0);
		if (k == -EAGAIN) {
			int m = pb_app_wait(a, s, PB_SOCK_WRITE | PB_SOCK_CLOSED, pb_now_ns() + PATIENCE_NS,
					    PATIENCE_NS);
			if (m <= 0)
				return m ? m : -ETIMEDOUT;
			continue;
		}
		if (k < 0)
			return (int)k;
		done += (uint32_t)k;
	}
	return 0;
}

/* At least one byte, at most `bytes`. The wait runs the path itself when there is no loop thread. */
static int recv_some(struct pb_app *a, int s, uint8_t *buf, uint32_t bytes, uint64_t since)
{
	for (;;) {
		int64_t k = pb_sock_recv(a, s, buf, bytes);
		if (k > 0)
			return (int)k;
		if (k != -EAGAIN)
			return k ? (int)k : -ECONNRESET;
		int m = pb_app_wait(a, s, PB_SOCK_READ, since + PATIENCE_NS, PATIENCE_NS);
		if (m < 0)
			return m;
		if (!m)
			return -ETIMEDOUT;
		if (m == PB_SOCK_SLOWPATH)
			return -EINTR; /* the caller is the slow path too */
	}
}

static int recv_all(struct pb_app *a, int s, uint8_t *buf, uint32_t bytes, uint64_t since)
{
	for (uint32_t done = 0; done < bytes;) {
		int k = recv_some(a, s, buf + done, bytes - done, since);
		if (k < 0)
			return k;
		done += (uint32_t)k;
	}
	return 0;
}

int pb_pingpong(struct pb_app *a, int s, uint32_t n, uint32_t bytes, uint32_t *samples_ns)
{
	uint8_t buf[BYTES_MAX] = {0};
	int rc = check(n, bytes);
	for (uint32_t i = 0; i < n && !rc; i++) {
		uint64_t t0 = pb_now_ns();
		memcpy(buf, &t0, sizeof(t0));
		rc = send_all(a, s, buf, bytes);
		if (!rc)
			rc = recv_all(a, s, buf, bytes, t0);
		samples_ns[i] = (uint32_t)(pb_now_ns() - t0);
		if (!rc && memcmp(buf, &t0, sizeof(t0)))
			rc = -EBADMSG;
	}
	return rc ? rc : (int)n;
}

int pb_pingpong_echo(struct pb_app *a, int s, uint32_t n, uint32_t bytes)
{
	uint8_t buf[BYTES_MAX];
	int rc = check(n, bytes);
	for (uint64_t left = (uint64_t)n * bytes; left && !rc;) {
		int k = recv_some(a, s, buf, left < BYTES_MAX ? (uint32_t)left : BYTES_MAX, pb_now_ns());
		if (k < 0)
			return k;
		rc = send_all(a, s, buf, (uint32_t)k);
		left -= (uint32_t)k;
	}
	if (!rc)
		pb_app_progress(a);
	return rc ? rc : (int)n;
}

static int kernel_send(int fd, const uint8_t *buf, uint32_t bytes)
{
	for (uint32_t done = 0; done < bytes;) {
		ssize_t k = send(fd, buf + done, bytes - done, MSG_NOSIGNAL);
		if (k < 0)
			return -errno;
		done += (uint32_t)k;
	}
	return 0;
}

static int kernel_recv(int fd, uint8_t *buf, uint32_t bytes, enum pb_spin spin)
{
	for (uint32_t done = 0; done < bytes;) {
		ssize_t k = recv(fd, buf + done, bytes - done, spin == PB_SPIN_NOT ? 0 : MSG_DONTWAIT);
		if (k > 0)
			done += (uint32_t)k;
		else if (!k)
			return -ECONNRESET;
		else if (errno != EAGAIN)
			return -errno;
		else if (spin == PB_SPIN_NOT)
			return -ETIMEDOUT; /* SO_RCVTIMEO of the caller */
		else if (spin == PB_SPIN_YIELD)
			sched_yield();
	}
	return 0;
}

int pb_pingpong_kernel(int fd, uint32_t n, uint32_t bytes, enum pb_spin spin, uint32_t *samples_ns)
{
	uint8_t buf[BYTES_MAX] = {0};
	int rc = check(n, bytes);
	for (uint32_t i = 0; i < n && !rc; i++) {
		uint64_t t0 = pb_now_ns();
		memcpy(buf, &t0, sizeof(t0));
		rc = kernel_send(fd, buf, bytes);
		if (!rc)
			rc = kernel_recv(fd, buf, bytes, spin);
		samples_ns[i] = (uint32_t)(pb_now_ns() - t0);
		if (!rc && memcmp(buf, &t0, sizeof(t0)))
			rc = -EBADMSG;
	}
	return rc ? rc : (int)n;
}

int pb_pingpong_kernel_echo(int fd, uint32_t n, uint32_t bytes, enum pb_spin spin)
{
	uint8_t buf[BYTES_MAX];
	int rc = check(n, bytes);
	for (uint32_t i = 0; i < n && !rc; i++) {
		rc = kernel_recv(fd, buf, bytes, i ? spin : PB_SPIN_NOT);
		if (!rc)
			rc = kernel_send(fd, buf, bytes);
	}
	return rc ? rc : (int)n;
}
