#!/usr/bin/env bash
# Builds every preset and runs every test: test.sh [--long].
#
# Tests are found by their ctest labels:
#   unit, model              in the asan tree (address and undefined behaviour sanitizers)
#   integration, fault       in the asan tree, one at a time; with the label "release" in the release tree instead
#   concurrent               besides, in the tsan tree
#   guest                    in the release tree, one at a time: virtual machines in QEMU; longer with --long
#   fuzz                     in the fuzz tree (clang), each for a bounded time
#   lab                      in the release tree, on a cluster of small machines (docs/LAB.md), where one can be started
#   long                     only with --long, in the tree that its other labels say
# and the simulator runs its seeds in the asan tree. Tests labelled bench belong to ./run bench.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

long=0
while [ $# -gt 0 ]; do
	case $1 in
	--long) long=1 ;;
	*) die "test: unknown argument '$1' (test [--long])" ;;
	esac
	shift
done
sim_seeds=200 fuzz_seconds=20 skip="long"
if [ $long = 1 ]; then
	sim_seeds=10000 fuzz_seconds=300 skip="nothing"
fi

jobs=${FALLOW_JOBS:-$(nproc)}
logs=$PWD/build/test-logs
passed=0 failed=0
summary=()
left_out=()
broken_trees=""
begin=$SECONDS

export ASAN_OPTIONS=${ASAN_OPTIONS:-abort_on_error=1:detect_stack_use_after_return=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1:second_deadlock_stack=1}

# One line of the summary. Arguments: stage, seconds, passed, failed.
record() {
	passed=$((passed + $3))
	failed=$((failed + $4))
	summary+=("$(printf '%-24s %5d s  %4d passed  %3d failed' "$1" "$2" "$3" "$4")")
}

headline() {
	printf '\n== %s\n' "$1"
}

# A command that passes or fails as a whole.
stage() {
	local name=$1 start=$SECONDS status=0
	shift
	headline "$name"
	("$@") >"$logs/$name.log" 2>&1 || status=$?
	if [ $status = 0 ]; then
		tail -n "${TAIL:-3}" "$logs/$name.log"
		record "$name" $((SECONDS - start)) 1 0
	else
		tail -n 60 "$logs/$name.log"
		echo "-- $name failed; all of it: $logs/$name.log"
		record "$name" $((SECONDS - start)) 0 1
	fi
	return $status
}

build_stage() {
	stage "build-$1" build_preset "$@" || broken_trees="$broken_trees $1"
}

# Tests that were skipped neither passed nor failed: they are told of by themselves. Arguments: stage, log.
skipped_tests() {
	local count reasons
	count=$(grep -c '\*\*\*Skipped' "$2" || true)
	[ "$count" != 0 ] || return 0
	reasons=$(sed -n 's/^[0-9]*: *\(.*left out.*\)/\1/p' "$2" | sort -u | head -n 5 | paste -sd ';')
	left_out+=("$1: $count tests left out: ${reasons:-see $2}")
}

# Tests by label. Arguments: stage, preset, labels (a regular expression), labels left out, at a time; then options of ctest.
ctest_stage() {
	local name=$1 preset=$2 labels=$3 without=$4 parallel=$5 start=$SECONDS
	local dir=build-$preset log=$logs/$1.log total bad skipped wrapper=()
	headline "$name"
	case " $broken_trees " in
	*" $preset "*)
		echo "-- not run: the $preset tree does not build"
		record "$name" 0 0 1
		return
		;;
	esac
	[ "$preset" != release ] || dir=build
	# ThreadSanitizer of gcc 12 cannot live with the widest address space randomization.
	if [ "$preset" = tsan ] && setarch -R true 2>/dev/null; then
		wrapper=(setarch -R)
	fi
	"${wrapper[@]}" ctest --test-dir "$dir" -L "^($labels)\$" -LE "^($without)\$" -j "$parallel" \
		--no-tests=error --output-on-failure --timeout 900 "${@:6}" 2>&1 | tee "$log" || true
	# "98% tests passed, 1 tests failed out of 50"
	total=$(sed -n 's/.*tests passed, .* failed out of \([0-9]*\)$/\1/p' "$log")
	bad=$(sed -n 's/.*tests passed, \([0-9]*\) tests\{0,1\} failed out of .*/\1/p' "$log")
	skipped=$(grep -c '\*\*\*Skipped' "$log" || true)
	if [ -z "$total" ] || [ -z "$bad" ]; then
		record "$name" $((SECONDS - start)) 0 1
	else
		record "$name" $((SECONDS - start)) $((total - bad - skipped)) "$bad"
	fi
	skipped_tests "$name" "$log"
}

# Tests of the release tree are few: none is no mistake.
has_tests() {
	ctest --test-dir "$1" -N -L "^($2)\$" -LE "^($3)\$" 2>/dev/null | grep -q '^Total Tests: [1-9]'
}

scripts/deps.sh build test fuzz
mkdir -p "$logs"

build_stage release
build_stage asan
ctest_stage unit asan unit "$skip|release" "$jobs"
ctest_stage model asan model "$skip|release" "$jobs"
ctest_stage integration asan "integration|fault" "$skip|release" 1
if has_tests build release "$skip|bench"; then
	ctest_stage integration-release release release "$skip|bench" 1
fi
FALLOW_GUEST_LONG=$long ctest_stage guest release guest "$skip" 1
# The tests' own words show: figures of the machines, and what was left out.
ctest_stage lab release lab "$skip" 1 -V
TAIL=12 stage sim scripts/sim.sh --preset asan --seeds $sim_seeds || true

build_stage tsan
ctest_stage concurrent tsan concurrent "$skip|release" "$jobs"

headline fuzz-configure
cmake --preset fuzz -DFALLOW_FUZZ_SECONDS=$fuzz_seconds >"$logs/fuzz-configure.log" 2>&1 ||
	cat "$logs/fuzz-configure.log"
build_stage fuzz fuzzers
ctest_stage fuzz fuzz fuzz nothing "$jobs"

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"
[ ${#left_out[@]} = 0 ] || printf '%s\n' "${left_out[@]}"
printf 'in %d s; logs in %s\n' $((SECONDS - begin)) "$logs"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
