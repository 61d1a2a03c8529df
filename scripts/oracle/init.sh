#!/bin/busybox sh
# shellcheck shell=dash
# The first process of the guest that scripts/kernel-oracle.sh boots: mounts the image with the guest's own ext4, runs the main race or the
# sibling race that the kernel's command line names (oracle_sibling=NAME), and leaves on the console what the host reads. Lines that begin with "oracle: " are for scripts/oracle. It never runs anywhere else.
[ $$ = 1 ] || exit 2
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp

# tell writes to the kernel's log: there a line has the kernel's time, as the BUG has.
tell() { echo "<5>oracle: $*" >/dev/kmsg; }
# end does not sync: with a dead task inside ext4 that may take forever.
end() {
	tell "end: $*"
	poweroff -n -f
	sleep 60
}

# waiting tells which threads sleep in the kernel without end, and in which functions.
waiting() {
	for d in /proc/[0-9]*/task/[0-9]*; do
		state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "$d/status" 2>/dev/null)
		[ "$state" = D ] || continue
		tell "hangs: $(cat "$d/comm") pid ${d##*/} in $(sed 's/+.*//; s/.* //' "$d/stack" | head -n 6 | tr '\n' ' ')"
	done
}

# shellcheck source=/dev/null
. /oracle.conf # DURATION SIBLING SEED WRITES
dmesg -n 8
tell "kernel $(uname -r)"

# The modules come in an order that suits most kernels. Try again until a pass loads nothing more.
loaded=1
while [ "$loaded" -gt 0 ]; do
	loaded=0
	for m in /modules/*.ko; do
		[ -e "$m" ] || continue
		insmod "$m" 2>/dev/null && rm "$m" && loaded=$((loaded + 1))
	done
done
grep -qw ext4 /proc/filesystems || end "no ext4 in this kernel"
i=0
while [ ! -b /dev/vda ]; do
	i=$((i + 1))
	[ "$i" -le 20 ] || end "no virtio disk in this kernel"
	sleep 1
done
mount -t ext4 /dev/vda /mnt || end "the image does not mount"

set -- --writes "$WRITES"
sibling=$(sed -n 's/.*oracle_sibling=\([^ ]*\).*/\1/p' /proc/cmdline)
if [ -n "$sibling" ]; then
	set --
	[ "$sibling" = healthy ] || set -- --scenario "mountpoint,$sibling"
	DURATION=$SIBLING
fi
tell "race begins"
/inlinefs stress --mountpoint /mnt --i-know-it-crashes --seed "$SEED" --duration "${DURATION}s" "$@" >/tmp/stress.log 2>&1 &
pid=$!
i=0
fell=0
while [ "$i" -lt "$((DURATION + 60))" ]; do
	i=$((i + 1))
	if dmesg | grep -Eq '(kernel BUG at|BUG:|Oops:) '; then
		fell=1
		break
	fi
	kill -0 "$pid" 2>/dev/null || break
	sleep 1
done
code="still running"
if [ "$fell" = 1 ]; then
	# The other tasks race on, and write-back comes by. Then one more writer of the same file shows what the dead task still holds.
	sleep 8
	for f in /mnt/stress*/r*; do
		(echo more >>"$f") &
	done
	sleep 1
	waiting
fi
if ! kill -0 "$pid" 2>/dev/null; then
	wait "$pid"
	code=$?
fi
while read -r line; do tell "stress: $line"; done </tmp/stress.log
end "stress: $code, fell: $fell"
