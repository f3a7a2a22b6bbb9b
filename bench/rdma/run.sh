#!/bin/bash
# Fallow over verbs beside raw verbs and beside the peers a user would pick instead: run.sh BUILD_DIRECTORY [OPTION...].
set -u
usage() {
	cat <<'TEXT'
Usage: ./run bench rdma [OPTION...]

  --quick              one short round of everything: for trying the bench, not for figures
  --rounds N           rounds, of which the median counts (3)
  --step NAME          only this step; may be given again. Steps: compare cpu swap poweroff
  --device NAME=PATH   a block device that node 1 has, measured like the others or in the place of one
  --results DIRECTORY  where rdma.json, rdma.md and rdma.svg go (bench/results)

compare   raw verbs, gets, puts and spills of Fallow, and the peers as block devices
cpu       the memory server's own processor time in a minute of load
swap      each device as swap for twice the memory allowed: a random walk, and Redis
poweroff  a donor loses its power at R=2: longest get, time until all copies are there again

One cluster of the lab serves one run; what other steps measured earlier stays in rdma.json with its own date.
TEXT
}

BUILD=$(cd "$1" && pwd) || exit 2
shift
cd "$(dirname "$0")/../.." || exit 1
BIN=$BUILD/bin QUICK=0 ROUNDS=3 RESULTS=$PWD/bench/results TEST=rdma
steps=()
declare -A DEVICE=() # name: path on node 1
while [ $# -gt 0 ]; do
	case $1 in
	--quick) QUICK=1 ROUNDS=1 ;;
	--rounds | --step | --device | --results)
		[ $# -gt 1 ] || { usage >&2; exit 2; }
		case $1 in
		--rounds) ROUNDS=$2 ;;
		--step) steps+=("$2") ;;
		--device) DEVICE[${2%%=*}]=${2#*=} ;;
		--results) RESULTS=$2 ;;
		esac
		shift
		;;
	-h | --help)
		usage
		exit 0
		;;
	*)
		usage >&2
		exit 2
		;;
	esac
	shift
done
[ ${#steps[@]} -gt 0 ] || steps=(compare cpu swap poweroff)
for step in "${steps[@]}"; do
	[ -f "bench/rdma/step_$step.sh" ] || { echo "bench: there is no step '$step'" >&2; exit 2; }
done

# A donor is lost in one step only, and two more must have room for everything then.
if [[ " ${steps[*]} " = *" poweroff "* ]]; then
	NODES=4
	export FALLOW_LAB_MIB=${FALLOW_LAB_MIB:-$([ $QUICK = 1 ] && echo 1024 || echo 1856)}
else
	NODES=3
	export FALLOW_LAB_MIB=${FALLOW_LAB_MIB:-1280}
fi
LAB_DIR=$(mktemp -d "${TMPDIR:-/tmp}/fallow-lab-bench.XXXXXX")
DISK=$(mktemp /dev/shm/fallow-bench-disk.XXXXXX)
SLOW=$(mktemp /dev/shm/fallow-bench-disk.XXXXXX)
SAMPLES=$(mktemp)
export FALLOW_LAB_DIR=$LAB_DIR FALLOW_LAB_BUILD=$BUILD FALLOW_LAB_OWNER=$$
export FALLOW_LAB_QEMU_ARGS_1="-drive file=$DISK,format=raw,if=none,id=peer -device virtio-blk-pci,drive=peer,serial=fallow-peer"
FALLOW_LAB_QEMU_ARGS_1+=" -drive file=$SLOW,format=raw,if=none,id=slow,throttling.iops-total=120,throttling.bps-total=125829120"
FALLOW_LAB_QEMU_ARGS_1+=" -device virtio-blk-pci,drive=slow,serial=fallow-slow"

lab() { scripts/lab.sh "$@"; }
show_logs() { :; }
devices_down() { :; }

finish() {
	local code=$?
	trap - EXIT
	[ $code = 0 ] || show_logs >&2
	devices_down
	lab down
	rm -rf "$LAB_DIR" "$DISK" "$SLOW" "$SAMPLES"
	exit $code
}
trap finish EXIT
trap 'exit 1' INT TERM

truncate -s 256M "$DISK" "$SLOW"
lab up $NODES || exit 1
. tests/lab/lib.sh
. bench/rdma/lib.sh
clean_up
for step in "${steps[@]}"; do
	STEP=$step ROUND=0
	echo "== $step"
	begin=$SECONDS
	# shellcheck disable=SC1090
	. "bench/rdma/step_$step.sh"
	sample step "{\"seconds\":$((SECONDS - begin)),\"quick\":$QUICK,\"rounds\":$ROUNDS}"
	echo "   $((SECONDS - begin)) s"
done
machine "$SAMPLES"
show_logs() { :; } # a target that was missed is no failure of the bench
python3 bench/rdma/report.py "$SAMPLES" "$RESULTS"
