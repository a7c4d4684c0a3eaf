/* Several cores on one port: paths that share the table of who has which flow, and hand each other what the NIC brought
 * to the wrong one. From each member to each other one leads a ring of its own, so no two threads ever wait for each
 * other. A frame of the same pool changes hands as it is; for a member with another pool it is copied.
 *
 * A packet is handed on once: at the end of a ring it is treated as any other, without a look into the table. Its frame
 * has owner RX all the way. */
#ifndef PB_PATH_GROUP_H
#define PB_PATH_GROUP_H
#include "path/path.h"
#include "tcp/owners.h"

#define PB_GROUP_MAX PB_TCP_OWNERS_MAX
#define PB_GROUP_RING 256 /* packets from one member to another */

/* For so many members and flows of all together. One reference, the caller's. NULL and -errno in *err: -EINVAL,
 * -ENOMEM. */
PB_API struct pb_group *pb_group_create(uint32_t members, uint32_t flows, const uint8_t secret[16], int *err);
PB_API void pb_group_unref(struct pb_group *g);
/* Makes p member `who`, until pb_path_destroy(); it holds a reference. p has a channel, no flow yet, and no thread.
 * Others may run. 0, -EINVAL, -EBUSY (there is one, or it has flows), -ENOMEM, -ENOSPC (caches of a pool). */
PB_API int pb_group_join(struct pb_group *g, struct pb_path *p, uint32_t who);
/* Woken when any member has told its application something; slow: when one has exceptions. */
PB_API struct pb_waitq *pb_group_waitq(struct pb_group *g, bool slow);
/* Flows that members have; exact when they are quiet. */
PB_API uint32_t pb_group_flows(const struct pb_group *g);

/* Parts of the step; private to csrc/path. */
void pb_group_leave(struct pb_path *p);
/* Takes n packets of owner RX, from their Ethernet header on; packet i is for member who[i]. */
void pb_group_send(struct pb_path *p, struct pb_desc *d, const uint8_t *who, int n);
/* Processes what the others sent. Returns how many. */
int pb_group_receive(struct pb_path *p, uint64_t now_ns);
bool pb_group_waiting(const struct pb_path *p);
#endif
