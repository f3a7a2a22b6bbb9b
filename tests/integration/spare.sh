# One backend's cached disk fills a donor; another backend's persistent pages get room there all the same, and nobody reads anything wrong.
NEEDS="nbdcopy curl"
. "$(dirname "$0")/disks.sh"

donor() { curl -sS --max-time 20 --unix-socket "$T/d1.http" http://d/v1/status | jq -r "$1"; }
donor_is() { [ "$(donor "$1")" = true ]; }
counter() { curl -sS --max-time 20 --unix-socket "$T/d1.http" http://d/metrics | sed -n "s/^$1 //p"; }
reclaims() { counter fallow_memserver_reclaims_total; }
uri() { echo "nbd+unix:///cache?socket=$T/disk-cache.sock"; }
read_image() { nbdcopy --connections=2 "$(uri)" "$T/read" && cmp "$T/image" "$T/read"; }

# The same backend as lib.sh's, under another name: needy is its --http and --socket.
other_start() {
	sed "s#$T/run#$T/run2#; s#$T/state#$T/state2#; s#$T/f\.#$T/g.#; s/name: host/name: needy/; /^disks:/d; /kind: cached/d" \
		"$T/f.yaml" >"$T/g.yaml"
	: >"$T/g.log"
	"${DAEMON[@]}" "$BIN/fallowd" --config "$T/g.yaml" >"$T/g.out" 2>"$T/g.log" &
	DONOR_PID[needy]=$! # ended with the donors
	wait_for "the other fallowd is ready" grep -q 'msg="ready"' "$T/g.log"
}
other() { "$BIN/fallow" --http "$T/g.http" --json "$1" | jq -r "$2"; }
other_is() { [ "$(other "$1" "$2")" = true ]; }
other_pages() { # WANT WHAT...
	local want=$1 what=$2 got
	shift 2
	got=$("$BIN/test-pages" "$what" "$T/g.sock" "$@") || fail "other pages $what $*: exit code $?"
	[ "$got" = "$want" ] || fail "other pages $what $*: got \"$got\", not \"$want\""
}

head -c $((64 << 20)) /dev/urandom >"$T/image"
donor_start 1 'memory: {min: 32MiB, max: 32MiB, floor: 1%}'
backend_config 'disks:' "  - {name: cache, kind: cached, image: $T/image, readonly: true, frontend: nbd}" \
	'store: {size: 8MiB, segment: 256KiB, max_pages: 131072, moves: 2}' 'pools: {copies: 1}'
backend_start
wait_for "the donor is up" donors_up 1
wait_for "the disk is served" disk_is cache '.state == "serving"'

# Its cache takes all that there is; then it has pages of its own, which go first.
cache_fills() { read_image && donor_is '.memory.leased_bytes == 33554432'; }
wait_for "the cache fills the donor" cache_fills
expect_pages "$(all_ok 3072)" put own 0 3072 21
wait_for "the donor knows what is spare" donor_is '.memory.spare_bytes >= 8 * 2097152'
expect "its own view of that" json_is donors '.donors[0].spare_bytes >= 8 * 2097152 and .donors[0].donor_spare_bytes == 0'
expect "caches take nothing from anybody" [ "$(reclaims)" = 0 ]

# The other one has more than fits its local tier.
other_start
wait_for "it sees what it could have" other_is donors '.donors[0].donor_spare_bytes >= 8 * 2097152'
began=$SECONDS
other_pages "$(all_ok 5120)" put p 0 5120 22
wait_for "they are on the donor" other_is status '.segments_underreplicated == 0'
echo "stored within $((SECONDS - began)) s; regions that made way: $(reclaims)"
expect "it leased regions" other_is donors '.donors[0].leased_bytes >= 2 * 2097152'
expect "they made way" [ "$(reclaims)" -ge 2 ]
expect "none had to be taken" [ "$(counter 'fallow_memserver_leases_ended_total{how="forced"}')" = 0 ]

# Nothing is wrong with either; the cache works on with less, and takes nothing back.
other_pages "$(all_ok 5120)" check p 0 5120 22
expect_pages "$(all_ok 3072)" check own 0 3072 21
held=$(other donors '.donors[0].leased_bytes')
for i in 1 2 3; do
	expect "the image is what it was" read_image
done
expect "the other one has kept its regions" [ "$(other donors '.donors[0].leased_bytes')" -ge "$held" ]
other_pages "$(all_ok 5120)" check p 0 5120 22
expect_pages "$(all_ok 3072)" check own 0 3072 21
for who in json other; do
	expect "$who: nothing was lost" [ "$($who donors '[.donors[] | .lost_regions + .bad_data] | add')" = 0 ]
	expect "$who: nothing was corrupt" [ "$($who status '[.lanes[].records_corrupt] | add')" = 0 ]
done
passed
