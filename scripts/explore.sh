#!/usr/bin/env bash
# Builds inlinefs with the scheduler (-tags explore) and searches every interleaving of two actors under each strategy. Arguments go to
# `inlinefs explore`. Usage: scripts/explore.sh [--actors 3] [--strategies A,B] [--replay ...] [--help]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh
find_go || exit 3
make_work
go build -tags explore -o "$WORK/inlinefs-explore" ./cmd/inlinefs
"$WORK/inlinefs-explore" explore "$@"
