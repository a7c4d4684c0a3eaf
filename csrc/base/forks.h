/* Whether this process is the one that made something: a number that changes in each child of fork(), read without a
 * system call. */
#ifndef PB_BASE_FORKS_H
#define PB_BASE_FORKS_H
#include "base/types.h"

PB_API extern uint32_t pb_forks; /* how many forks lie between here and the process that loaded the library */
#endif
