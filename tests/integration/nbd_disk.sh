# Disks served by NBD: libnbd's tools and QEMU use one, hostile clients do no harm, and clients that come back find their pages
# through kill -9.
. "$(dirname "$0")/lib.sh"

SEED=${SEED:-$RANDOM}
echo "seed $SEED"
disk() { fallow disk "$@"; }
of() { fallow disk ls --json | jq -r ".disks[] | select(.name == \"$1\") | $2"; }
is() { [ "$(of "$1" "$2")" = true ]; }
uri() { echo "nbd+unix:///$1?socket=$T/disk-$1.sock"; }
qemu_io() { qemu-io -f raw "$@" >>"$T/q.out" 2>&1 || fail "qemu-io $*: $(tail -n 5 "$T/q.out")"; }

donor_start 1
donor_start 2
backend_config 'disks:' '  - {name: fixed, size: 32MiB, frontend: nbd, listen: "127.0.0.1:0"}' 'pools: {copies: 1}'
backend_start
wait_for "both donors are up" donors_up 2
wait_for "the configured disk is served" is fixed '.state == "serving"'

# What it says of itself.
nbdinfo --json "$(uri fixed)" >"$T/info" || fail "nbdinfo"
expect "it is what it should be" jq -e '.exports[0] | .["export-size"] == 33554432 and .can_flush and .can_fua and .can_trim
	and .can_zero and .can_multi_conn and (.is_read_only | not) and .block_size_minimum == 512
	and .block_size_preferred == 4096 and .block_size_maximum == 1048576' <"$T/info" >"$T/c.out"
nbdinfo --list "nbd+unix:///?socket=$T/disk-fixed.sock" | grep -q 'export="fixed"' || fail "it is not listed"
nbdinfo "nbd+unix:///other?socket=$T/disk-fixed.sock" >"$T/c.out" 2>&1 && fail "an export of another name"
port=$(of fixed .guest.port)
[ "$(nbdinfo --size "nbd://127.0.0.1:$port/fixed")" = 33554432 ] || fail "nothing by TCP"

# Contents, by libnbd's tools and by QEMU's.
head -c 33554432 /dev/urandom >"$T/a"
nbdcopy --connections=4 "$T/a" "$(uri fixed)" || fail "nbdcopy to it"
nbdcopy --connections=4 "nbd://127.0.0.1:$port/" "$T/b" || fail "nbdcopy from it"
cmp "$T/a" "$T/b" || fail "other bytes than those written"
qemu_io "$(uri fixed)" -c 'write -P 5 1M 64k' -c 'write -z 2M 8M' -c 'discard 16M 1M' -c 'write -f -P 7 1234432 512' -c flush \
	-c 'read -P 5 1M 64k' -c 'read -P 0 2M 8M' -c 'read -P 0 16M 1M' -c 'read -P 7 1234432 512' -c 'write -z -u 24M 3M' -c 'read -P 0 24M 3M'
expect "all was well" is fixed '.requests.errors == 0 and ([.requests.refused[]] | add) == 0'

# By command; hostile clients.
disk add evil 16MiB --nbd --copies 1 >"$T/c.out" 2>&1 || fail "disk add: $(cat "$T/c.out")"
disk add x 16MiB --listen 127.0.0.1:0 >"$T/c.out" 2>&1 && fail "vhost-user on TCP"
grep -q 'set frontend to nbd' "$T/c.out" || fail "it does not say why: $(cat "$T/c.out")"
disk add x 16MiB --nbd --listen localhost:99999 >"$T/c.out" 2>&1 && fail "a port that is none"
grep -q 'no numeric address and port' "$T/c.out" || fail "it does not say why: $(cat "$T/c.out")"
"$BIN/test-nbd-hostile" "$T/disk-evil.sock" 16 "$SEED" >"$T/hostile.out" 2>"$T/hostile.log" || fail "hostile: $(cat "$T/hostile.log")"
for v in magic flags length export late; do
	expect "it was counted: $v" is evil ".guest.violations.$v > 0"
done
expect "connections too many were counted" is evil '.guest.refused_busy > 0'
wait_for "nothing is left of them" is evil '(.guest.connections | length) == 0 and .requests.in_flight == 0'
expect "none failed in the store" is evil '.requests.errors == 0'

# A read-only disk: an image.
cp "$T/a" "$T/image"
disk add ro --image "$T/image" --readonly true --nbd >"$T/c.out" 2>&1 || fail "disk add: $(cat "$T/c.out")"
expect "it is read-only" jq -e '.exports[0].is_read_only' <<<"$(nbdinfo --json "$(uri ro)")" >"$T/c.out"
nbdcopy "$(uri ro)" "$T/b" && cmp "$T/a" "$T/b" || fail "other bytes than the image's"
# One that is written: flushed and in the image.
disk add rw --image "$T/image2" --nbd >"$T/c.out" 2>&1 && fail "an image that is not there"
head -c 8388608 /dev/zero >"$T/image2"
disk add rw --image "$T/image2" --nbd >"$T/c.out" 2>&1 || fail "disk add: $(cat "$T/c.out")"
qemu_io -t writeback "$(uri rw)" -c 'write -P 3 64k 128k' -c 'write -f -P 4 1M 4k' -c flush -c 'write -z 128k 4k'
expect "the image was flushed" is rw '.image_io.flushes > 0'
disk rm rw >"$T/c.out" 2>&1 || fail "disk rm: $(cat "$T/c.out")"
qemu_io "$T/image2" -c 'read -P 3 64k 64k' -c 'read -P 0 128k 4k' -c 'read -P 3 132k 60k' -c 'read -P 4 1M 4k'

# Clients at work on the configured disk, through kill -9 and an orderly restart.
nbdcopy -- [ nbdkit --exit-with-parent memory size=32M ] "$(uri fixed)" || fail "nbdcopy of zeros"
"$BIN/test-nbd-load" "$T/disk-fixed.sock" 32 3 "$SEED" "$T/stop" >"$T/load.out" 2>"$T/load.log" &
load=$!
more_than() { [ "$(of fixed '.requests.reads + .requests.writes')" -gt "$1" ]; }
for round in KILL KILL TERM KILL; do
	wait_for "the clients do something" more_than 3000
	if [ $round = KILL ] ; then disk ls >"$T/c.out" && grep -q '^fixed .*3 conn' "$T/c.out" || fail "disk ls: $(cat "$T/c.out")"; fi
	backend_kill $round
	backend_start
done
wait_for "the clients do something" more_than 3000
disk rm fixed >"$T/c.out" 2>&1 && fail "a configured disk was removed"
touch "$T/stop"
wait "$load" || fail "the clients: $(cat "$T/load.out" "$T/load.log")"
grep -q ' errors=0 wrong=0 reconnects=12$' "$T/load.out" || fail "the clients: $(cat "$T/load.out" "$T/load.log")"
cat "$T/load.out"
expect "nothing was lost" is fixed '.pages.lost == 0 and .requests.errors == 0'
expect "nothing was wrong" is fixed '[.guest.violations[]] | add == 0'

printf 'GET /metrics HTTP/1.0\r\n\r\n' | socat -t 10 - "UNIX-CONNECT:$T/f.http,shut-none" >"$T/metrics"
for m in 'fallow_guest_disk_requests_total{disk="fixed",op="write"}' 'fallow_nbd_requests_total{lane="0"}' \
	'fallow_guest_disk_connected{disk="fixed"}'; do
	grep -qF "$m" "$T/metrics" || fail "/metrics has no $m"
done
# A disk that is removed hangs up; one in use is not.
qemu_io "$(uri evil)" -c 'discard 0 16M'
"$BIN/test-nbd-load" "$T/disk-evil.sock" 16 2 "$SEED" "$T/stop2" >"$T/load.out" 2>"$T/load.log" &
load=$!
wait_for "they are connected" is evil '(.guest.connections | length) == 2'
disk rm evil >"$T/c.out" 2>&1 && fail "a disk in use was removed"
grep -q -- '--force' "$T/c.out" || fail "it does not say how: $(cat "$T/c.out")"
touch "$T/stop2"
wait "$load" || fail "the clients: $(cat "$T/load.out" "$T/load.log")"
wait_for "they have gone" is evil '.guest.connected | not'
disk rm evil >"$T/c.out" 2>&1 || fail "disk rm: $(cat "$T/c.out")"
expect "its socket is gone" [ ! -e "$T/disk-evil.sock" ]
backend_kill TERM
expect "it ended well" [ "$BACKEND_CODE" = 0 ]
passed
