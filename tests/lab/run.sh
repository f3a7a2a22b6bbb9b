#!/bin/bash
# Every lab test on one cluster of three nodes: run.sh BUILD_DIRECTORY [TEST...]. Exit code 77: no cluster here.
set -u
BUILD=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/../.." || exit 1
BIN=$BUILD/bin NODES=3 TEST=start
LAB_DIR=$(mktemp -d "${TMPDIR:-/tmp}/fallow-lab-test.XXXXXX")
export FALLOW_LAB_DIR=$LAB_DIR FALLOW_LAB_BUILD=$BUILD FALLOW_LAB_OWNER=$$

lab() { scripts/lab.sh "$@"; }

finish() {
	local code=$?
	[ $code = 0 ] || [ $code = 77 ] || show_logs
	lab down
	rm -rf "$LAB_DIR"
	exit $code
}

if ! why=$(lab check 2>&1); then
	rm -rf "$LAB_DIR"
	echo "lab tests are left out, this machine cannot run them: $why"
	exit 77
fi
show_logs() { :; }
trap finish EXIT
trap 'exit 1' INT TERM
lab up $NODES || exit 1
. tests/lab/lib.sh
for file in tests/lab/test_*.sh; do
	TEST=$(basename "$file" .sh)
	TEST=${TEST#test_}
	[ $# = 0 ] || [[ " $* " = *" $TEST "* ]] || continue
	echo "== $TEST"
	begin=$SECONDS
	clean_up
	lab heal
	# shellcheck disable=SC1090
	(. "$file") || exit 1
	echo "   ok, $((SECONDS - begin)) s"
done
