#!/bin/sh
# Reserves huge pages, so that at least COUNT exist, and mounts hugetlbfs where that is wanted. Run again, it changes nothing.
#
# Usage: setup.sh [-n] [-s 2M|1G] [-N NODES] [-m DIR [-g GROUP]] [-p] [COUNT] [NODE]
#
#   COUNT   pages (default 64 of 2 MB, 1 of 1 GB): in all, or on each node that is named
#   -n      say what would be done, and do nothing
#   -s      the size of a page (2M)
#   -N      NUMA nodes: "0", "0,1" or "all" (default: as the kernel spreads them); NODE after COUNT is one of them
#   -m      mount hugetlbfs of that size at DIR, which is made when it is missing
#   -g      members of GROUP may use the mount (mode 0770; else only root)
#   -p      do the same at every boot: a systemd unit
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hugepages/lib.sh
. "$here/lib.sh"

kib=2048 nodes='' mount_at='' group='' persist=''
while getopts ns:N:m:g:p option; do
	case $option in
	n) dry=1 ;;
	s)
		case $OPTARG in
		2M | 2m | 2MB) kib=2048 ;;
		1G | 1g | 1GB) kib=1048576 ;;
		*) die "-s takes 2M or 1G, not '$OPTARG'" ;;
		esac
		;;
	N) nodes=$OPTARG ;;
	m) mount_at=$OPTARG ;;
	g) group=$OPTARG ;;
	p) persist=1 ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -le 2 ] || die "takes COUNT and NODE, not '$*'"
if [ $kib = 2048 ]; then count=${1:-64}; else count=${1:-1}; fi
[ $# -lt 2 ] || [ -z "$nodes" ] || die "nodes are given twice"
nodes=${nodes:-${2:-any}}
is_number "$count" || die "COUNT is a number of pages, not '$count'"
if [ "$nodes" = all ]; then
	nodes=$(nodes $kib)
	[ -n "$nodes" ] || nodes=any
fi
nodes=$(echo "$nodes" | tr ',' ' ')
for node in $nodes; do
	[ "$node" = any ] || is_number "$node" || die "NODE is a number, not '$node'"
	pages_dir $kib "$node" >/dev/null
done
case $mount_at in
'' | /*) ;;
*) die "-m takes a path from the root, not '$mount_at'" ;;
esac
case $mount_at in
*[[:space:]\"\'\\%\$]*) die "-m takes a path without spaces, quotes, % and \$" ;;
esac
[ -z "$group" ] || [ -n "$mount_at" ] || die "-g is for the mount: give -m too"
gid=''
if [ -n "$group" ]; then
	gid=$(getent group "$group" | cut -d: -f3)
	[ -n "$gid" ] || fail 3 "no group '$group'"
fi
need_root
size=$(size_name $kib)
result=0

# account NUMBERS: adds to what is ours by node what has come since those numbers; first the numbers of before are kept.
account() {
	mkdir -p "$state"
	[ -e "$state/before-$kib" ] || echo "$1" >"$state/before-$kib"
	touch "$state/added-$kib"
	numbers $kib | while read -r node now; do
		had=$(echo "$1" | awk -v node="$node" '$1 == node { print $2 }')
		ours=$(awk -v node="$node" '$1 == node { print $2 }' "$state/added-$kib")
		echo "$node $((${ours:-0} + now - had))"
	done >"$state/added.new"
	mv "$state/added.new" "$state/added-$kib"
}

# compact NODE: the kernel moves what can be moved, so that what is free lies together. It does so by itself for each page of
# 2 MB, but not for the whole node, and it gives up a page of 1 GB when one frame of it is in use just then.
compact() {
	if [ "$1" = any ]; then by=$proc/sys/vm/compact_memory; else by=$sys/devices/system/node/node$1/compact; fi
	[ ! -w "$by" ] || put 1 "$by" 2>/dev/null || :
}

# short NODE GOT WHERE: says that there are fewer than asked for, and what is left to do.
short() {
	numbers=$count
	[ "$1" = any ] || numbers=$1:$count
	echo "only $2 of $count huge pages of $size could be reserved$3, also after compacting: memory is short or in pieces." >&2
	if [ $kib = 2048 ]; then
		echo "End what uses memory, 'echo 3 > /proc/sys/vm/drop_caches' and try again, or reserve them at boot: hugepages=$numbers" >&2
	else
		echo "A page of $size is memory in one piece, which a running kernel often has no more. Reserve them on its command line:" \
			"hugepagesz=1G hugepages=$numbers" >&2
	fi
}

# reserve NODE
reserve() {
	where=''
	[ "$1" = any ] || where=" on node $1"
	pages=$(pages_dir $kib "$1")
	have=$(cat "$pages/nr_hugepages")
	if [ "$have" -ge "$count" ]; then
		say "$have huge pages of $size are reserved$where: nothing to do"
		return
	fi
	had_all=$(numbers $kib)
	# 1 GB pages may be refused altogether: the write itself fails, and the number below says the rest.
	put "$count" "$pages/nr_hugepages" 2>/dev/null || :
	[ -z "$dry" ] || return 0
	got=$(cat "$pages/nr_hugepages")
	if [ "$got" -lt "$count" ]; then
		compact "$1"
		put "$count" "$pages/nr_hugepages" 2>/dev/null || :
		got=$(cat "$pages/nr_hugepages")
	fi
	account "$had_all"
	if [ "$got" -lt "$count" ]; then
		short "$1" "$got" "$where"
		result=1
		return
	fi
	say "$got huge pages of $size are reserved$where ($have before)"
}

# mounted DIR: the type of what is mounted there.
mounted() { awk -v dir="$1" '$2 == dir { type = $3 } END { print type }' /proc/mounts; }

mount_pages() {
	options=pagesize=${kib}K
	if [ -n "$gid" ]; then options=$options,gid=$gid,mode=0770; else options=$options,mode=0700; fi
	case $(mounted "$mount_at") in
	hugetlbfs)
		now=$(awk -v dir="$mount_at" '$2 == dir { o = $4 } END { print o }' /proc/mounts)
		case $kib,$now in
		2048,*pagesize=2M* | 1048576,*pagesize=1024M*) ;;
		*) fail 1 "$mount_at is a hugetlbfs of another page size ($now)" ;;
		esac
		if [ -n "$gid" ] && [ "$(stat -c %g "$mount_at")" != "$gid" ]; then
			fail 1 "$mount_at is mounted for group $(stat -c %g "$mount_at"), not $gid: teardown.sh, or umount it"
		fi
		say "hugetlbfs of $size is mounted at $mount_at: nothing to do"
		return
		;;
	'') ;;
	*) fail 1 "$mount_at is a mount point of something else" ;;
	esac
	if [ ! -d "$mount_at" ]; then
		[ -n "$dry" ] || mkdir -p "$state"
		missing=$mount_at
		while [ -z "$dry" ] && [ ! -d "$missing" ]; do # the deepest first, as they are removed
			echo "$missing" >>"$state/directories"
			missing=$(dirname "$missing")
		done
		do_it mkdir -p "$mount_at"
	fi
	do_it mount -t hugetlbfs -o "$options" pybypass "$mount_at"
	[ -n "$dry" ] || {
		mkdir -p "$state"
		echo "$mount_at" >>"$state/mounts"
		say "hugetlbfs of $size is mounted at $mount_at${group:+ for group $group}"
	}
}

# The unit does what this command does; one for each size and choice of nodes.
unit_text() {
	nodes_word=$(echo "$nodes" | tr ' ' ',')
	arguments="-s $([ $kib = 2048 ] && echo 2M || echo 1G)"
	[ "$nodes" = any ] || arguments="$arguments -N $nodes_word"
	[ -z "$mount_at" ] || arguments="$arguments -m $mount_at"
	[ -z "$group" ] || arguments="$arguments -g $group"
	cat <<-END
		$unit_mark
		[Unit]
		Description=Reserve huge pages of $size for pybypass
		DefaultDependencies=no
		After=local-fs.target
		Before=sysinit.target
		ConditionPathExists=$here/setup.sh

		[Service]
		Type=oneshot
		RemainAfterExit=yes
		ExecStart="$here/setup.sh" $arguments $count

		[Install]
		WantedBy=sysinit.target
	END
}

write_unit() {
	name=pybypass-hugepages-${kib}k-$(echo "$nodes" | tr ' ' '-').service
	wants=$units/sysinit.target.wants
	case $here in
	*[\"\\%\$]*) fail 1 "no unit can name $here: quotes, % or \$" ;;
	esac
	if [ -e "$units/$name" ] && [ -L "$wants/$name" ] && [ "$(unit_text)" = "$(cat "$units/$name")" ]; then
		say "$units/$name is there: nothing to do"
		return
	fi
	if [ -n "$dry" ]; then
		say "would: write $units/$name and enable it"
		return
	fi
	mkdir -p "$wants"
	unit_text >"$units/$name.new"
	mv "$units/$name.new" "$units/$name"
	ln -sf "../$name" "$wants/$name"
	[ -n "$root" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload
	say "$units/$name does the same at boot"
}

for node in $nodes; do reserve "$node"; done
[ -z "$mount_at" ] || mount_pages
[ -z "$persist" ] || write_unit
exit $result
