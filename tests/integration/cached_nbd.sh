# Cached disks of images behind NBD servers: one that dies and comes back, one that is gone for too long, and QEMU's with a qcow2.
NEEDS="nbdkit qemu-nbd qemu-img"
. "$(dirname "$0")/disks.sh"

# The servers are among the processes that are ended with the test.
server_start() { # N COMMAND...
	local n=$1
	shift
	rm -f "$T/$n.nbd"
	"$@" >"$T/$n.server.log" 2>&1 &
	DONOR_PID[$n]=$!
	wait_for "the NBD server $n listens" [ -S "$T/$n.nbd" ]
}
nbdkit_start() { server_start kit nbdkit -f -U "$T/kit.nbd" file "$T/kit.img"; }

head -c $((8 << 20)) /dev/urandom >"$T/kit.img"
nbdkit_start
backend_config 'disks: []'
backend_start
disk add kit --image "nbd+unix:///?socket=$T/none.nbd" >"$T/c.out" 2>&1 && fail "a server that is not there"
has 'cannot connect'
disk add kit --image "nbd+unix:///?socket=$T/kit.nbd" >"$T/c.out" 2>&1 || fail "disk add: $(cat "$T/c.out")"
guest_start kit 2048 "$T/kit.img"
wait_for "the guest does something" more_than kit 2000
# The server dies with requests under way: they are sent again when it is back.
for round in 1 2 3; do
	before=$(disk_get kit '.requests.reads + .requests.writes')
	donor_kill kit
	nbdkit_start
	wait_for "the guest goes on" more_than kit $((before + 2000))
done
# A server that hangs is its own disk's trouble.
head -c $((8 << 20)) /dev/urandom >"$T/file.img"
disk add file --image "$T/file.img" >"$T/c.out" 2>&1 || fail "disk add: $(cat "$T/c.out")"
kill -STOP "${DONOR_PID[kit]}"
sleep 1 # so that the guest of the one that hangs has filled its rings
touch "$T/go"
timeout 120 "$BIN/test-guest-disk" "$T/disk-file.sock" 2048 1 "$T/go" "$T/file.img" >"$T/file.out" 2>&1 &&
	grep -q ' errors=0 wrong=0 reconnects=0$' "$T/file.out" || fail "the other disk: $(cat "$T/file.out")"
before=$(disk_get kit '.requests.reads + .requests.writes')
kill -CONT "${DONOR_PID[kit]}"
wait_for "the guest goes on" more_than kit $((before + 2000))
disk rm file >"$T/c.out" 2>&1 || fail "disk rm: $(cat "$T/c.out")"
backend_kill KILL
backend_start
wait_for "the guest goes on" more_than kit 2000
expect "nobody can tell whether the image was changed" disk_is kit '.pages.stale_drops == 1'
guest_end 1
expect "pages came from the cache" disk_is kit '.pages.hits.local > 0'
disk rm kit >"$T/c.out" 2>&1 || fail "disk rm: $(cat "$T/c.out")"
donor_kill kit TERM
expect "the image holds what the guest wrote" cmp "$T/kit.img" "$T/kit.img.want"

# QEMU's server, another format, and a cache that is believed.
head -c $((8 << 20)) /dev/urandom >"$T/q.img"
qemu-img convert -O qcow2 "$T/q.img" "$T/q.qcow2" || fail "qemu-img"
server_start q qemu-nbd -t -e 8 -k "$T/q.nbd" -f qcow2 "$T/q.qcow2"
disk add q --image "nbd+unix:///?socket=$T/q.nbd" --keep always >"$T/c.out" 2>&1 || fail "disk add: $(cat "$T/c.out")"
guest_start q 2048 "$T/q.img" nodiscard
wait_for "the guest does something" more_than q 3000
backend_kill TERM
expect "it ended well" [ "$BACKEND_CODE" = 0 ]
backend_start
wait_for "the guest goes on" more_than q 2000
expect "the cache was kept" disk_is q '.pages.stale_drops == 0'
expect "pages came from the cache" disk_is q '.pages.hits.local > 0'
guest_end 1
backend_kill TERM
expect "it ended well" [ "$BACKEND_CODE" = 0 ]
kill -TERM "${DONOR_PID[q]}"
wait "${DONOR_PID[q]}" 2>/dev/null
unset "DONOR_PID[q]"
qemu-img convert -O raw "$T/q.qcow2" "$T/q.out" || fail "qemu-img"
expect "the image holds what the guest wrote" cmp "$T/q.out" "$T/q.img.want"

# A server that is gone for longer than requests wait: errors, as many as there are, and none once it is back.
rm -rf "$T/run" "$T/state"
backend_config 'disks: []' 'images: {down_timeout: 300ms}'
backend_start
nbdkit_start
disk add gone --image "nbd+unix:///?socket=$T/kit.nbd" --readonly true >"$T/c.out" 2>&1 || fail "disk add: $(cat "$T/c.out")"
donor_kill kit
touch "$T/stop"
timeout 120 "$BIN/test-guest-disk" "$T/disk-gone.sock" 2048 1 "$T/stop" "$T/kit.img" >"$T/guest.out" 2>"$T/guest.log" ||
	fail "it waits for a server that is gone: $(cat "$T/guest.out" "$T/guest.log")"
requests=$(sed -n 's/^requests=\([0-9]*\) .*/\1/p' "$T/guest.out")
expect "every read fails: $(tail -n 1 "$T/guest.out")" grep -q "^requests=$requests errors=$requests wrong=0 reconnects=0$" "$T/guest.out"
expect "they are counted" disk_is gone '.image_io.errors > 0'
expect "the log says why" grep -q 'no connection for 0.3 s, requests fail' "$T/f.log.new"
nbdkit_start
reads_again() { (disk_read gone "$T/kit.img"); }
wait_for "the disk reads again" reads_again
backend_kill TERM
expect "it ended well" [ "$BACKEND_CODE" = 0 ]
passed
