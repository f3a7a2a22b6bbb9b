# Caches of images: shared by disks that only read, dropped when somebody changed the image, gone with their time.
. "$(dirname "$0")/disks.sh"

read_all() { disk_read "$1" "$T/base.img"; }

head -c $((8 << 20)) /dev/urandom >"$T/base.img"
backend_config 'disks:' "  - {name: a, kind: cached, image: $T/base.img, readonly: true}" \
	"  - {name: b, kind: cached, image: $T/base.img, readonly: true}" \
	'store: {size: 32MiB, segment: 256KiB, max_pages: 131072}' 'images: {linger: 0s}'
backend_start
wait_for "disk a is served" disk_is a '.state == "serving"'
wait_for "disk b is served" disk_is b '.state == "serving"'
expect "they share one pool" [ "$(disk_get a .pool)" = "$(disk_get b .pool)" ]
read_all a
expect "the first reader asked the image" disk_is a '.pages.hits.disk == 2048 and .image_io.reads > 0 and .image_io.reads <= 1024'
read_all b
expect "the second did not" disk_is b '.image_io.reads == 0 and .pages.hits.local == 2048'
expect "what it is" disk_is b '.pages.sharers == 2 and .image_io.direct != null'

# The same after a kill and after an orderly restart.
for signal in KILL TERM; do
	backend_kill $signal
	backend_start
	wait_for "disk b is served" disk_is b '.state == "serving"'
	read_all b
	expect "no image was read after $signal" disk_is b '.image_io.reads == 0'
done

# Another image under the same name: nothing of the old one is seen.
backend_kill TERM
head -c $((8 << 20)) /dev/urandom >"$T/base.img"
backend_start
wait_for "disk a is served" disk_is a '.state == "serving"'
pool_old=$(disk_get a .pool)
read_all a
expect "it was read anew" disk_is a '.pages.hits.disk == 2048'
image_pools() { [ "$(json pools '[.pools[] | select(.owner | startswith("image:"))] | length')" = "$1" ]; }
wait_for "the old cache goes when its time is over" image_pools 1

# A disk of its own, written: what somebody else wrote meanwhile is seen.
cp "$T/base.img" "$T/own.img"
disk add own --image "$T/own.img" >"$T/c.out" 2>&1 || fail "disk add: $(cat "$T/c.out")"
read_all own
read_all own
expect "the second time from the cache" disk_is own '.image_io.reads <= 1024 and .pages.hits.local == 2048'
backend_kill TERM
backend_start
wait_for "disk own is served" disk_is own '.state == "serving"'
read_all own
expect "the cache was kept" disk_is own '.pages.stale_drops == 0 and .image_io.reads == 0'
for signal in TERM KILL; do
	backend_kill $signal
	# After a kill an image's times tell only what came some seconds later.
	[ $signal = KILL ] && sleep 6
	head -c $((8 << 20)) /dev/urandom >"$T/base.img"
	dd if="$T/base.img" of="$T/own.img" conv=notrunc status=none
	backend_start
	wait_for "disk own is served" disk_is own '.state == "serving"'
	expect "the change was noticed after $signal" disk_is own '.pages.stale_drops == 1'
	grep -q 'what was cached of disk own is dropped' "$T/f.log.new" || fail "nothing was said about it"
	read_all own
	expect "it was read anew" disk_is own '.pages.hits.disk == 2048'
done
pool_own=$(disk_get own .pool)
disk rm own >"$T/c.out" 2>&1 || fail "disk rm: $(cat "$T/c.out")"
expect "its pool is gone" json_is pools '[.pools[] | select(.owner == "disk:own")] | length == 0'
expect "its stamp is gone" [ ! -e "$T/run/disk-$pool_own.image" ]

printf 'GET /metrics HTTP/1.0\r\n\r\n' | socat -t 10 - "UNIX-CONNECT:$T/f.http,shut-none" >"$T/metrics"
for m in 'fallow_guest_disk_image_requests_total{disk="a",op="read"}' 'fallow_guest_disk_cache_pages_total{disk="b",event="fill"}' \
	'fallow_guest_disk_pages_read_total{disk="b",tier="disk"}'; do
	grep -qF "$m" "$T/metrics" || fail "/metrics has no $m"
done
fallow top --count 1 >"$T/c.out" 2>&1 || fail "fallow top"
grep -q '^a .*' "$T/c.out" || fail "fallow top: $(cat "$T/c.out")"
backend_kill TERM
expect "it ended well" [ "$BACKEND_CODE" = 0 ]
passed
