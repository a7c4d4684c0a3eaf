/* What the parts of the adapter share. One host, one lock; times are virtual microseconds. */
#ifndef PD_PD_H
#define PD_PD_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "abi.h"
#include "script/host.h"

#include <errno.h>
#include <pthread.h>

extern struct pb_host *pd_host;

/* ---- clock.c ---- */
/* Every entry point runs between the two. pd_leave() turns -errno into -1 and errno. */
void pd_enter(void);
ssize_t pd_leave(ssize_t r);
uint64_t pd_now_us(void);
void pd_advance_us(uint64_t us);
/* The moment of the next timer; UINT64_MAX: none within what a script may wait. */
uint64_t pd_next_us(void);
/* Calls fn(arg) until it is not -EAGAIN, or once. On packetdrill's second thread (blocking calls, `...`) it waits until
 * the first thread has let that much time pass; on the first it lets time pass itself: -ETIMEDOUT when nothing will
 * ever happen. Called between pd_enter() and pd_leave(). */
ssize_t pd_block(ssize_t (*fn)(void *), void *arg, bool once);
/* The same for a call that ends by itself at a time: fn no longer gives -EAGAIN then. */
ssize_t pd_block_until(ssize_t (*fn)(void *), void *arg, bool once, uint64_t until_us);
/* Something happened: those who wait try again. */
void pd_retry(void);
int pd_gettimeofday(void *u, struct timeval *tv, struct timezone *tz);
int pd_usleep(void *u, useconds_t us);

/* ---- fds.c ---- */
/* packetdrill closes what a script left open by close(2): so a file descriptor of the kernel stands for each socket. */
int pd_fd_new(int sock);
/* The socket of a descriptor, -EBADF. */
int pd_fd_sock(int fd);
bool pd_fd_nonblocking(int fd);
void pd_fd_set_nonblocking(int fd, bool on);
void pd_fd_close(int fd);

/* ---- calls.c, data.c, net.c: the members of the table ---- */
void pd_calls(struct pd_interface *i);
void pd_data(struct pd_interface *i);
void pd_net(struct pd_interface *i);

/* ---- qdisc.c ---- */
/* Whether the interface of the test lets anything out now. */
void pd_read_qdisc(void);

/* ---- flags.c ---- */
/* Ends the program when a flag is not known, and says which are. */
void pd_flags(const char *flags, struct pb_host_config *cfg);
/* The knobs as the namespace has them now. */
void pd_read_knobs(void);
#endif
