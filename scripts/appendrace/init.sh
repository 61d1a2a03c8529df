#!/bin/busybox sh
# shellcheck shell=dash
# The first process of the guest that scripts/appendrace.sh boots: mounts the image that came with it by inlinefs, in the mode cached, races, and
# leaves the outcome on the console, in lines that begin with "race: ". It never runs anywhere else.
[ $$ = 1 ] || exit 2
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for m in /modules/*.ko; do
	[ ! -e "$m" ] || insmod "$m"
done
# shellcheck source=/dev/null
. /race.conf # ROUNDS APPENDS
echo "race: kernel $(uname -r)"
/inlinefs mount -o mmap=cached /image /mnt
for start in 42 5000; do
	dir=/mnt/$start
	mkdir "$dir"
	/appendrace -dir "$dir" -rounds "$ROUNDS" -start "$start" -prepare &&
		out=$(/appendrace -dir "$dir" -rounds "$ROUNDS" -appends "$APPENDS" -start "$start") && echo "race: cached $start $out"
done
/inlinefs umount /mnt && echo "race: end"
poweroff -n -f
