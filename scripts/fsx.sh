#!/usr/bin/env bash
# Runs fsx (random reads, writes, truncates, mapped and not, against a model) on inlinefs with files around the capacity of an inode, with
# each mmap mode, and judges the image afterwards by `e2fsck -fn` and `inlinefs check`.
#
#   FSX=path/to/fsx scripts/fsx.sh [options]            an fsx that is already built, or
#   XFSTESTS=path/to/xfstests scripts/fsx.sh [options]  builds ltp/fsx.c of that source tree (git.kernel.org, fs/xfs/xfstests-dev.git)
#
#   --seeds N        seeds for each length (default 3)
#   --first N        the first seed (default 1)
#   --ops N          operations in a run (default 2000)
#   --lengths LIST   largest file sizes, in bytes (default 60,61,128,129,160,5000)
#   --options OPTS   further mount options
#   --bin PATH       an inlinefs that is already built
# Exit codes: 0 all runs pass, 1 one does not, 2 usage, 3 something missing on this machine.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

seeds=3 first=1 ops=2000 lengths=60,61,128,129,160,5000 options='' bin=''
while [ $# -gt 0 ]; do
	case $1 in
	--seeds | --first | --ops | --lengths | --options | --bin) [ $# -ge 2 ] || usage_error "$1 needs a value" ;;
	esac
	case $1 in
	--seeds) seeds=$2 && shift 2 ;;
	--first) first=$2 && shift 2 ;;
	--ops) ops=$2 && shift 2 ;;
	--lengths) lengths=$2 && shift 2 ;;
	--options) options=,$2 && shift 2 ;;
	--bin) bin=$(cd "$caller" && realpath "$2") && shift 2 ;;
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
make_work

if [ -n "${FSX:-}" ]; then
	fsx=$(cd "$caller" && realpath "$FSX")
	[ -x "$fsx" ] || missing "FSX=$FSX is no program"
elif [ -n "${XFSTESTS:-}" ]; then
	ensure_packages gcc:gcc || exit 3
	fsx=$WORK/fsx
	# What the configure step of that tree would have found out; an own config.h, last in the search, serves a tree without one.
	mkdir "$WORK/include"
	printf '#include <%s>\n' getopt.h assert.h sys/param.h >"$WORK/include/pre.h"
	: >"$WORK/include/config.h"
	(cd "$caller" && cd "$XFSTESTS" &&
		gcc -O1 -g -w -D_GNU_SOURCE -include "$WORK/include/pre.h" -DHAVE_FALLOCATE -DFALLOCATE -DHAVE_LINUX_FALLOC_H -I. -Isrc -Iinclude \
			-idirafter "$WORK/include" -o "$fsx" ltp/fsx.c) || missing "ltp/fsx.c in XFSTESTS=$XFSTESTS does not compile"
else
	missing "fsx is missing: set FSX=path of a built one, or XFSTESTS=source tree (git clone https://git.kernel.org/pub/scm/fs/xfs/xfstests-dev.git)"
fi
[ -n "$bin" ] || { find_go || exit 3; bin=$WORK/inlinefs && build_inlinefs "$bin"; }

img=$WORK/image mnt=$WORK/mnt save=$WORK/save
mkdir "$save"
bad=0 runs=0
IFS=, read -r -a sizes <<<"$lengths"

# group MODE INODESIZE runs all lengths and seeds on one mount, then judges its image.
group() {
	local mode=$1 inode=$2 len seed mapped code
	mkfs.ext4 -q -F -b 4096 -I "$inode" -O inline_data,metadata_csum,64bit,^has_journal "$img" 64M >"$WORK/mkfs" 2>&1 || {
		cat "$WORK/mkfs"
		die "mkfs.ext4 -I $inode did not work"
	}
	: >"$WORK/mount.log"
	start_mount "$bin" "$img" "$mnt" "mmap=$mode$options" || {
		cat "$WORK/mount.log"
		die "not mounted with mmap=$mode$options"
	}
	for len in "${sizes[@]}"; do
		for ((seed = first; seed < first + seeds; seed++)); do
			for mapped in yes no; do
				local -a flags=()
				[ "$mapped" = yes ] || flags=(-W -R)
				runs=$((runs + 1))
				code=0
				timeout 300 "$fsx" -q -N "$ops" -S "$seed" -l "$len" "${flags[@]}" -P "$save" "$mnt/f$len-$seed-$mapped" >"$WORK/fsx.log" 2>&1 || code=$?
				if [ "$code" != 0 ]; then
					bad=$((bad + 1))
					tail -n 15 "$WORK/fsx.log"
					printf 'FAILED (%s): mmap=%s, inode size %s, mapped=%s: fsx -N %s -S %s -l %s %s\n' \
						"$code" "$mode" "$inode" "$mapped" "$ops" "$seed" "$len" "${flags[*]}"
				fi
			done
		done
	done
	judge "mmap=$mode, inode size $inode"
}

# judge LABEL unmounts and has the image looked at.
judge() {
	local what=''
	stop_mount "$mnt" || what="the daemon's exit code"
	e2fsck -fn "$img" >"$WORK/fsck" 2>&1 || { cat "$WORK/fsck"; what="e2fsck -fn"; }
	"$bin" check "$img" >"$WORK/check" 2>&1 || { cat "$WORK/check"; what="inlinefs check"; }
	if [ -n "$what" ]; then
		bad=$((bad + 1))
		tail -n 5 "$WORK/mount.log"
		printf 'FAILED: %s: %s\n' "$1" "$what"
	else
		printf '%s: image clean\n' "$1"
	fi
}

for mode in cached observe direct; do
	for inode in 256 512; do
		group "$mode" "$inode"
	done
done
[ "$bad" = 0 ] || die "$bad of $runs runs and judgements failed"
printf 'all %d runs passed\n' "$runs"
