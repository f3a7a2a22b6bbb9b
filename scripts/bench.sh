#!/usr/bin/env bash
# Runs the benches and keeps what they print, with the date and the machine, under bench/results/.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
	cat <<'EOF'
Usage: ./run bench [NAME...]
       ./run bench rdma [OPTION...]

  engine     puts and gets in-process against copies and LZ4; two threads against one
  memory     DRAM of the backend per stored page, at 16 million pages
  clean      live share of the remote bytes under random overwrites and flushes
  transport  gets and spills over tcp against a bare connection
  socket     libfallow against the engine called in-process
  donor      memory of a memory server beside what it leases
  idle       CPU time of idle daemons
  cached     a guest's re-read of a cached disk against the throttled disk itself
  rdma       Fallow over verbs beside raw verbs, NVMe-oF, NBD, a virtio disk and zram, on lab
             machines; about half an hour without KVM (rdma --help)

Without a name all but rdma and cached run. Each prints JSON lines; bench/results/NAME.json keeps the last run's, after a
line with the date and the machine. Exit status 1 when a target was missed. Quiet machines only: two
loads on the same cores make every ratio worthless.
EOF
}

if [ "${1:-}" = rdma ]; then
	shift
	case " $* " in
	*" -h "* | *" --help "*) exec bash bench/rdma/run.sh . --help ;;
	esac
	scripts/deps.sh build test lab peers
	build_preset release >/dev/null || die "bench: the build failed"
	exec bash bench/rdma/run.sh build "$@"
fi

names=()
for arg in "$@"; do
	case $arg in
	engine | memory | clean | transport | socket | donor | idle | cached) names+=("$arg") ;;
	-h | --help)
		usage
		exit 0
		;;
	*)
		usage >&2
		exit 2
		;;
	esac
done
[ ${#names[@]} -gt 0 ] || names=(engine memory clean transport socket donor idle)

scripts/deps.sh build test
build_preset release >/dev/null || die "bench: the build failed"
bin=$PWD/build/bin

machine() {
	printf '{"date":"%s","cpu":"%s","cores":%s,"memory_mib":%s,"kernel":"%s"}\n' "$(date -u +%F)" \
		"$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)" "$(nproc)" \
		"$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1024))" "$(uname -r)"
}

run_one() {
	case $1 in
	engine) "$bin/bench_engine" speed ;;
	memory) "$bin/bench_engine" memory ;;
	clean) "$bin/bench_engine" clean ;;
	transport) "$bin/bench_transport" --json ;;
	socket) "$bin/bench_socket" --json ;;
	donor | idle | cached) bash "bench/$1.sh" "$bin" ;;
	esac
}

missed=0
for name in "${names[@]}"; do
	echo "== $name"
	status=0
	{
		machine
		run_one "$name"
	} | tee "bench/results/$name.json.new" || status=$?
	mv "bench/results/$name.json.new" "bench/results/$name.json"
	if [ $status != 0 ]; then
		echo "-- $name: a target was missed" >&2
		missed=1
	fi
done
exit $missed
