#!/usr/bin/env bash
# Runs every fuzz target of the module in turn, each for a time.
#
#   scripts/fuzz.sh [--seconds N] [--only REGEXP] [--list]
#
#   --seconds N     time of each target (default 30)
#   --only REGEXP   targets whose "package.FuzzName" matches
#   --list          names the targets and ends
# Exit codes: 0 nothing found, 1 a target failed (go test prints the input's file), 2 usage, 3 Go is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

length=30 only=. list=''
while [ $# -gt 0 ]; do
	case $1 in
	--seconds | --only) [ $# -ge 2 ] || usage_error "$1 needs a value" ;;
	esac
	case $1 in
	--seconds)
		length=$(seconds "$2") || usage_error "--seconds $2: want a number"
		shift 2
		;;
	--only) only=$2 && shift 2 ;;
	--list) list=1 && shift ;;
	-h | --help)
		sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
		exit 0
		;;
	*) usage_error "unknown argument $1" ;;
	esac
done
find_go || exit 3

bad=() count=0
while read -r package; do
	# go test -list builds the test; a package that has no fuzz target in its text need not be built.
	grep -qs '^func Fuzz' "$(go list -f '{{.Dir}}' "$package")"/*_test.go || continue
	while read -r target; do
		[[ "$package.$target" =~ $only ]] || continue
		count=$((count + 1))
		printf '== %s.%s\n' "$package" "$target"
		[ -z "$list" ] || continue
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${length}s" "$package" </dev/null || bad+=("$package.$target")
	done < <(go test -list '^Fuzz' "$package" | grep '^Fuzz')
done < <(go list ./...)

[ "$count" -gt 0 ] || die "no fuzz target matches $only"
[ ${#bad[@]} = 0 ] || die "failed: ${bad[*]}"
[ -n "$list" ] || printf 'all %d targets passed, %d s each\n' "$count" "$length"
