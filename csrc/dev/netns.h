/* Network namespaces without names: held by file descriptors alone, so that nothing survives a killed process
 * (man 7 network_namespaces; a named one is a bind mount and does survive). */
#ifndef PB_DEV_NETNS_H
#define PB_DEV_NETNS_H
#include "base/types.h"

/* A file descriptor (close-on-exec) of a fresh network namespace. The calling thread stays where it is. Needs
 * CAP_SYS_ADMIN. Returns -EPERM, -ENOSPC (too many namespaces), -EAGAIN, ... */
PB_API int pb_netns_new(void);

/* Moves the calling thread, and it alone, into the namespace. Returns a descriptor (close-on-exec) of the one that it
 * was in, to go back with, or -errno. */
PB_API int pb_netns_enter(int fd);

/* The number (inode) of the calling thread's network namespace, which tells namespaces apart; 0 when /proc is absent.
 */
PB_API uint64_t pb_netns_id(void);

/* Asks for signal sig when the thread that created this process ends (man 2 PR_SET_PDEATHSIG); 0 takes it back. */
PB_API int pb_pdeathsig(int sig);
#endif
