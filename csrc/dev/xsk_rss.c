/* Software RSS: the maps behind the spreading of one queue over several sockets. */
#define _GNU_SOURCE
#include "dev/xsk_prog.h"

#include "wire/toeplitz.h"

#include <bpf/bpf.h>
#include <errno.h>

_Static_assert(PB_RSS_KEY_BYTES == PB_TOEPLITZ_KEY_LEN && PB_RSS_IN_MAX == PB_TOEPLITZ_IN_MAX, "one hash");
_Static_assert(sizeof(struct pb_rss_hash) == sizeof(struct pb_toeplitz_table), "the program's table is csrc/wire's");

static int store_key(struct pb_xsk_prog *p, const uint8_t key[PB_RSS_KEY_BYTES])
{
	struct pb_toeplitz_table t;
	uint32_t zero = 0;
	pb_toeplitz_table_init(&t, key, PB_RSS_KEY_BYTES);
	if (bpf_map_update_elem(p->hash_fd, &zero, &t, BPF_ANY))
		return -errno;
	memcpy(p->rss_key, key, PB_RSS_KEY_BYTES);
	return 0;
}

/* With the lock. */
static int store_queue(struct pb_xsk_prog *p, uint32_t queue, const uint8_t *table)
{
	struct pb_rss_queue q = {.on = table != NULL};
	if (table)
		memcpy(q.table, table, sizeof(q.table));
	return bpf_map_update_elem(p->rss_fd, &queue, &q, BPF_ANY) ? -errno : 0;
}

static bool is_on(struct pb_xsk_prog *p, uint32_t queue)
{
	struct pb_rss_queue q = {0};
	return !bpf_map_lookup_elem(p->rss_fd, &queue, &q) && q.on;
}

int pb_xsk_rss_on(struct pb_xsk_prog *p, uint32_t queue, const uint8_t key[PB_RSS_KEY_BYTES],
		  const uint8_t table[PB_RSS_TABLE])
{
	if (queue >= PB_XSK_QUEUES)
		return -EINVAL;
	pthread_mutex_lock(&p->lock);
	bool on = is_on(p, queue);
	uint32_t others = p->conf.nrss - on;
	int err = others && memcmp(p->rss_key, key, PB_RSS_KEY_BYTES) ? -EBUSY : 0;
	/* The key and the table first, then what makes the program look at them. */
	if (!err)
		err = store_key(p, key);
	if (!err)
		err = store_queue(p, queue, table);
	if (!err && !on) {
		p->conf.nrss++;
		err = pb_xsk_prog_store_conf(p);
	}
	pthread_mutex_unlock(&p->lock);
	return err;
}

int pb_xsk_prog_meta(struct pb_xsk_prog *p, int change)
{
	pthread_mutex_lock(&p->lock);
	p->conf.nmeta += (uint32_t)change;
	int err = pb_xsk_prog_store_conf(p);
	pthread_mutex_unlock(&p->lock);
	return err;
}

int pb_xsk_rss_table(struct pb_xsk_prog *p, uint32_t queue, const uint8_t table[PB_RSS_TABLE])
{
	pthread_mutex_lock(&p->lock);
	int err = queue < PB_XSK_QUEUES && is_on(p, queue) ? store_queue(p, queue, table) : -ENOENT;
	pthread_mutex_unlock(&p->lock);
	return err;
}

void pb_xsk_rss_off(struct pb_xsk_prog *p, uint32_t queue)
{
	pthread_mutex_lock(&p->lock);
	if (queue < PB_XSK_QUEUES && is_on(p, queue) && !store_queue(p, queue, NULL)) {
		p->conf.nrss--;
		(void)pb_xsk_prog_store_conf(p);
	}
	pthread_mutex_unlock(&p->lock);
}
