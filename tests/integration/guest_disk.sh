# Guests' disks of the real daemon: added, served through kill -9, refused, removed; a guest without a machine uses one.
. "$(dirname "$0")/disks.sh"

donor_start 1
donor_start 2
backend_config 'disks:' '  - {name: fixed, size: 4MiB, queues: 2}' \
	'pools: {copies: 1}' 'remote: {max_lease: 4GiB, heartbeat: 200ms, suspect: 1s, dead: 3s, reconnect_max: 500ms}'
backend_start
wait_for "both donors are up" donors_up 2
wait_for "the configured disk is served" disk_is fixed '.state == "serving"'

# Refused, and nothing stays.
disk add odd 5000 >"$T/c.out" 2>&1 && fail "a disk of 5000 bytes"
has '4KiB'
disk add fixed 4MiB >"$T/c.out" 2>&1 && fail "a second disk of that name"
has 'already'
disk add x 4MiB --colour blue >"$T/c.out" 2>&1 && fail "a setting that is none"
has 'no setting "colour"'
disk rm fixed >"$T/c.out" 2>&1 && fail "a configured disk was removed"
has 'configuration'

# Pinned: over tcp, or with no RDMA device, its pages pass through buffers all the same.
disk add vm1 24MiB --socket "$T/disk-vm1.sock" --copies 1 --weight 50 --guest_memory pinned >"$T/c.out" 2>&1 || fail "disk add: $(cat "$T/c.out")"
has 'disk vm1: 24.0 MiB, of which 24.0 MiB reserved'
expect "6144 pages are promised" disk_is vm1 '.reserved_pages == 6144'

guest_start vm1 6144
disk rm vm1 >"$T/c.out" 2>&1 && fail "a disk in use was removed"
has '--force'
for round in 1 2 3; do
	wait_for "the guest does something" more_than vm1 5000
	backend_kill KILL
	backend_start
done
wait_for "the guest does something" more_than vm1 5000
# An orderly restart, with the guest at work.
backend_kill TERM
expect "it ended well" [ "$BACKEND_CODE" = 0 ]
backend_start
wait_for "the guest does something" more_than vm1 5000
fallow top --count 2 --interval 0.5 >"$T/c.out" 2>&1 || fail "fallow top: $(cat "$T/c.out")"
has '^vm1 .*pid'
has '^disk:vm1 '
disk ls >"$T/c.out" 2>&1 || fail "disk ls"
has '^vm1 .*serving'
guest_end 4
expect "some pages came from the donors" disk_is vm1 '.pages.hits.remote > 0'
expect "nothing was lost" disk_is vm1 '.pages.lost == 0'
expect "nothing was wrong with the rings" disk_is vm1 '([.guest.violations[], .guest.ring_faults[], .requests.errors] | add) == 0'

printf 'GET /metrics HTTP/1.0\r\n\r\n' | socat -t 10 - "UNIX-CONNECT:$T/f.http,shut-none" >"$T/metrics"
for m in 'fallow_guest_disk_requests_total{disk="vm1",op="write"}' 'fallow_guest_disk_reserved_pages{disk="vm1"} 6144' \
	'fallow_guest_disk_pages_read_total{disk="vm1",tier="remote"}' 'fallow_guest_disk_seconds_bucket{disk="vm1",op="read",tier="local"'; do
	grep -qF "$m" "$T/metrics" || fail "/metrics has no $m"
done

# A disk whose size changed in the configuration: said, and nothing happens to it.
backend_kill TERM
sed -i 's/size: 4MiB, queues/size: 8MiB, queues/' "$T/f.yaml"
backend_start
wait_for "the other disk is served" disk_is vm1 '.state == "serving"'
expect "the changed one is not" disk_is fixed '.state == "failed"'
disk ls >"$T/c.out"
has 'fixed: the configuration says 8MiB, but it was made with 4MiB'
disk rm fixed >"$T/c.out" 2>&1 || fail "disk rm: $(cat "$T/c.out")"
kill -HUP "$BACKEND_PID"
wait_for "it was made anew" disk_is fixed '.state == "serving" and .reserved_pages == 2048'

disk rm vm1 >"$T/c.out" 2>&1 || fail "disk rm: $(cat "$T/c.out")"
expect "its socket is gone" [ ! -e "$T/disk-vm1.sock" ]
expect "its pool is gone" json_is pools '[.pools[] | select(.owner == "disk:vm1")] | length == 0'
expect "its map is gone" [ "$(ls "$T/run" | grep -c lost)" = 1 ]
# There is room for another one now.
disk add vm2 24MiB >"$T/c.out" 2>&1 || fail "disk add: $(cat "$T/c.out")"
backend_kill TERM
backend_start
wait_for "it is served after a restart" disk_is vm2 '.state == "serving"'
# More than there is: refused with figures, and nothing of it stays.
disk add huge 1TiB >"$T/c.out" 2>&1 && fail "a disk of 1 TiB was promised"
has 'disk huge: 1024.00 GiB cannot be promised'
expect "no pool of it" json_is pools '[.pools[] | select(.owner == "disk:huge")] | length == 0'
backend_kill TERM
expect "it ended well" [ "$BACKEND_CODE" = 0 ]
passed
