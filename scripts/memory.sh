#!/usr/bin/env bash
# Measures the daemon's memory and file descriptors: walks many files and writes a large one, drops the kernel's caches, opens many files.
#
#   scripts/memory.sh [--files N] [--big MIB] [--opens N] [--options OPTS] [--no-journal] [--bin PATH]
#
#   --files N       files to make and walk (default 200000)
#   --big MIB       size of the large file (default 4096)
#   --opens N       opens and closes (default 10000)
#   --options OPTS  mount options
#   --no-journal    an image without a journal
#   --bin PATH      an inlinefs that is already built
# Exit codes: 0 done (descriptors are the same before and after), 1 not, 2 usage, 3 something missing on this machine.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

files=200000 big=4096 opens=10000 options='' bin='' journal=has_journal
while [ $# -gt 0 ]; do
	case $1 in
	--files | --big | --opens | --options | --bin) [ $# -ge 2 ] || usage_error "$1 needs a value" ;;
	esac
	case $1 in
	--files) files=$2 && shift 2 ;;
	--big) big=$2 && shift 2 ;;
	--opens) opens=$2 && shift 2 ;;
	--options) options=$2 && shift 2 ;;
	--bin) bin=$(cd "$caller" && realpath "$2") && shift 2 ;;
	--no-journal) journal=^has_journal && shift ;;
	-h | --help)
		sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
		exit 0
		;;
	*) usage_error "unknown argument $1" ;;
	esac
done

ensure_packages mkfs.ext4:e2fsprogs e2fsck:e2fsprogs fusermount3:fuse3 || exit 3
fuse=$(fuse_missing)
[ -z "$fuse" ] || missing "$fuse"
find_go || exit 3
make_work
[ -n "$bin" ] || { bin=$WORK/inlinefs && build_inlinefs "$bin" mmap_conversion; }
go build -o "$WORK/treegen" ./scripts/treegen

img=$WORK/image mnt=$WORK/mnt
need=$((big + 2048))
free=$(df -m --output=avail "$WORK" | tail -n 1)
[ "$free" -gt "$need" ] || missing "$need MiB of free space in $WORK (there are $free)"
mkfs.ext4 -q -F -I 256 -O "inline_data,metadata_csum,$journal" -N $((files * 11 / 10 + 1000)) "$img" "${need}M" >"$WORK/mkfs" 2>&1 || {
	cat "$WORK/mkfs"
	die "mkfs.ext4 did not work"
}
start_mount "$bin" "$img" "$mnt" "$options" || { cat "$WORK/mount.log"; die "not mounted"; }
daemon=$MOUNT_PID

field() { awk -v k="$1:" '$1 == k { print int($2 / 1024) }' "/proc/$daemon/status"; }
descriptors() { find "/proc/$daemon/fd" -mindepth 1 -maxdepth 1 | wc -l; }
row() { printf '%-44s resident %6s MiB   peak %6s MiB   descriptors %4s\n' "$1" "$(field VmRSS)" "$(field VmHWM)" "$(descriptors)"; }

row "mounted"
mkdir "$mnt/tree"
"$WORK/treegen" -files "$files" -max 200 make "$mnt/tree"
row "$files files made"
find "$mnt/tree" -type f -size -1000k -printf '%s\n' >"$WORK/sizes"
row "$(wc -l <"$WORK/sizes") files walked"
dd if=/dev/zero of="$mnt/big" bs=1M count="$big" status=none conv=fsync
row "$big MiB written"
if is_root; then
	sync
	echo 3 >/proc/sys/vm/drop_caches
	sleep 2
	row "kernel caches dropped"
	find "$mnt/tree" -type f -size -1000k -printf ''
	row "walked again, cold"
else
	printf 'skipped: dropping the caches (needs root)\n'
fi

: >"$mnt/opened"
sync -f "$mnt/opened"
before=$(descriptors)
for ((i = 0; i < opens; i++)); do
	: <"$mnt/opened"
done
after=$(descriptors)
row "$opens opens"

stop_mount "$mnt" || die "the daemon ended with exit code $?"
e2fsck -fn "$img" >"$WORK/fsck" 2>&1 || { tail -n 20 "$WORK/fsck"; die "e2fsck -fn is not content"; }
printf 'image clean; descriptors before %s, after %s\n' "$before" "$after"
# The runtime may open one of its own at any time; a leak is one for each open.
[ $((after - before)) -lt $((opens / 100 + 10)) ] || die "$((after - before)) descriptors leaked in $opens opens"
