#!/bin/sh
# Undoes what setup.sh did: gives its pages back, unmounts what it mounted, removes its units. Run again, it changes nothing.
#
# Usage: teardown.sh [-n]
#
#   -n      say what would be done, and do nothing
#
# Pages that others reserved before, in between or later stay theirs.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hugepages/lib.sh
. "$here/lib.sh"
while getopts n option; do
	case $option in
	n) dry=1 ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -eq 0 ] || die "takes no argument"

ours=''
for unit in "$units"/pybypass-hugepages-*.service; do
	[ -f "$unit" ] || continue
	[ "$(head -n 1 "$unit")" = "$unit_mark" ] || continue
	ours="$ours ${unit##*/}"
done
if [ ! -d "$state" ] && [ -z "$ours" ]; then
	say "setup.sh did nothing since boot, and left no unit: nothing to do"
	exit 0
fi
need_root
result=0

for name in $ours; do
	do_it rm -f "$units/sysinit.target.wants/$name" "$units/$name"
done
[ -z "$ours" ] || [ -n "$root" ] || [ ! -d /run/systemd/system ] || do_it systemctl daemon-reload

# unmount DIR: not while files of somebody's lie there, whose pages it would take away.
unmount() {
	if ! awk -v dir="$1" '$2 == dir && $3 == "hugetlbfs" { found = 1 } END { exit !found }' /proc/mounts; then
		return 0
	fi
	if [ -n "$(ls -A "$1")" ]; then
		echo "$1 has files: it stays mounted until they are removed" >&2
		result=1
		return 1
	fi
	do_it umount "$1" || {
		result=1
		return 1
	}
}

if [ -e "$state/mounts" ]; then
	kept=''
	while read -r at; do unmount "$at" || kept="$kept$at
"; done <"$state/mounts"
	if [ -z "$dry" ]; then
		if [ -n "$kept" ]; then printf '%s' "$kept" >"$state/mounts"; else rm "$state/mounts"; fi
	fi
fi
if [ -e "$state/directories" ] && { [ -n "$dry" ] || [ ! -e "$state/mounts" ]; }; then
	while read -r directory; do do_it rmdir "$directory" || :; done <"$state/directories"
	[ -n "$dry" ] || rm "$state/directories"
fi

# give_back KIB NODE BEFORE ADDED: what setup.sh added, but no page that was there before it.
give_back() {
	pages=$(pages_dir "$1" "$2")
	now=$(cat "$pages/nr_hugepages")
	left=$((now - $4))
	[ "$left" -ge "$3" ] || left=$3
	[ "$left" -le "$now" ] || left=$now
	[ "$left" -ne "$now" ] || return 0
	put "$left" "$pages/nr_hugepages"
	[ -z "$dry" ] || return 0
	where=''
	[ "$2" = any ] || where=" on node $2"
	say "$(cat "$pages/nr_hugepages") huge pages of $(size_name "$1") stay reserved$where"
	surplus=$(cat "$pages/surplus_hugepages" 2>/dev/null || echo 0)
	[ "$surplus" -eq 0 ] || say "$surplus pages$where are still in use and go when their programs end"
}

for file in "$state"/before-*; do
	[ -e "$file" ] || continue
	kib=${file##*-}
	while read -r node number; do
		give_back "$kib" "$node" "$number" "$(awk -v node="$node" '$1 == node { print $2 }' "$state/added-$kib")"
	done <"$file"
	[ -n "$dry" ] || rm "$file" "$state/added-$kib"
done
if [ -z "$dry" ] && [ -d "$state" ] && [ ! -e "$state/mounts" ]; then rm -rf "$state"; fi
exit $result
