#!/usr/bin/env bash
# Seeds faults into the inline and journal code, one at a time and in a copy, and asks whether the search or a test finds each. Exits 1 when
# one survives. Usage: scripts/mutants.sh [-short] [-only NAME,...] [-list] [-markdown] [--help]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh
case ${1:-} in
-h | --help)
	sed -n '2,3s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
	exit 0
	;;
esac
find_go || exit 3
make_work
go build -o "$WORK/mutants" ./scripts/mutants
TMPDIR=$WORK "$WORK/mutants" "$@"
