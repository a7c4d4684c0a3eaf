#define _GNU_SOURCE
#include "dev/xsk_prog.h"

#include "dev/netns.h"
#include "dev/xsk_uapi.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

/* The programs of this process, and libbpf's print function while one is opened. Set-up only. */
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pb_xsk_prog *list;

static __thread char first_warning[160];

/* libbpf prints; the first warning says what went wrong, the rest what followed from it. */
static int capture(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	if (level != LIBBPF_WARN || first_warning[0])
		return 0;
	vsnprintf(first_warning, sizeof(first_warning), fmt, ap);
	first_warning[strcspn(first_warning, "\n")] = 0;
	return 0;
}

/* libbpf has errors of its own from 4000 on; those say that the object is no good. */
static int kernel_errno(int err)
{
	return err <= -4000 ? -ENOEXEC : err;
}

struct variant {
	const char *file;
	bool metadata;
	bool frags;
};

/* From the most able to the least. Without frags support a program is refused on a large MTU and keeps long packets
 * from the kernel; kernels before 5.18 do not know it. */
static const struct variant native_variants[] = {
	{"pb_xdp_meta.bpf.o", true, true},
	{"pb_xdp_generic.bpf.o", false, true},
	{"pb_xdp_generic.bpf.o", false, false},
};
static const struct variant generic_variants[] = {
	{"pb_xdp_generic.bpf.o", false, true},
	{"pb_xdp_generic.bpf.o", false, false},
};

int pb_xsk_prog_store_conf(struct pb_xsk_prog *p)
{
	uint32_t zero = 0;
	return bpf_map_update_elem(p->conf_fd, &zero, &p->conf, BPF_ANY) ? -errno : 0;
}

static int find_maps(struct pb_xsk_prog *p)
{
	p->xsks_fd = bpf_object__find_map_fd_by_name(p->obj, "pb_xsks");
	p->steer_fd = bpf_object__find_map_fd_by_name(p->obj, "pb_steer");
	p->ranges_fd = bpf_object__find_map_fd_by_name(p->obj, "pb_ranges");
	p->conf_fd = bpf_object__find_map_fd_by_name(p->obj, "pb_conf");
	p->counters_fd = bpf_object__find_map_fd_by_name(p->obj, "pb_counters");
	p->rss_fd = bpf_object__find_map_fd_by_name(p->obj, "pb_rss");
	p->hash_fd = bpf_object__find_map_fd_by_name(p->obj, "pb_hash");
	p->acts_fd = bpf_object__find_map_fd_by_name(p->obj, "pb_acts");
	p->act_order_fd = bpf_object__find_map_fd_by_name(p->obj, "pb_act_order");
	p->act_counts_fd = bpf_object__find_map_fd_by_name(p->obj, "pb_act_counts");
	if (p->acts_fd < 0 || p->act_order_fd < 0 || p->act_counts_fd < 0 || p->rss_fd < 0 || p->hash_fd < 0 ||
	    p->xsks_fd < 0 || p->steer_fd < 0 || p->ranges_fd < 0 || p->conf_fd < 0 || p->counters_fd < 0)
		return -ENOENT;
	do {
		if (getrandom(&p->conf.magic, sizeof(p->conf.magic), 0) != sizeof(p->conf.magic))
			return -EIO;
	} while (!p->conf.magic);
	return pb_xsk_prog_store_conf(p);
}

static int load(struct pb_xsk_prog *p, const char *dir, const struct variant *v, struct pb_xsk_fail *f)
{
	char path[4096];
	if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, v->file) >= sizeof(path))
		return pb_xsk_fail_set(f, PB_XSK_STAGE_PROG_FILE, -ENAMETOOLONG, "path of %s", v->file);
	first_warning[0] = 0;
	p->obj = bpf_object__open_file(path, NULL);
	if (!p->obj)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_PROG_FILE, kernel_errno(-errno), "cannot read %s", path);
	struct bpf_program *prog = bpf_object__next_program(p->obj, NULL);
	int err = prog ? 0 : -ENOEXEC;
	if (!err) {
		uint32_t flags = (v->frags ? BPF_F_XDP_HAS_FRAGS : 0) | (v->metadata ? BPF_F_XDP_DEV_BOUND_ONLY : 0);
		bpf_program__set_flags(prog, flags);
		if (v->metadata)
			bpf_program__set_ifindex(prog, p->ifindex);
		err = kernel_errno(bpf_object__load(p->obj));
	}
	if (!err)
		err = find_maps(p);
	if (!err) {
		p->metadata = v->metadata;
		p->frags = v->frags;
		return 0;
	}
	bpf_object__close(p->obj);
	p->obj = NULL;
	return pb_xsk_fail_set(f, PB_XSK_STAGE_PROG_LOAD, err, "cannot load %s (%s)", v->file, first_warning);
}

static int attach(struct pb_xsk_prog *p, struct pb_xsk_fail *f)
{
	bool native = p->mode == PB_XSK_NATIVE;
	LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = native ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE);
	int prog_fd = bpf_program__fd(bpf_object__next_program(p->obj, NULL));
	p->link_fd = bpf_link_create(prog_fd, (int)p->ifindex, BPF_XDP, &opts);
	if (p->link_fd < 0) {
		int err = -errno;
		/* EEXIST: attached in the other mode. */
		if (err == -EBUSY || err == -EEXIST)
			return pb_xsk_fail_set(f, PB_XSK_STAGE_PROG_BUSY, -EBUSY,
					       "another XDP program is attached to interface %u", p->ifindex);
		return pb_xsk_fail_set(f, PB_XSK_STAGE_PROG_ATTACH, err, "interface %u refuses the program in %s mode",
				       p->ifindex, pb_xsk_mode_name(p->mode));
	}
	/* Read back rather than believed. */
	LIBBPF_OPTS(bpf_xdp_query_opts, q);
	if (!bpf_xdp_query((int)p->ifindex, 0, &q))
		p->mode = q.attach_mode == XDP_ATTACHED_SKB ? PB_XSK_GENERIC : PB_XSK_NATIVE;
	struct bpf_prog_info info = {0};
	uint32_t len = sizeof(info);
	if (!bpf_obj_get_info_by_fd(prog_fd, &info, &len))
		p->prog_id = info.id;
	return 0;
}

static int check_free(const struct pb_xsk_prog *p, struct pb_xsk_fail *f)
{
	LIBBPF_OPTS(bpf_xdp_query_opts, q);
	int err = bpf_xdp_query((int)p->ifindex, 0, &q);
	if (err)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_IFACE, err == -ENXIO ? -ENODEV : err, "no interface %u",
				       p->ifindex);
	if (q.attach_mode == XDP_ATTACHED_NONE)
		return 0;
	uint32_t id = q.prog_id ? q.prog_id : q.drv_prog_id ? q.drv_prog_id : q.skb_prog_id;
	return pb_xsk_fail_set(f, PB_XSK_STAGE_PROG_BUSY, -EBUSY,
			       "another XDP program (id %u) is attached to interface %u", id, p->ifindex);
}

static void unload(struct pb_xsk_prog *p)
{
	if (p->link_fd >= 0)
		close(p->link_fd);
	p->link_fd = -1;
	bpf_object__close(p->obj);
	p->obj = NULL;
}

/* Loads and attaches the best variant that works. A refusal for want of privilege is the same for all of them. */
static int load_mode(struct pb_xsk_prog *p, const char *dir, enum pb_xsk_mode mode, struct pb_xsk_fail *f)
{
	const struct variant *v = mode == PB_XSK_NATIVE ? native_variants : generic_variants;
	size_t n = mode == PB_XSK_NATIVE ? PB_ARRAY_LEN(native_variants) : PB_ARRAY_LEN(generic_variants);
	int err = -EINVAL;
	p->mode = mode;
	if (mode == PB_XSK_GENERIC)
		snprintf(p->no_metadata, sizeof(p->no_metadata), "generic mode has no RX metadata");
	for (size_t i = 0; i < n; i++) {
		err = load(p, dir, &v[i], f);
		if (!err || err == -EPERM || f->stage == PB_XSK_STAGE_PROG_FILE)
			break;
		if (v[i].metadata)
			snprintf(p->no_metadata, sizeof(p->no_metadata), "%.*s", (int)sizeof(p->no_metadata) - 1,
				 f->text);
	}
	if (!err)
		err = attach(p, f);
	if (err)
		unload(p);
	return err;
}

static struct pb_xsk_prog *create(const struct pb_xsk_prog_config *cfg, struct pb_xsk_fail *f, int *err)
{
	struct pb_xsk_prog *p = calloc(1, sizeof(*p));
	if (!p) {
		*err = pb_xsk_fail_set(f, PB_XSK_STAGE_MEMORY, -ENOMEM, "program handle");
		return NULL;
	}
	p->netns = pb_netns_id();
	p->ifindex = cfg->ifindex;
	p->refs = 1;
	p->link_fd = -1;
	pthread_mutex_init(&p->lock, NULL);
	*err = check_free(p, f);
	if (!*err) {
		*err = load_mode(p, cfg->obj_dir, cfg->mode == PB_XSK_GENERIC ? PB_XSK_GENERIC : PB_XSK_NATIVE, f);
		bool hopeless = *err == -EPERM || *err == -EBUSY || f->stage == PB_XSK_STAGE_PROG_FILE;
		if (*err && cfg->mode == PB_XSK_AUTO && !hopeless)
			*err = load_mode(p, cfg->obj_dir, PB_XSK_GENERIC, f);
	}
	if (!*err)
		return p;
	pthread_mutex_destroy(&p->lock);
	free(p);
	return NULL;
}

static struct pb_xsk_prog *find(const struct pb_xsk_prog_config *cfg)
{
	uint64_t netns = pb_netns_id();
	struct pb_xsk_prog *p = list;
	while (p && (p->ifindex != cfg->ifindex || p->netns != netns))
		p = p->next;
	return p;
}

bool pb_xsk_prog_is_here(uint32_t ifindex)
{
	const struct pb_xsk_prog_config cfg = {.ifindex = ifindex};
	pthread_mutex_lock(&list_lock);
	bool here = find(&cfg);
	pthread_mutex_unlock(&list_lock);
	return here;
}

struct pb_xsk_prog *pb_xsk_prog_open(const struct pb_xsk_prog_config *cfg, struct pb_xsk_fail *fail, int *err)
{
	memset(fail, 0, sizeof(*fail));
	*err = 0;
	if (!cfg->ifindex || !cfg->obj_dir || cfg->mode > PB_XSK_GENERIC) {
		*err = pb_xsk_fail_set(fail, PB_XSK_STAGE_CONFIG, -EINVAL, "interface, directory or mode");
		return NULL;
	}
	pthread_mutex_lock(&list_lock);
	struct pb_xsk_prog *p = find(cfg);
	if (p && cfg->mode != PB_XSK_AUTO && cfg->mode != p->mode) {
		*err = pb_xsk_fail_set(fail, PB_XSK_STAGE_PROG_BUSY, -EBUSY,
				       "this process has a program on interface %u in %s mode", p->ifindex,
				       pb_xsk_mode_name(p->mode));
		p = NULL;
	} else if (p) {
		p->refs++;
	} else {
		libbpf_print_fn_t before = libbpf_set_print(capture);
		p = create(cfg, fail, err);
		libbpf_set_print(before);
		if (p) {
			memset(fail, 0, sizeof(*fail));
			p->next = list;
			list = p;
		}
	}
	pthread_mutex_unlock(&list_lock);
	return p;
}

void pb_xsk_prog_ref(struct pb_xsk_prog *p)
{
	pthread_mutex_lock(&list_lock);
	p->refs++;
	pthread_mutex_unlock(&list_lock);
}

void pb_xsk_prog_unref(struct pb_xsk_prog *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&list_lock);
	bool last = --p->refs == 0;
	if (last) {
		struct pb_xsk_prog **at = &list;
		while (*at != p)
			at = &(*at)->next;
		*at = p->next;
		unload(p);
	}
	pthread_mutex_unlock(&list_lock);
	if (!last)
		return;
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void pb_xsk_prog_info(struct pb_xsk_prog *p, struct pb_xsk_prog_info *info)
{
	*info = (struct pb_xsk_prog_info){
		.ifindex = p->ifindex,
		.prog_id = p->prog_id,
		.mode = p->mode,
		.metadata = p->metadata,
		.frags = p->frags,
	};
	memcpy(info->no_metadata, p->no_metadata, sizeof(info->no_metadata));
	/* The kernel sets the link's ifindex to 0 when the interface goes. */
	struct bpf_link_info link = {0};
	uint32_t len = sizeof(link);
	info->attached = !bpf_obj_get_info_by_fd(p->link_fd, &link, &len) && link.xdp.ifindex == p->ifindex;
}

int pb_xsk_prog_map_set(struct pb_xsk_prog *p, uint32_t queue, uint32_t socket, int xsk_fd)
{
	uint32_t slot = queue * PB_XSK_SOCKETS + socket;
	return bpf_map_update_elem(p->xsks_fd, &slot, &xsk_fd, BPF_ANY) ? -errno : 0;
}

void pb_xsk_prog_map_del(struct pb_xsk_prog *p, uint32_t queue, uint32_t socket)
{
	uint32_t slot = queue * PB_XSK_SOCKETS + socket;
	bpf_map_delete_elem(p->xsks_fd, &slot);
}
