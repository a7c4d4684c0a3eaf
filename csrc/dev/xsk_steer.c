#define _GNU_SOURCE
#include "dev/xsk_prog.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>

static struct pb_steer_key key_of(uint8_t proto, const struct pb_ip *ip, uint16_t port)
{
	struct pb_steer_key k = {.port = __builtin_bswap16(port), .proto = proto};
	if (ip)
		memcpy(k.addr, ip->b, sizeof(k.addr));
	return k;
}

/* Everything: a counter. Both directions return 0 or -ENOENT. */
static int all_change(struct pb_xsk_prog *p, bool add)
{
	if (!add && !p->conf.all)
		return -ENOENT;
	p->conf.all += add ? 1 : UINT32_MAX;
	return pb_xsk_prog_store_conf(p);
}

/* count: of the configuration's, the one for this kind of entry. */
static int exact_add(struct pb_xsk_prog *p, const struct pb_steer_key *k, uint32_t *count)
{
	struct pb_steer_value v = {0};
	bool known = !bpf_map_lookup_elem(p->steer_fd, k, &v);
	v.refs++;
	if (bpf_map_update_elem(p->steer_fd, k, &v, BPF_ANY))
		return -errno;
	if (known)
		return 0;
	/* The entry first, then the count that makes the program look for it. */
	++*count;
	return pb_xsk_prog_store_conf(p);
}

static int exact_del(struct pb_xsk_prog *p, const struct pb_steer_key *k, uint32_t *count)
{
	struct pb_steer_value v = {0};
	if (bpf_map_lookup_elem(p->steer_fd, k, &v))
		return -ENOENT;
	if (--v.refs)
		return bpf_map_update_elem(p->steer_fd, k, &v, BPF_ANY) ? -errno : 0;
	if (bpf_map_delete_elem(p->steer_fd, k))
		return -errno;
	--*count;
	return pb_xsk_prog_store_conf(p);
}

static int store_range(struct pb_xsk_prog *p, uint32_t slot)
{
	const struct pb_steer_rule *s = &p->ranges[slot];
	struct pb_steer_range r = {.lo = s->lo, .hi = s->hi, .proto = s->proto, .any_addr = s->any_ip};
	memcpy(r.addr, s->ip.b, sizeof(r.addr));
	return bpf_map_update_elem(p->ranges_fd, &slot, &r, BPF_ANY) ? -errno : 0;
}

static uint32_t find_range(const struct pb_xsk_prog *p, const struct pb_steer_rule *w)
{
	uint32_t i = 0;
	for (; i < p->conf.nranges; i++) {
		const struct pb_steer_rule *r = &p->ranges[i];
		if (r->proto == w->proto && r->lo == w->lo && r->hi == w->hi && r->any_ip == w->any_ip &&
		    pb_ip_eq(&r->ip, &w->ip))
			break;
	}
	return i;
}

static int range_add(struct pb_xsk_prog *p, const struct pb_steer_rule *rule)
{
	uint32_t slot = find_range(p, rule);
	if (slot == PB_STEER_RANGES)
		return -ENOSPC;
	if (slot < p->conf.nranges) {
		p->ranges[slot].refs++;
		return 0;
	}
	p->ranges[slot] = *rule;
	p->ranges[slot].refs = 1;
	int err = store_range(p, slot);
	if (err)
		return err;
	p->conf.nranges++;
	return pb_xsk_prog_store_conf(p);
}

static int range_del(struct pb_xsk_prog *p, const struct pb_steer_rule *rule)
{
	uint32_t slot = find_range(p, rule);
	if (slot == p->conf.nranges)
		return -ENOENT;
	if (--p->ranges[slot].refs)
		return 0;
	/* The last one moves in. It is there twice for a moment, never absent. */
	uint32_t last = p->conf.nranges - 1;
	p->ranges[slot] = p->ranges[last];
	int err = slot == last ? 0 : store_range(p, slot);
	p->conf.nranges--;
	return err ? err : pb_xsk_prog_store_conf(p);
}

static int change(struct pb_xsk_prog *p, const struct pb_steer_rule *rule, bool add)
{
	if (!rule->proto && (rule->lo || rule->hi))
		return -EINVAL;
	if (!rule->proto && rule->any_ip)
		return all_change(p, add);
	if (rule->lo > rule->hi)
		return -EINVAL;
	if (rule->lo != rule->hi)
		return add ? range_add(p, rule) : range_del(p, rule);
	struct pb_steer_key k = key_of(rule->proto, rule->any_ip ? NULL : &rule->ip, rule->lo);
	uint32_t *count = !rule->proto ? &p->conf.nowned : rule->any_ip ? &p->conf.nany : &p->conf.nexact;
	return add ? exact_add(p, &k, count) : exact_del(p, &k, count);
}

static int change_locked(struct pb_xsk_prog *p, uint8_t proto, const struct pb_ip *ip, uint16_t lo, uint16_t hi,
			 bool add)
{
	static const struct pb_ip none;
	struct pb_steer_rule rule = {.lo = lo, .hi = hi, .proto = proto, .any_ip = !ip};
	/* The unspecified address of either family is the same as none. */
	if (ip && !pb_ip_eq(ip, &none) && !(pb_ip_is4(ip) && !ip->w[3]))
		rule.ip = *ip;
	else
		rule.any_ip = 1;
	pthread_mutex_lock(&p->lock);
	int err = change(p, &rule, add);
	pthread_mutex_unlock(&p->lock);
	return err;
}

int pb_xsk_steer_add(struct pb_xsk_prog *p, uint8_t proto, const struct pb_ip *ip, uint16_t lo, uint16_t hi)
{
	return change_locked(p, proto, ip, lo, hi, true);
}

int pb_xsk_steer_del(struct pb_xsk_prog *p, uint8_t proto, const struct pb_ip *ip, uint16_t lo, uint16_t hi)
{
	return change_locked(p, proto, ip, lo, hi, false);
}

int pb_xsk_steer_list(struct pb_xsk_prog *p, struct pb_steer_rule *out, int n)
{
	pthread_mutex_lock(&p->lock);
	int total = 0;
	if (p->conf.all) {
		if (total < n)
			out[total] = (struct pb_steer_rule){.any_ip = 1, .refs = p->conf.all};
		total++;
	}
	for (uint32_t i = 0; i < p->conf.nranges; i++, total++)
		if (total < n)
			out[total] = p->ranges[i];
	struct pb_steer_key k, *at = NULL;
	while (!bpf_map_get_next_key(p->steer_fd, at, &k)) {
		struct pb_steer_value v = {0};
		if (total < n && !bpf_map_lookup_elem(p->steer_fd, &k, &v)) {
			uint16_t port = __builtin_bswap16(k.port);
			struct pb_steer_rule r = {.lo = port, .hi = port, .proto = k.proto, .refs = v.refs};
			memcpy(r.ip.b, k.addr, sizeof(k.addr));
			r.any_ip = !r.ip.q[0] && !r.ip.q[1];
			out[total] = r;
		}
		total++;
		at = &k;
	}
	pthread_mutex_unlock(&p->lock);
	return total;
}

int pb_xsk_prog_counters(struct pb_xsk_prog *p, struct pb_steer_counters *out)
{
	memset(out, 0, sizeof(*out));
	int cpus = libbpf_num_possible_cpus();
	if (cpus < 1)
		return cpus ? cpus : -EIO;
	struct pb_steer_counters *each = calloc((size_t)cpus, sizeof(*each));
	if (!each)
		return -ENOMEM;
	uint32_t zero = 0;
	int err = bpf_map_lookup_elem(p->counters_fd, &zero, each) ? -errno : 0;
	for (int i = 0; !err && i < cpus; i++) {
		out->redirected += each[i].redirected;
		out->passed += each[i].passed;
		out->icmp_redirected += each[i].icmp_redirected;
		out->meta_failed += each[i].meta_failed;
		out->dropped += each[i].dropped;
	}
	free(each);
	return err;
}
