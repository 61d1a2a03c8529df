#!/usr/bin/env bash
# Copies a generated tree of 10,000 files into an image of each shape, compares, renames, changes and deletes half of it, compares again, and
# judges the image: `e2fsck -fn`, `inlinefs check`, and (as root) a read-only loop mount by the kernel compared with the same tree.
#
#   scripts/tree.sh [--files N] [--seed N] [--shapes NAME,NAME] [--bin PATH] [--list]
#
#   --files N      files in the tree (default 10000)
#   --seed N       what the tree is made from (default: from the clock, printed)
#   --shapes LIST  the shapes to try (default: all; --list names them)
#   --bin PATH     an inlinefs that is already built
# Exit codes: 0 all shapes pass, 1 one does not, 2 usage, 3 something missing on this machine.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

# name, then the options of mkfs.ext4. 400 MiB and 14,000 inodes hold the tree in any of them.
shapes=(
	"inline-256 -b 4096 -I 256 -O inline_data,metadata_csum,64bit,^has_journal"
	"inline-512-b1024 -b 1024 -I 512 -O inline_data,metadata_csum,64bit,^has_journal"
	"inline-1024-b2048 -b 2048 -I 1024 -O inline_data,metadata_csum,64bit,^has_journal"
	"plain-128-b1024 -b 1024 -I 128 -O ^inline_data,metadata_csum,64bit,^has_journal"
	"journal -b 4096 -I 256 -O inline_data,metadata_csum,64bit,has_journal"
	"journal-b1024 -b 1024 -I 256 -O inline_data,metadata_csum,64bit,has_journal"
	"csum-seed -b 4096 -I 256 -O inline_data,metadata_csum,metadata_csum_seed,64bit,^has_journal"
	"uninit-bg -b 4096 -I 256 -O inline_data,^metadata_csum,uninit_bg,64bit,^has_journal"
	"no-64bit -b 4096 -I 256 -O inline_data,metadata_csum,^64bit,^has_journal"
	"meta-bg -b 1024 -I 256 -O inline_data,metadata_csum,64bit,meta_bg,^resize_inode,^has_journal"
	"sparse-super2 -b 4096 -I 256 -O inline_data,metadata_csum,64bit,sparse_super2,^resize_inode,^has_journal"
	"no-flex-bg -b 1024 -I 256 -O inline_data,metadata_csum,64bit,^flex_bg,^has_journal"
	"no-extent -b 1024 -I 256 -O inline_data,metadata_csum,^64bit,^extent,^has_journal"
	"ext2-like -b 1024 -I 128 -O none,sparse_super,filetype,resize_inode,ext_attr,dir_index"
)

files=10000 seed=$(date +%s) only='' bin=''
while [ $# -gt 0 ]; do
	case $1 in
	--files | --seed | --shapes | --bin) [ $# -ge 2 ] || usage_error "$1 needs a value" ;;
	esac
	case $1 in
	--files) files=$2 && shift 2 ;;
	--seed) seed=$2 && shift 2 ;;
	--shapes) only=,$2, && shift 2 ;;
	--bin) bin=$(cd "$caller" && realpath "$2") && shift 2 ;;
	--list)
		printf '%s\n' "${shapes[@]%% *}"
		exit 0
		;;
	-h | --help)
		sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
		exit 0
		;;
	*) usage_error "unknown argument $1" ;;
	esac
done

ensure_packages mkfs.ext4:e2fsprogs e2fsck:e2fsprogs diff:diffutils fusermount3:fuse3 || exit 3
fuse=$(fuse_missing)
[ -z "$fuse" ] || missing "$fuse"
find_go || exit 3
make_work
[ -n "$bin" ] || { bin=$WORK/inlinefs && build_inlinefs "$bin"; }
go build -o "$WORK/treegen" ./scripts/treegen

printf 'seed %s, %s files\n' "$seed" "$files"
made=$WORK/made changed=$WORK/changed
mkdir "$made" "$changed"
"$WORK/treegen" -seed "$seed" -files "$files" make "$made"
"$WORK/treegen" -seed "$seed" -files "$files" make "$changed"
"$WORK/treegen" -seed "$seed" change "$changed"

same() { diff -r --no-dereference "$1" "$2" >"$WORK/diff" 2>&1 || { head -n 20 "$WORK/diff"; return 1; }; }

# one NAME MKFS-OPTIONS... runs a shape; says which step went wrong.
one() {
	local name=$1 img=$WORK/image mnt=$WORK/mnt step=''
	shift
	rm -f "$img"
	mkfs.ext4 -q -F -N 14000 "$@" "$img" 400M >"$WORK/mkfs" 2>&1 || { cat "$WORK/mkfs"; printf '%s: mkfs.ext4 refused\n' "$name"; return 1; }
	: >"$WORK/mount.log"
	if ! start_mount "$bin" "$img" "$mnt"; then
		tail -n 5 "$WORK/mount.log"
		printf '%s: not mounted\n' "$name"
		return 1
	fi
	mkdir "$mnt/tree" || step="mkdir"
	[ -n "$step" ] || cp -a "$made/." "$mnt/tree/" || step="copy"
	[ -n "$step" ] || same "$made" "$mnt/tree" || step="compare after the copy"
	[ -n "$step" ] || "$WORK/treegen" -seed "$seed" change "$mnt/tree" || step="change"
	[ -n "$step" ] || same "$changed" "$mnt/tree" || step="compare after the change"
	[ -n "$step" ] || rm -r "$mnt/tree" || step="delete all"
	[ -n "$step" ] || mkdir "$mnt/tree" || step="mkdir again"
	# Once more by the generator itself, which writes a file in two parts where cp writes one.
	[ -n "$step" ] || "$WORK/treegen" -seed "$seed" -files "$files" make "$mnt/tree" || step="generate"
	[ -n "$step" ] || "$WORK/treegen" -seed "$seed" change "$mnt/tree" || step="change again"
	[ -n "$step" ] || same "$changed" "$mnt/tree" || step="compare after the second change"
	stop_mount "$mnt" || step=${step:-"the daemon's exit code"}
	if [ -z "$step" ]; then
		judge "$img" "$mnt" || step=$judged
	fi
	if [ -n "$step" ]; then
		tail -n 5 "$WORK/mount.log"
		printf '%s: FAILED: %s\n' "$name" "$step"
		return 1
	fi
	printf '%s: ok\n' "$name"
}

# judge IMAGE DIR: every judge's word on the unmounted image; what failed is in $judged.
judge() {
	judged='e2fsck -fn'
	e2fsck -fn "$1" >"$WORK/fsck" 2>&1 || { cat "$WORK/fsck"; return 1; }
	judged='inlinefs check'
	"$bin" check "$1" >"$WORK/check" 2>&1 || { cat "$WORK/check"; return 1; }
	judged='mount again'
	start_mount "$bin" "$1" "$2" || return 1
	judged='compare after mounting again'
	same "$changed" "$2/tree" || return 1
	judged='unmount again'
	stop_mount "$2" || return 1
	if is_root && mount -o loop,ro "$1" "$2" 2>"$WORK/kernel"; then
		judged='compare on the kernel'
		same "$changed" "$2/tree" || return 1
		unmount "$2"
	elif is_root; then
		printf 'skipped: the kernel does not loop-mount: %s\n' "$(tail -n 1 "$WORK/kernel")"
	fi
}

is_root || printf 'skipped: comparison on the kernel (needs root)\n'
bad=0
for shape in "${shapes[@]}"; do
	name=${shape%% *}
	[ -z "$only" ] || [[ $only == *",$name,"* ]] || continue
	read -r -a options <<<"${shape#* }"
	one "$name" "${options[@]}" || bad=$((bad + 1))
done
[ "$bad" = 0 ] || die "$bad shapes failed (seed $seed)"
printf 'all shapes passed (seed %s)\n' "$seed"
