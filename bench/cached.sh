# A cached disk of a throttled image, in a guest: bench/cached.sh BIN. Reads a data set larger than the guest's memory and the local
# tier once from the bare disk, then through Fallow, then again. Prints JSON lines and writes bench/results/cached.md.
exec 3>&1 1>&2
. "$(dirname "$0")/../tests/guest/lib.sh"
need_fallowd "the bench of cached disks"

RATE_MIB=${FALLOW_BENCH_RATE_MIB:-50}
DATA_MIB=${FALLOW_BENCH_DATA_MIB:-768}
GUEST_MIB=256
LOCAL_MIB=128
IMAGES=$(mktemp -d /var/tmp/fallow-images.XXXXXX)
trap 'code=$?; rm -rf "$IMAGES"; (exit $code); guest_finish' EXIT
command -v nbdkit >/dev/null || fail "there is no nbdkit"

# The disk: nbdkit over a file, held to a rate for all connections together.
disk_start() { # NAME FILE
	nbdkit -f -U "$T/$1.nbd" --filter=rate file "$2" rate=$((RATE_MIB * 8))M burstiness=0.2 >"$T/$1.server.log" 2>&1 &
	DONOR_PID[$1]=$!
	wait_for "nbdkit listens" [ -S "$T/$1.nbd" ]
}
disk_get() { fallow --json disk ls | jq -r ".disks[] | select(.name == \"$1\") | $2"; }

# read_speed DEVICE FIO_OPTION...: bytes per second of reading all of it, past the guest's page cache
read_speed() {
	local device=$1
	shift
	in_guest "chroot /host fio --name=read --filename=$device --direct=1 --ioengine=libaio --output-format=json $* 2>/dev/null" |
		jq '.jobs[0] | if .error == 0 then .read.bw_bytes else error("fio failed") end'
}
SEQUENTIAL="--rw=read --bs=256k --iodepth=8 --size=${DATA_MIB}m"
RANDOM_READS="--rw=randread --bs=16k --iodepth=16 --size=${DATA_MIB}m --randseed=7"

say "making $DATA_MIB MiB that do not compress, read at $RATE_MIB MiB/s"
head -c "${DATA_MIB}M" /dev/urandom >"$IMAGES/data.img"
disk_start bare "$IMAGES/data.img"
guest up --host --mib $GUEST_MIB --cpus 2 --disk "file:nbd+unix:///?socket=$T/bare.nbd" || fail "no guest"
bare=$(read_speed /dev/vda "$SEQUENTIAL") || fail "fio"
bare_random=$(read_speed /dev/vda "$RANDOM_READS") || fail "fio"
guest down
donor_kill bare TERM
say "bare disk: $((bare >> 20)) MiB/s, at random $((bare_random >> 20))"

for n in 1 2; do
	donor_start "$n" "memory: {min: $((DATA_MIB * 2))MiB, max: $((DATA_MIB * 2))MiB, floor: 1%}" 'region: {size: 16MiB}'
done
disk_start image "$IMAGES/data.img"
backend_config 'disks:' \
	"  - {name: data, kind: cached, image: 'nbd+unix:///?socket=$T/image.nbd', readonly: true, socket: $(backend_socket data), queues: 2}" \
	"store: {size: ${LOCAL_MIB}MiB, max_pages: $((DATA_MIB * 1024))}" \
	"remote: {max_lease: $((DATA_MIB * 4))MiB, heartbeat: 200ms, suspect: 1s, dead: 3s, reconnect_max: 500ms}"
backend_start
wait_for "the donors are up" donors_up 2
guest_start_with --host --mib $GUEST_MIB --cpus 2 data:2
cold=$(read_speed /dev/vda "$SEQUENTIAL") || fail "fio"
pages() { disk_get data "[.pages.hits.local, .pages.hits.remote, .pages.hits.disk] | @tsv"; }
read -r local0 remote0 disk0 < <(pages)
again=$(read_speed /dev/vda "$SEQUENTIAL") || fail "fio"
again_random=$(read_speed /dev/vda "$RANDOM_READS") || fail "fio"
read -r local1 remote1 disk1 < <(pages)
no_errors_seen
guest down
read -r p50 p99 < <(disk_get data '[.latency.read_remote.p50_ns, .latency.read_remote.p99_ns] | @tsv')

mib() { awk "BEGIN { printf \"%.1f\", $1 / 1048576 }"; }
ratio() { awk "BEGIN { printf \"%.2f\", $1 / $2 }"; }
share=$(awk "BEGIN { printf \"%.1f\", 100 * ($disk1 - $disk0) / ($local1 + $remote1 + $disk1 - $local0 - $remote0 - $disk0) }")
accel=$(cat "$ROOT"/build/*/accel 2>/dev/null | head -n 1)
jq -nc --argjson rate "$RATE_MIB" --argjson data "$DATA_MIB" --argjson guest $GUEST_MIB --argjson local $LOCAL_MIB \
	--argjson bare "$(mib "$bare")" --argjson bare_random "$(mib "$bare_random")" --argjson cold "$(mib "$cold")" \
	--argjson again "$(mib "$again")" --argjson again_random "$(mib "$again_random")" --argjson share "$share" \
	--argjson ratio "$(ratio "$again" "$bare")" --argjson ratio_random "$(ratio "$again_random" "$bare_random")" \
	--argjson p50 "$p50" --argjson p99 "$p99" --arg accel "${accel:-unknown}" \
	'{bench: "cached", disk: "nbdkit --filter=rate", disk_mib_s: $rate, data_mib: $data, guest_mib: $guest, local_tier_mib: $local,
	guest_runs_with: $accel, bare_mib_s: $bare, bare_random_mib_s: $bare_random, first_read_mib_s: $cold, reread_mib_s: $again,
	reread_random_mib_s: $again_random, reread_to_bare: $ratio, reread_random_to_bare: $ratio_random,
	reread_pages_from_disk_percent: $share, read_remote_p50_us: ($p50 / 1000), read_remote_p99_us: ($p99 / 1000), target: 3}' >&3
cat >"$ROOT/bench/results/cached.md" <<MD
# Cached disk: a re-read against a throttled disk

$(date -u +%F); \`run bench cached\`; guest with ${accel:-unknown}, fio past the guest's page cache. The disk: nbdkit over a file, held to
$RATE_MIB MiB/s by its rate filter. The data set is $DATA_MIB MiB that do not compress; the guest has $GUEST_MIB MiB, the local tier $LOCAL_MIB MiB,
two donors over TCP on the same machine hold the rest.

| | MiB/s | to the bare disk |
|---|---|---|
| bare disk, sequential, 256 KiB, depth 8 | $(mib "$bare") | 1 |
| first read through Fallow | $(mib "$cold") | $(ratio "$cold" "$bare") |
| re-read (target 3) | $(mib "$again") | $(ratio "$again" "$bare") |
| bare disk, random, 16 KiB, depth 16 | $(mib "$bare_random") | 1 |
| re-read at random | $(mib "$again_random") | $(ratio "$again_random" "$bare_random") |

Of the pages of both re-reads $share % came from the disk. A request that needed a donor took $(awk "BEGIN { print $p50 / 1000 }") us (p50), $(awk "BEGIN { print $p99 / 1000 }") us (p99).
MD
[ "$(awk "BEGIN { print ($again >= 3 * $bare) }")" = 1 ] || fail "the re-read is $(ratio "$again" "$bare") times the disk's speed, not 3"
passed
