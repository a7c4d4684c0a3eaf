# shellcheck shell=sh
# shellcheck disable=SC2034 # what is set here is used by the scripts
# What the scripts share. Sourced.

# What was there before setup.sh and what it did. In /run, so that it ends with the reservation and the mounts: at boot.
state=${PB_HUGEPAGES_STATE:-/run/pybypass-hugepages}
# Where the kernel's files are, and below what /etc lies: other ones for tests.
sys=${PB_HUGEPAGES_SYS:-/sys}
proc=${PB_HUGEPAGES_PROC:-/proc}
root=${PB_HUGEPAGES_ROOT:-}
units=$root/etc/systemd/system
# In the first line of a unit that setup.sh wrote, without which teardown.sh leaves it alone.
unit_mark='# Made by hugepages/setup.sh of pybypass'
dry=${dry:-}

say() { echo "$*"; }

die() {
	echo "$(basename "$0"): $*" >&2
	exit 2
}

# fail STATUS WORDS...
fail() {
	status=$1
	shift
	echo "$(basename "$0"): $*" >&2
	exit "$status"
}

is_number() {
	case $1 in
	'' | *[!0-9]*) return 1 ;;
	esac
}

need_root() {
	[ -n "$dry" ] || [ "$(id -u)" -eq 0 ] || fail 4 "needs root (-n shows what would be done)"
}

# do_it COMMAND...: or, with -n, only says so.
do_it() {
	if [ -n "$dry" ]; then
		say "would: $*"
	else
		"$@"
	fi
}

# put TEXT FILE
put() {
	if [ -n "$dry" ]; then
		say "would: echo $1 > $2"
	else
		echo "$1" >"$2"
	fi
}

# size_name KIB: as people say it.
size_name() {
	case $1 in
	1048576) echo "1 GB" ;;
	*) echo "$(($1 / 1024)) MB" ;;
	esac
}

# pages_dir KIB NODE: the kernel's directory for pages of that size, of all nodes (any) or of one.
pages_dir() {
	if [ "$2" = any ]; then
		dir=$sys/kernel/mm/hugepages/hugepages-$1kB
	else
		dir=$sys/devices/system/node/node$2/hugepages/hugepages-$1kB
	fi
	[ -d "$dir" ] || fail 3 "no $dir: no such NUMA node, or a kernel or CPU without pages of $(size_name "$1")"
	echo "$dir"
}

# nodes KIB: the numbers of the NUMA nodes that have such pages; none on a kernel without NUMA.
nodes() {
	for dir in "$sys"/devices/system/node/node[0-9]*/hugepages/hugepages-"$1"kB; do
		[ -d "$dir" ] || continue
		name=${dir#"$sys"/devices/system/node/node}
		echo "${name%%/*}"
	done
}

# numbers KIB: "NODE COUNT" of each node, or "any COUNT".
numbers() {
	seen=$(nodes "$1")
	for node in ${seen:-any}; do
		echo "$node $(cat "$(pages_dir "$1" "$node")/nr_hugepages")"
	done
}
