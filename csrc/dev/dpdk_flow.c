/* Keeps the rules of a port. */
#include "dev/dpdk_flow_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct pb_dpdk_flow {
	struct pb_dpdk_flow *next;
	int id;
	struct pb_flow_rule rule;
	struct rte_flow *handle; /* NULL: the port has lost it */
	struct pb_dpdk_flow_fail fail;
};

static const char *const places[] = {
	[RTE_FLOW_ERROR_TYPE_HANDLE] = "rule",
	[RTE_FLOW_ERROR_TYPE_ATTR_GROUP] = "group",
	[RTE_FLOW_ERROR_TYPE_ATTR_PRIORITY] = "priority",
	[RTE_FLOW_ERROR_TYPE_ATTR_INGRESS] = "direction",
	[RTE_FLOW_ERROR_TYPE_ATTR_EGRESS] = "direction",
	[RTE_FLOW_ERROR_TYPE_ATTR_TRANSFER] = "transfer",
	[RTE_FLOW_ERROR_TYPE_ATTR] = "attributes",
	[RTE_FLOW_ERROR_TYPE_ITEM_NUM] = "items",
	[RTE_FLOW_ERROR_TYPE_ITEM_SPEC] = "value",
	[RTE_FLOW_ERROR_TYPE_ITEM_LAST] = "range",
	[RTE_FLOW_ERROR_TYPE_ITEM_MASK] = "mask",
	[RTE_FLOW_ERROR_TYPE_ITEM] = "item",
	[RTE_FLOW_ERROR_TYPE_ACTION_NUM] = "actions",
	[RTE_FLOW_ERROR_TYPE_ACTION_CONF] = "configuration",
	[RTE_FLOW_ERROR_TYPE_ACTION] = "action",
	[RTE_FLOW_ERROR_TYPE_STATE] = "state of the port",
};

static bool within(const void *p, const void *base, size_t n)
{
	return (const uint8_t *)p >= (const uint8_t *)base && (const uint8_t *)p < (const uint8_t *)base + n;
}

/* The cause points at an item, an action, or what one of them points at; which of these differs between drivers. */
static int fail_set(struct pb_dpdk_flow_fail *f, int rc, const struct rte_flow_error *e,
		    const struct pb_flow_compiled *c)
{
	unsigned type = (unsigned)e->type;
	const char *place = type < sizeof(places) / sizeof(*places) && places[type] ? places[type] : "";
	f->err = rc < 0 ? rc : -EIO;
	snprintf(f->item, sizeof(f->item), "%s", place);
	snprintf(f->text, sizeof(f->text), "%s", e->message ? e->message : "");
	if (!c || !e->cause)
		return f->err;
	for (const struct rte_flow_item *i = c->items; i->type != RTE_FLOW_ITEM_TYPE_END; i++)
		if (within(e->cause, i, sizeof(*i)) || e->cause == i->spec || e->cause == i->mask ||
		    (i->last && e->cause == i->last)) {
			bool whole = type == RTE_FLOW_ERROR_TYPE_ITEM || !*place;
			snprintf(f->item, sizeof(f->item), "item %s%s%s", pb_flow_item_name(i->type), whole ? "" : ": ",
				 whole ? "" : place);
			return f->err;
		}
	for (const struct rte_flow_action *a = c->actions; a->type != RTE_FLOW_ACTION_TYPE_END; a++)
		if (within(e->cause, a, sizeof(*a)) || (a->conf && e->cause == a->conf)) {
			bool whole = type == RTE_FLOW_ERROR_TYPE_ACTION || !*place;
			snprintf(f->item, sizeof(f->item), "action %s%s%s", pb_flow_action_name(a->type),
				 whole ? "" : ": ", whole ? "" : place);
			return f->err;
		}
	return f->err;
}

static int plain(struct pb_dpdk_flow_fail *f, int rc, const char *item, const char *text)
{
	f->err = rc;
	snprintf(f->item, sizeof(f->item), "%s", item);
	snprintf(f->text, sizeof(f->text), "%s", text);
	return rc;
}

static int check_queues(const struct pb_dpdk_port *p, const struct pb_flow_rule *r, struct pb_dpdk_flow_fail *f)
{
	if (r->fate == PB_FLOW_DROP)
		return 0;
	if (!r->nqueues || r->nqueues > PB_FLOW_QUEUES)
		return plain(f, -EINVAL, "action RSS", "no queues, or more than 64");
	for (uint32_t i = 0; i < r->nqueues; i++)
		if (r->queues[i] >= p->cfg.queues)
			return plain(f, -EINVAL, r->fate == PB_FLOW_QUEUE ? "action QUEUE" : "action RSS",
				     "a queue that the port does not have");
	return 0;
}

/* Compiles the form that the driver takes: the first, or the second where only that is allowed. */
static int validated(struct pb_dpdk_port *p, const struct pb_flow_rule *r, struct pb_flow_compiled *c,
		     struct pb_dpdk_flow_fail *f)
{
	struct rte_flow_error e = {0};
	int rc = atomic_load(&p->gone) ? plain(f, -ENODEV, "", "the device is gone") : check_queues(p, r, f);
	if (rc)
		return rc;
	pb_flow_compile(r, false, c);
	rc = rte_flow_validate(p->id, &c->attr, c->items, c->actions, &e);
	if (!rc)
		return 0;
	fail_set(f, rc, &e, c);
	if (rc == -ENOSYS || r->proto_mask != 255 || (r->proto != 6 && r->proto != 17))
		return f->err;
	pb_flow_compile(r, true, c);
	return rte_flow_validate(p->id, &c->attr, c->items, c->actions, &e) ? f->err : 0;
}

static int put_in(struct pb_dpdk_port *p, struct pb_dpdk_flow *flow)
{
	struct pb_flow_compiled c;
	struct rte_flow_error e = {0};
	int rc = validated(p, &flow->rule, &c, &flow->fail);
	if (rc)
		return rc;
	flow->handle = rte_flow_create(p->id, &c.attr, c.items, c.actions, &e);
	if (!flow->handle)
		return fail_set(&flow->fail, rte_errno ? -rte_errno : -EIO, &e, &c);
	flow->fail.err = 0;
	return 0;
}

int pb_dpdk_flow_validate(struct pb_dpdk_port *p, const struct pb_flow_rule *rule, struct pb_dpdk_flow_fail *fail)
{
	struct pb_flow_compiled c;
	return validated(p, rule, &c, fail);
}

int pb_dpdk_flow_create(struct pb_dpdk_port *p, const struct pb_flow_rule *rule, struct pb_dpdk_flow_fail *fail)
{
	struct pb_dpdk_flow *flow = calloc(1, sizeof(*flow)), **end = &p->flows;
	if (!flow)
		return plain(fail, -ENOMEM, "", "no memory");
	flow->rule = *rule;
	int rc = put_in(p, flow);
	if (rc) {
		*fail = flow->fail;
		free(flow);
		return rc;
	}
	flow->id = ++p->last_flow;
	while (*end)
		end = &(*end)->next;
	*end = flow;
	return flow->id;
}

static struct pb_dpdk_flow **find(struct pb_dpdk_port *p, int id)
{
	struct pb_dpdk_flow **at = &p->flows;
	while (*at && (*at)->id != id)
		at = &(*at)->next;
	return at;
}

static int take_out(struct pb_dpdk_port *p, struct pb_dpdk_flow *flow, struct pb_dpdk_flow_fail *fail)
{
	struct rte_flow_error e = {0};
	int rc = flow->handle && !atomic_load(&p->gone) ? rte_flow_destroy(p->id, flow->handle, &e) : 0;
	if (rc)
		return fail_set(fail, rc, &e, NULL);
	flow->handle = NULL;
	return 0;
}

int pb_dpdk_flow_destroy(struct pb_dpdk_port *p, int id, struct pb_dpdk_flow_fail *fail)
{
	struct pb_dpdk_flow **at = find(p, id), *flow = *at;
	if (!flow)
		return plain(fail, -ENOENT, "rule", "no such rule");
	int rc = take_out(p, flow, fail);
	if (!rc) {
		*at = flow->next;
		free(flow);
	}
	return rc;
}

void pb_dpdk_flows_free(struct pb_dpdk_port *p)
{
	struct pb_dpdk_flow_fail fail;
	while (p->flows) {
		struct pb_dpdk_flow *flow = p->flows;
		(void)take_out(p, flow, &fail); /* what the driver keeps goes with the port */
		p->flows = flow->next;
		free(flow);
	}
}

int pb_dpdk_flow_query(struct pb_dpdk_port *p, int id, uint64_t *hits, uint64_t *bytes, struct pb_dpdk_flow_fail *fail)
{
	static const struct rte_flow_action_count none;
	struct pb_dpdk_flow *flow = *find(p, id);
	struct rte_flow_query_count q = {0};
	struct rte_flow_error e = {0};
	struct rte_flow_action count[] = {{RTE_FLOW_ACTION_TYPE_COUNT, &none}, {RTE_FLOW_ACTION_TYPE_END, NULL}};
	if (!flow)
		return plain(fail, -ENOENT, "rule", "no such rule");
	if (!flow->rule.count)
		return plain(fail, -EINVAL, "action COUNT", "the rule does not count");
	if (!flow->handle || atomic_load(&p->gone))
		return plain(fail, -ENODEV, "rule", "it is not in the port now");
	int rc = rte_flow_query(p->id, flow->handle, count, &q, &e);
	if (rc)
		return fail_set(fail, rc, &e, NULL);
	*hits = q.hits_set ? q.hits : UINT64_MAX;
	*bytes = q.bytes_set ? q.bytes : UINT64_MAX;
	return 0;
}

int pb_dpdk_flow_state(struct pb_dpdk_port *p, int id, struct pb_dpdk_flow_fail *fail)
{
	struct pb_dpdk_flow *flow = *find(p, id);
	if (!flow)
		return plain(fail, -ENOENT, "rule", "no such rule");
	*fail = flow->fail;
	return flow->handle ? 1 : flow->fail.err;
}

/* ---- the port's life ---- */

void pb_dpdk_flows_stop(struct pb_dpdk_port *p)
{
	struct pb_dpdk_flow_fail fail;
	if (p->info.dev_capa & RTE_ETH_DEV_CAPA_FLOW_RULE_KEEP)
		return;
	for (struct pb_dpdk_flow *f = p->flows; f; f = f->next) {
		(void)take_out(p, f, &fail);
		f->handle = NULL; /* lost with the stop, if not before */
	}
}

void pb_dpdk_flows_start(struct pb_dpdk_port *p)
{
	for (struct pb_dpdk_flow *f = p->flows; f; f = f->next)
		if (!f->handle)
			(void)put_in(p, f);
}

void pb_dpdk_flows_lost(struct pb_dpdk_port *p)
{
	for (struct pb_dpdk_flow *f = p->flows; f; f = f->next)
		f->handle = NULL;
}
