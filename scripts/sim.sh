#!/usr/bin/env bash
# Runs seeds of the simulator, spread over the processors: sim.sh --seeds N [--first SEED] [--preset PRESET].
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
[ "$jobs" -le "$seeds" ] || jobs=$seeds
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT

start=$first left=$seeds failed=0
for ((job = 0; job < jobs; job++)); do
	share=$((left / (jobs - job)))
	"$program" --seeds "$share" --first "$start" >"$work/$job" 2>&1 &
	pids+=($!)
	start=$((start + share))
	left=$((left - share))
done
for ((job = 0; job < jobs; job++)); do
	wait "${pids[$job]}" || failed=1
	cat "$work/$job"
done
pids=()
[ $failed = 0 ] || die "sim: a seed failed; repeat it with $program --seeds 1 --first SEED"
echo "sim: seeds $first to $((first + seeds - 1)) passed"
