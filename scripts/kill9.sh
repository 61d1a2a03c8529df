#!/usr/bin/env bash
# Kills the daemon (SIGKILL) amid creates, appends, fsyncs, removals and copies on a journalled image, mounts again, and judges: every file that
# was fsynced and not removed is there, `e2fsck -fn` and `inlinefs check` find nothing; and the kernel, given a copy of the image as the
# kill left it, replays the journal to the same tree.
#
#   scripts/kill9.sh [N] [--bin PATH]      N kills, 200 by default
#
# Exit codes: 0 all pass, 1 one does not, 2 usage, 3 something missing on this machine.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

count=200 bin=''
while [ $# -gt 0 ]; do
	case $1 in
	--bin)
		[ $# -ge 2 ] || usage_error "--bin needs a value"
		bin=$(cd "$caller" && realpath "$2") && shift 2
		;;
	-h | --help)
		sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
		exit 0
		;;
	*)
		[[ $1 =~ ^[0-9]+$ ]] || usage_error "unknown argument $1"
		count=$1 && shift
		;;
	esac
done
ensure_packages mkfs.ext4:e2fsprogs e2fsck:e2fsprogs fusermount3:fuse3 || exit 3
is_root || missing "root: the kernel's loop mount judges the image too"
make_work
if [ -z "$bin" ]; then
	bin=$WORK/inlinefs
	build_inlinefs "$bin" ""
fi
mnt=$WORK/mnt img=$WORK/image kept=$WORK/kept
mkdir -p "$mnt"

# load makes files, and notes in $WORK/synced those whose fsync has returned.
load() {
	for dir in 1 2 3 4 5 6 7 8; do
		mkdir "$mnt/d$dir" || return 0
		for i in $(seq 1 200); do
			echo "$i-$dir" >"$mnt/d$dir/f$i" || return 0
			if [ $((i % 7)) = 0 ]; then
				sync "$mnt/d$dir/f$i" || return 0
				echo "d$dir/f$i $i-$dir" >>"$WORK/synced"
			elif [ $((i % 3)) = 0 ]; then
				rm "$mnt/d$dir/f$i" || return 0
			fi
		done
		cp -r fs "$mnt/d$dir/" || return 0
		rm -r "$mnt/d$dir/fs" || return 0
	done
}

listing() { (cd "$1" && find . -path ./lost+found -prune -o -printf '%p %y %s %m %n\n' | sort && find . -type f -print0 | sort -z | xargs -0r sha256sum); }

total=0
for n in $(seq 1 "$count"); do
	rm -f "$img" "$WORK/synced"
	: >"$WORK/synced"
	truncate -s 64M "$img"
	mkfs.ext4 -q -O inline_data "$img"
	"$bin" mount -f -o log=error "$img" "$mnt" 2>"$WORK/log" &
	daemon=$!
	for _ in $(seq 200); do
		mountpoint -q "$mnt" && break
		sleep 0.05
	done
	load 2>/dev/null &
	loader=$!
	sleep "0.$((RANDOM % 90 + 10))"
	kill -9 "$daemon"
	wait "$daemon" 2>/dev/null || true
	umount -l "$mnt" 2>/dev/null || true
	wait "$loader" || true
	cp "$img" "$kept"
	"$bin" mount "$img" "$mnt" 2>"$WORK/log" || die "kill $n: mount: $(cat "$WORK/log")"
	while read -r name content; do
		[ "$(cat "$mnt/$name")" = "$content" ] || die "kill $n: $name was fsynced with \"$content\" and has \"$(cat "$mnt/$name")\""
		total=$((total + 1))
	done <"$WORK/synced"
	listing "$mnt" >"$WORK/ours"
	umount "$mnt"
	"$bin" check -q "$img" || die "kill $n: inlinefs check $(basename "$img")"
	e2fsck -fn "$img" >"$WORK/fsck" 2>&1 || die "kill $n: $(cat "$WORK/fsck")"
	mount -o loop "$kept" "$mnt"
	listing "$mnt" >"$WORK/theirs"
	umount "$mnt"
	diff "$WORK/ours" "$WORK/theirs" >"$WORK/diff" || die "kill $n: the kernel finds another tree: $(head -n 10 "$WORK/diff")"
	[ $((n % 20)) != 0 ] || say "$n kills, $total fsynced files found"
done
say "all $count kills passed, $total fsynced files found"
