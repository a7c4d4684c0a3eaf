#!/bin/sh
# Gives back what setup.sh reserved: the numbers of before. Run again, it changes nothing.
# Usage: teardown.sh
set -eu
here=$(dirname "$0")
# shellcheck source=hugepages/lib.sh
. "$here/lib.sh"
[ $# -eq 0 ] || die "takes no argument"
if [ ! -d "$state" ]; then
	echo "setup.sh reserved nothing since boot: nothing to do"
	exit 0
fi
need_root

for file in "$state"/*; do
	[ -e "$file" ] || continue
	name=$(basename "$file")
	node=${name#node}
	[ "$name" != any ] || node=""
	pages=$(pages_dir "$node")
	cat "$file" >"$pages/nr_hugepages"
	rm "$file"
	echo "$(cat "$pages/nr_hugepages") huge pages of 2 MB stay reserved${node:+ on node $node}"
done
rmdir "$state"
surplus=$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages)
[ "$surplus" -eq 0 ] || echo "$surplus pages are still in use and go when their programs end"
