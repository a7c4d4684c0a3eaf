/* The flow table: open addressing with linear probing, at most half full; deletion shifts back, so there are no
 * tombstones. A slot holds the index of a connection plus one; the full hash is in the connection. */
#include "tcp/owners.h"
#include "tcp/tcb.h"

#include <errno.h>

int pb_tcp_share(struct pb_tcp *e, struct pb_tcp_owners *owners, uint32_t who)
{
	if (who >= PB_TCP_OWNERS_MAX)
		return -EINVAL;
	if (pb_tcp_get_stats(e)->conns)
		return -EBUSY;
	e->owners = owners;
	e->who = who;
	return 0;
}

int pb_tcp_owner(const struct pb_tcp *e, const struct pb_tcp_endpoint *local, const struct pb_tcp_endpoint *remote)
{
	return e->owners ? pb_tcp_owners_find(e->owners, local, remote, e->who) : -1;
}

/* What the other engines should know: opened, or over. */
static void announce(struct pb_tcp *e, const struct tcb *c, bool opened)
{
	struct pb_tcp_endpoint l = {c->laddr, c->lport}, r = {c->raddr, c->rport};
	if (opened)
		pb_tcp_owners_add(e->owners, &l, &r, e->who);
	else
		pb_tcp_owners_del(e->owners, &l, &r, e->who);
}

void flow_insert(struct pb_tcp *e, struct tcb *c)
{
	uint32_t i = c->hash & e->table_mask;
	while (e->table[i])
		i = (i + 1) & e->table_mask;
	e->table[i] = c->idx + 1;
	c->flags |= TCB_HASHED;
	if (e->owners)
		announce(e, c, true);
}

void flow_remove(struct pb_tcp *e, struct tcb *c)
{
	if (!(c->flags & TCB_HASHED))
		return;
	c->flags &= ~(uint32_t)TCB_HASHED;
	if (e->owners)
		announce(e, c, false);
	uint32_t i = c->hash & e->table_mask;
	while (e->table[i] != c->idx + 1)
		i = (i + 1) & e->table_mask;
	for (uint32_t j = i;;) {
		e->table[i] = 0;
		uint32_t home;
		do {
			j = (j + 1) & e->table_mask;
			if (!e->table[j])
				return;
			home = e->tcbs[e->table[j] - 1].hash & e->table_mask;
			/* Entry j may move to the hole i only if its home is not between them. */
		} while (((j - home) & e->table_mask) < ((j - i) & e->table_mask));
		e->table[i] = e->table[j];
		i = j;
	}
}

struct tcb *flow_find(const struct pb_tcp *e, uint32_t hash, const struct pb_ip *l, uint16_t lport,
		      const struct pb_ip *r, uint16_t rport)
{
	for (uint32_t i = hash & e->table_mask; e->table[i]; i = (i + 1) & e->table_mask) {
		struct tcb *c = &e->tcbs[e->table[i] - 1];
		if (c->hash == hash && c->lport == lport && c->rport == rport && pb_ip_eq(&c->raddr, r) &&
		    pb_ip_eq(&c->laddr, l))
			return c;
	}
	return NULL;
}

/* All zero is any address; 0.0.0.0 any of IPv4. */
static bool any_addr(const struct pb_ip *a, const struct pb_ip *l)
{
	return !(a->q[0] | a->q[1]) || (pb_ip_is4(a) && !a->w[3] && pb_ip_is4(l));
}

/* The listener bound to this address, else the one bound to any. */
struct tcb *listener_find(const struct pb_tcp *e, const struct pb_ip *l, uint16_t lport)
{
	struct tcb *any = NULL;
	for (uint32_t i = 0; i < e->nlisten; i++) {
		struct tcb *c = &e->tcbs[e->listeners[i]];
		if (c->lport != lport)
			continue;
		if (pb_ip_eq(&c->laddr, l))
			return c;
		if (any_addr(&c->laddr, l))
			any = c;
	}
	return any;
}
