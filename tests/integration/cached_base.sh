# Writable clones of one base: what none of them wrote is read once, by whichever is first; what one writes is its own.
NEEDS="qemu-nbd qemu-img"
. "$(dirname "$0")/disks.sh"

server_start() { # N
	rm -f "$T/$1.nbd"
	qemu-nbd -t -e 8 --allocation-depth -k "$T/$1.nbd" -f qcow2 "$T/$1.qcow2" >"$T/$1.server.log" 2>&1 &
	DONOR_PID[$1]=$!
	wait_for "the NBD server $1 listens" [ -S "$T/$1.nbd" ]
}
server_stop() {
	kill -TERM "${DONOR_PID[$1]}"
	wait "${DONOR_PID[$1]}" 2>/dev/null
	unset "DONOR_PID[$1]"
}

read_all() { disk_read "$1" "$T/$1.img" nodiscard; }

head -c $((8 << 20)) /dev/urandom >"$T/base.img"
head -c $((8 << 20)) /dev/urandom >"$T/other.img"
for clone in a b; do
	qemu-img create -q -f qcow2 -b "$T/base.img" -F raw "$T/$clone.qcow2" || fail "qemu-img"
	cp "$T/base.img" "$T/$clone.img"
	server_start $clone
done
backend_config 'disks: []' 'store: {size: 32MiB, segment: 256KiB, max_pages: 131072}' 'images: {linger: 0s}'
backend_start
disk add a --image "nbd+unix:///?socket=$T/a.nbd" --base "$T/other.img" >"$T/c.out" 2>&1 && fail "a base that is another file"
has 'not the base'
disk add a --image "$T/base.img" --base "$T/other.img" >"$T/c.out" 2>&1 && fail "a base of a file"
for clone in a b; do
	disk add $clone --image "nbd+unix:///?socket=$T/$clone.nbd" --base "$T/base.img" >"$T/c.out" 2>&1 || fail "disk add: $(cat "$T/c.out")"
done

read_all a
expect "a read all of it from the base" disk_is a '.base_cache.pages.hits.disk == 2048 and .image_io.reads == 0'
read_all b
expect "b read nothing from any disk" disk_is b '.base_cache.pages.hits.local == 2048 and .base_cache.image_io.reads == 0 and .image_io.reads == 0'

# Written: a's own from now on, through kills of fallowd and a restart; b sees nothing of it.
guest_start a 1024 "$T/a.img" nodiscard # half of the disk
for round in 1 2; do
	wait_for "the guest does something" more_than a 500
	backend_kill KILL
	backend_start
	wait_for "disk a is served" disk_is a '.state == "serving"'
done
wait_for "the guest does something" more_than a 500
guest_end 2
read_all b
expect "b read nothing from its image" disk_is b '.image_io.reads == 0'
dd if="$T/a.img.want" of="$T/a.img" conv=notrunc status=none
read_all a
expect "the other half is the base's yet" disk_is a '[.base_cache.pages.hits[]] | add >= 1024'

backend_kill TERM
expect "it ended well" [ "$BACKEND_CODE" = 0 ]
server_stop a
qemu-img convert -O raw "$T/a.qcow2" "$T/a.out" || fail "qemu-img"
expect "the image holds what the guest wrote" cmp "$T/a.out" "$T/a.img"
server_start a
backend_start
wait_for "disk a is served" disk_is a '.state == "serving"'
read_all a
for clone in a b; do
	disk rm $clone >"$T/c.out" 2>&1 || fail "disk rm: $(cat "$T/c.out")"
done
image_pools() { [ "$(json pools '[.pools[] | select(.owner | startswith("image:"))] | length')" = "$1" ]; }
wait_for "the base's cache goes when its time is over" image_pools 0
backend_kill TERM
expect "it ended well" [ "$BACKEND_CODE" = 0 ]
passed
