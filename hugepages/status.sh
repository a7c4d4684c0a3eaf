#!/bin/sh
# Shows the huge pages of 2 MB: reserved, free, per NUMA node, and who maps some.
# Usage: status.sh
set -eu
here=$(dirname "$0")
# shellcheck source=hugepages/lib.sh
. "$here/lib.sh"
[ $# -eq 0 ] || die "takes no argument"

pages=$(pages_dir "")
echo "2 MB pages: $(cat "$pages/nr_hugepages") reserved, $(cat "$pages/free_hugepages") free, \
$(cat "$pages/resv_hugepages") promised, $(cat "$pages/surplus_hugepages") surplus"
for dir in /sys/devices/system/node/node*/hugepages/hugepages-2048kB; do
	[ -d "$dir" ] || continue
	node=${dir#/sys/devices/system/node/}
	echo "  ${node%%/*}: $(cat "$dir/nr_hugepages") reserved, $(cat "$dir/free_hugepages") free"
done
thp=/sys/kernel/mm/transparent_hugepage/enabled
[ ! -r "$thp" ] || echo "transparent huge pages: $(cat "$thp")"
for smaps in /proc/[0-9]*/smaps_rollup; do
	kib=$(awk '/^(Private|Shared)_Hugetlb:/ { n += $2 } END { print n + 0 }' "$smaps" 2>/dev/null) || continue
	[ "${kib:-0}" -gt 0 ] || continue
	dir=${smaps%/smaps_rollup}
	echo "  process ${dir#/proc/} ($(cat "$dir/comm" 2>/dev/null || true)): $((kib / 2048)) pages"
done
