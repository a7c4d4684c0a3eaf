/* Scripts play a full queue by a qdisc without room on the interface that packetdrill made. The stack under test has no
 * such interface, so what the kernel's would do is looked up (rtnetlink(7)), and done to the host. */
#include "pd.h"

#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <unistd.h>

#define DEVICE "tun0"

/* Whether a qdisc is a fifo that holds nothing. */
static bool holds_nothing(const struct rtattr *a, size_t left)
{
	const struct tc_fifo_qopt *fifo = NULL;
	bool pfifo = false;
	while (left >= sizeof(*a) && a->rta_len >= sizeof(*a) && a->rta_len <= left) {
		size_t step = RTA_ALIGN(a->rta_len);
		if (a->rta_type == TCA_KIND)
			pfifo = !strcmp(RTA_DATA(a), "pfifo");
		else if (a->rta_type == TCA_OPTIONS && RTA_PAYLOAD(a) >= sizeof(*fifo))
			fifo = RTA_DATA(a);
		if (step >= left)
			break;
		left -= step;
		a = (const void *)((const char *)a + step);
	}
	return pfifo && fifo && !fifo->limit;
}

/* One answer; false: it was the last. */
static bool look(const char *buf, ssize_t n, int ifindex, bool *stuck)
{
	unsigned left = (unsigned)n;
	for (const struct nlmsghdr *h = (const void *)buf; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
		if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
			return false;
		const struct tcmsg *t = NLMSG_DATA(h);
		if (h->nlmsg_type != RTM_NEWQDISC || t->tcm_ifindex != ifindex || t->tcm_parent != TC_H_ROOT)
			continue;
		const struct rtattr *a = (const void *)((const char *)t + NLMSG_ALIGN(sizeof(*t)));
		*stuck = holds_nothing(a, h->nlmsg_len - NLMSG_LENGTH(sizeof(*t)));
	}
	return true;
}

void pd_read_qdisc(void)
{
	static int fd = -1;
	struct {
		struct nlmsghdr h;
		struct tcmsg t;
	} ask = {
		.h = {.nlmsg_len = sizeof(ask), .nlmsg_type = RTM_GETQDISC, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
		.t = {.tcm_family = AF_UNSPEC},
	};
	_Alignas(struct nlmsghdr) char buf[16384];
	int ifindex = (int)if_nametoindex(DEVICE);
	bool stuck = false;
	if (fd < 0)
		fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0 || !ifindex || send(fd, &ask, sizeof(ask), 0) < 0)
		return;
	for (ssize_t n; (n = recv(fd, buf, sizeof(buf), 0)) > 0;)
		if (!look(buf, n, ifindex, &stuck))
			break;
	pb_host_set_stuck(pd_host, stuck);
}
