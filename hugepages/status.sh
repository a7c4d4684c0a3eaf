#!/bin/sh
# Shows the huge pages of all sizes: reserved, free, per NUMA node; the mounts, the units, and who maps some.
#
# Usage: status.sh           (`pybypass hugepages` says what that means, also as JSON)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hugepages/lib.sh
. "$here/lib.sh"
[ $# -eq 0 ] || die "takes no argument"

found=''
for dir in "$sys"/kernel/mm/hugepages/hugepages-*kB; do
	[ -d "$dir" ] || continue
	found=1
	kib=${dir##*-}
	kib=${kib%kB}
	say "$(size_name "$kib") pages: $(cat "$dir/nr_hugepages") reserved, $(cat "$dir/free_hugepages") free, \
$(cat "$dir/resv_hugepages") promised, $(cat "$dir/surplus_hugepages") surplus"
	for node in $(nodes "$kib"); do
		at=$(pages_dir "$kib" "$node")
		say "  node$node: $(cat "$at/nr_hugepages") reserved, $(cat "$at/free_hugepages") free"
	done
done
[ -n "$found" ] || fail 3 "a kernel without huge pages"
thp=$sys/kernel/mm/transparent_hugepage/enabled
[ ! -r "$thp" ] || say "transparent huge pages: $(cat "$thp")"
awk '$3 == "hugetlbfs" { print "mount " $2 ": " $4 }' /proc/mounts
for unit in "$units"/pybypass-hugepages-*.service; do
	[ ! -e "$unit" ] || say "unit $unit"
done
[ ! -d "$state" ] || say "setup.sh did something since boot: teardown.sh undoes it"
for smaps in /proc/[0-9]*/smaps_rollup; do
	kib=$(awk '/^(Private|Shared)_Hugetlb:/ { n += $2 } END { print n + 0 }' "$smaps" 2>/dev/null) || continue
	[ "${kib:-0}" -gt 0 ] || continue
	dir=${smaps%/smaps_rollup}
	say "  process ${dir#/proc/} ($(cat "$dir/comm" 2>/dev/null || true)): $((kib / 1024)) MB"
done
