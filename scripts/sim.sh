#!/usr/bin/env bash
# Builds the simulator and runs seeds of it, on all processors: sim.sh --seeds N [--first SEED] [--preset PRESET].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

seeds=200 first=1 preset=release
while [ $# -gt 0 ]; do
	case $1 in
	--seeds) seeds=${2:-} && shift $(($# > 1 ? 2 : 1)) ;;
	--first) first=${2:-} && shift $(($# > 1 ? 2 : 1)) ;;
	--preset) preset=${2:-} && shift $(($# > 1 ? 2 : 1)) ;;
	*) die "sim: unknown argument '$1' (sim --seeds N [--first SEED])" ;;
	esac
done
[[ $seeds =~ ^[1-9][0-9]{0,8}$ ]] || die "sim: --seeds takes a number from 1"
[[ $first =~ ^[0-9]{1,15}$ ]] || die "sim: --first takes a number"

scripts/deps.sh build
build_preset "$preset" fallow-sim
program=$BUILD_DIR/bin/fallow-sim

jobs=${FALLOW_JOBS:-$(nproc)}
[ "$jobs" -le 64 ] || jobs=64
exec "$program" --seeds "$seeds" --start "$first" --jobs "$((jobs < seeds ? jobs : seeds))"
