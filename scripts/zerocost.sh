#!/usr/bin/env bash
# Shows that the lock-checking and the exploring build cost the plain build nothing: their symbols are not in its binary, a critical
# section with every call of internal/lock compiles to the same instructions as one without, and the two take the same time.
#
#   scripts/zerocost.sh [--rounds N] [--no-bench]
#
#   --rounds N   rounds of the benchmark, in which the two take turns (default 20)
#   --no-bench   symbols and instructions only
# The ratios of the medians decide nothing: they vary with what else the machine does. The same code at a second place is the control: where
# a function stands in the binary counts for more than nothing.
# Exit codes: 0 as shown, 1 not, 2 usage, 3 something missing on this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

rounds=20 bench=1
while [ $# -gt 0 ]; do
	case $1 in
	--rounds)
		[[ ${2:-} =~ ^[1-9][0-9]*$ ]] || usage_error "--rounds needs a number"
		rounds=$2 && shift 2
		;;
	--no-bench) bench='' && shift ;;
	-h | --help)
		sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
		exit 0
		;;
	*) usage_error "unknown argument $1" ;;
	esac
done

find_go || exit 3
make_work

# count BINARY PATTERN: how many symbols of the binary match.
count() { go tool nm "$1" | grep -Ec "$2" || true; }

printf '%-10s %10s %12s %6s %15s %15s\n' build bytes go-deadlock goid internal/sched internal/lock
for tags in "" deadlock explore; do
	bin=$WORK/inlinefs-${tags:-plain}
	go build -trimpath -tags "$tags" -o "$bin" ./cmd/inlinefs
	deadlock=$(count "$bin" 'sasha-s/go-deadlock')
	goid=$(count "$bin" 'petermattis/goid')
	sched=$(count "$bin" 'inlinefs/internal/sched\.')
	lock=$(count "$bin" ' [Tt] inlinefs/internal/lock\.')
	printf '%-10s %10d %12d %6d %15d %15d\n' "${tags:-plain}" "$(stat -c %s "$bin")" "$deadlock" "$goid" "$sched" "$lock"
	case $tags in
	'') [ $((deadlock + goid + sched + lock)) = 0 ] || die "the plain binary has symbols of the other builds" ;;
	deadlock) [ "$deadlock" -gt 0 ] && [ "$goid" -gt 0 ] && [ "$lock" -gt 0 ] || die "-tags deadlock: no symbols of the checker" ;;
	explore) [ "$lock" -gt 0 ] || die "-tags explore: no symbols of the exploring locks" ;;
	esac
done
printf '(symbols; of internal/lock its functions)\n\n'

go test -count 1 -run 'TestPlainTypes|TestNoSymbols|TestSameCode' -v ./internal/lock >"$WORK/test.log" 2>&1 || {
	cat "$WORK/test.log"
	die "the tests of the plain build do not pass"
}
sed -n 's/^ *zerocost_test.go:[0-9]*: /a critical section: /p' "$WORK/test.log"

[ -n "$bench" ] || exit 0
go test -c -o "$WORK/lock.test" ./internal/lock
sides=(sync control lock)
for ((n = 0; n < 3 * rounds; n++)); do
	# each round begins with another one
	"$WORK/lock.test" -test.run '^$' -test.bench "ZeroCost/^${sides[$(((n + n / 3) % 3))]}$" -test.benchtime 50ms
done >"$WORK/bench.log"

# median NAME: of the ns/op of one side.
median() {
	awk -v name="$1" '$1 ~ "/" name "(-[0-9]+)?$" { print $3 }' "$WORK/bench.log" | sort -g |
		awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}
a=$(median sync) b=$(median lock) c=$(median control)
ratio() { awk -v a="$a" -v b="$1" 'BEGIN { printf "%.3f", b / a }'; }
printf 'median of %d rounds: sync alone %s ns; the same once more %s ns, ratio %s; with the calls of internal/lock %s ns, ratio %s\n' \
	"$rounds" "$a" "$c" "$(ratio "$c")" "$b" "$(ratio "$b")"
