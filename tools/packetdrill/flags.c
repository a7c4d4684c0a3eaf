/* --so_flags, and the knobs of the namespace. */
#include "pd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char known[] = "opts=linux|freebsd, psh=linux, acks=linux|bsd, cc=NAME, mtu=BYTES";
static bool cc_given;

static void refuse(const char *flag)
{
	fprintf(stderr, "pybypass: unknown flag '%s'; known: %s\n", flag, known);
	exit(2);
}

static bool set(const char *flag, struct pb_host_config *c)
{
	if (!strcmp(flag, "opts=linux"))
		c->layout = PB_HOST_LINUX;
	else if (!strcmp(flag, "opts=freebsd"))
		c->layout = PB_HOST_FREEBSD;
	else if (!strcmp(flag, "psh=linux"))
		c->psh = true;
	else if (!strcmp(flag, "acks=linux"))
		c->acks = PB_HOST_ACKS_LINUX;
	else if (!strcmp(flag, "acks=bsd"))
		c->acks = PB_HOST_ACKS_BSD;
	else if (!strncmp(flag, "cc=", 3) && flag[3])
		c->cc = flag + 3;
	else if (!strncmp(flag, "mtu=", 4) && atoi(flag + 4) >= 576)
		c->mtu[0] = c->mtu[1] = (uint16_t)atoi(flag + 4);
	else
		return false;
	return true;
}

void pd_flags(const char *flags, struct pb_host_config *cfg)
{
	static char copy[256]; /* cc points into it */
	char *rest = NULL;
	if (strlen(flags) >= sizeof(copy))
		refuse(flags);
	strcpy(copy, flags);
	for (char *f = strtok_r(copy, ", ", &rest); f; f = strtok_r(NULL, ", ", &rest))
		if (!set(f, cfg))
			refuse(f);
	cc_given = cfg->cc != NULL;
}

static void read_knob(const char *dir, const char *name, unsigned fields)
{
	char path[256], text[256], *p = text;
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *f = fopen(path, "r");
	if (!f)
		return; /* this kernel does not have it */
	if (fgets(text, sizeof(text), f))
		for (unsigned i = 0; i < fields; i++) {
			char *end;
			long long v = strtoll(p, &end, 0);
			if (end == p)
				break;
			pb_host_set_knob(pd_host, name, i, v);
			p = end;
		}
	fclose(f);
}

void pd_read_knobs(void)
{
	const char *dir = getenv("PB_SYSCTL_DIR"), *name;
	unsigned fields;
	if (!dir)
		dir = "/proc/sys/net/ipv4";
	for (unsigned i = 0; (name = pb_host_knob_name(i, &fields)); i++)
		read_knob(dir, name, fields);
}

__attribute__((visibility("default"))) void packetdrill_interface_init(const char *flags, struct pd_interface *i);

void packetdrill_interface_init(const char *flags, struct pd_interface *i)
{
	struct pb_host_config cfg;
	int err;
	pb_host_config_default(&cfg);
	cfg.start_ns = 1700000000ull * 1000000000;
	pd_flags(flags ? flags : "", &cfg);
	pd_host = pb_host_create(&cfg, &err);
	if (!pd_host) {
		fprintf(stderr, "pybypass: no host (%s)\n", strerror(-err));
		exit(2);
	}
	pd_calls(i);
	pd_data(i);
	pd_net(i);
}
