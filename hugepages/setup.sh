#!/bin/sh
# Reserves huge pages of 2 MB, so that at least COUNT exist. Run again, it changes nothing.
# Usage: setup.sh [COUNT] [NODE]      COUNT pages (default 64, 128 MB), on one NUMA node or as the kernel likes
set -eu
here=$(dirname "$0")
# shellcheck source=hugepages/lib.sh
. "$here/lib.sh"

count=${1:-64}
node=${2:-}
is_number "$count" || die "COUNT is a number of pages, not '$count'"
[ -z "$node" ] || is_number "$node" || die "NODE is a number, not '$node'"
pages=$(pages_dir "$node")
need_root

have=$(cat "$pages/nr_hugepages")
if [ "$have" -ge "$count" ]; then
	echo "$have huge pages of 2 MB are reserved${node:+ on node $node}: nothing to do"
	exit 0
fi
remember
echo "$count" >"$pages/nr_hugepages"
got=$(cat "$pages/nr_hugepages")
if [ "$got" -lt "$count" ]; then
	echo "only $got of $count huge pages of 2 MB could be reserved: memory is short or in pieces." >&2
	echo "Try again after 'echo 1 > /proc/sys/vm/compact_memory', or reserve them at boot: hugepages=$count" >&2
	exit 1
fi
echo "$got huge pages of 2 MB are reserved${node:+ on node $node} ($have before)"
