# Cached disks of the real daemon: a guest without a machine on an image, through kills of the daemon and of donors.
. "$(dirname "$0")/disks.sh"
SEED=${SEED:-11}

mkdir "$T/images"
image() { # NAME MIB: of random bytes
	head -c "$(($2 << 20))" /dev/urandom >"$T/images/$1"
}

donor_start 1
donor_start 2
image vm.img 24
backend_config 'disks:' "  - {name: vm, kind: cached, image: $T/images/vm.img, queues: 4}" \
	'store: {size: 8MiB, segment: 256KiB, max_pages: 131072}'
backend_start
wait_for "both donors are up" donors_up 2
wait_for "the configured disk is served" disk_is vm '.state == "serving"'

# Refused, and nothing stays.
disk add odd --kind cached >"$T/c.out" 2>&1 && fail "a cached disk without an image"
disk add odd 4MiB --image "$T/images/vm.img" >"$T/c.out" 2>&1 && fail "a cached disk with a size"
disk add odd --image "$T/images/none" >"$T/c.out" 2>&1 && fail "a cached disk of no image"
has 'No such file'
disk add odd --image "$T/images/vm.img" >"$T/c.out" 2>&1 && fail "a second writer of an image"
has 'is in use by'
disk add odd --image "$T/images/vm.img" --readonly true >"$T/c.out" 2>&1 && fail "a reader beside the writer"
has 'is in use by'
head -c 1000 /dev/zero >"$T/images/short"
disk add odd --image "$T/images/short" >"$T/c.out" 2>&1 && fail "an image of 1000 bytes"
has 'multiple of 512'

guest_start vm 6144 "$T/images/vm.img"
for round in 1 2 3 4; do
	wait_for "the guest does something" more_than vm 3000
	backend_kill KILL
	backend_start
	[ $round = 2 ] && donor_kill 1
	[ $round = 3 ] && donor_start 1
done
wait_for "the guest does something" more_than vm 3000
expect "the cache survived the kills" disk_is vm '.pages.stale_drops == 0'
expect "pages came from the cache" disk_is vm '.pages.hits.local > 0'
donor_kill 2
wait_for "the guest does something" more_than vm 6000
backend_kill TERM
expect "it ended well" [ "$BACKEND_CODE" = 0 ]
backend_start
wait_for "the guest does something" more_than vm 3000
expect "the cache survived the restart" disk_is vm '.pages.stale_drops == 0'
expect "pages came from the cache" disk_is vm '.pages.hits.local > 0'
guest_end 5
backend_kill TERM
expect "it ended well" [ "$BACKEND_CODE" = 0 ]
expect "the image holds what the guest wrote" cmp "$T/images/vm.img" "$T/images/vm.img.want"
passed
