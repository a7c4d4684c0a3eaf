# shellcheck shell=sh
# What the scripts share. Sourced.

# What was there before setup.sh: one file per node. In /run, so that it ends with the reservation: at boot.
state=${PB_HUGEPAGES_STATE:-/run/pybypass-hugepages}

die() {
	echo "$(basename "$0"): $*" >&2
	exit 2
}

is_number() {
	case $1 in
	'' | *[!0-9]*) return 1 ;;
	esac
}

need_root() {
	[ "$(id -u)" -eq 0 ] || {
		echo "$(basename "$0"): needs root" >&2
		exit 4
	}
}

# The kernel's directory for 2 MB pages, of all nodes or of one.
pages_dir() {
	if [ -z "$1" ]; then
		dir=/sys/kernel/mm/hugepages/hugepages-2048kB
	else
		dir=/sys/devices/system/node/node$1/hugepages/hugepages-2048kB
	fi
	if [ ! -d "$dir" ]; then
		echo "$(basename "$0"): no $dir: no such NUMA node, or a kernel or CPU without 2 MB pages" >&2
		exit 3
	fi
	echo "$dir"
}

# remember: every node's number before the first change, which is the state to go back to.
remember() {
	[ ! -d "$state" ] || return 0
	mkdir -p "$state"
	for dir in /sys/devices/system/node/node*/hugepages/hugepages-2048kB; do
		[ -d "$dir" ] || continue
		node_name=${dir#/sys/devices/system/node/}
		cat "$dir/nr_hugepages" >"$state/${node_name%%/*}"
	done
	# A kernel without NUMA has no nodes.
	[ -e "$state/node0" ] || cat "$(pages_dir "")/nr_hugepages" >"$state/any"
}
