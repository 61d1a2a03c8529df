#!/usr/bin/env bash
# Crashes recorded workloads at every write and flush, with writes lost and torn, and judges what a mount makes of the image: package check,
# a model of what had been synced, and on a sample e2fsck. Stops at the first broken promise with the command that shows it again.
#
#   scripts/crash.sh [--points N (1000000)] [--for 30m] [--seed S] [--workers N] [--kernel N] [--variant NAME]
#
# A million points take about an hour and a half of one core. The last line names the seeds that were used: --seed with the next one goes on.
#
#   scripts/crash.sh --log FILE [--variant NAME] [--seed S]    only writes one run's dm-log-writes log and base image, for replay-log
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
-h | --help)
	sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
	exit 0
	;;
esac
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/crashrun" ./scripts/crashrun
"$bin/crashrun" "$@"
