# Cached disks of block devices: one with blocks of 512 bytes, past the page cache; one with larger blocks, through it.
probe=$(mktemp)
truncate -s 1M "$probe"
device=$(losetup -b 4096 -f --show "$probe" 2>&1) && losetup -d "$device"
code=$?
rm -f "$probe"
[ $code = 0 ] || {
	echo "left out: no loop devices here: $device"
	exit 77
}
. "$(dirname "$0")/lib.sh"

DEVICES=
trap 'code=$?; for d in $DEVICES; do losetup -d "$d"; done; (exit $code); finish' EXIT
disk_get() { "$BIN/fallow" --http "$T/f.http" disk ls --json | jq -r ".disks[] | select(.name == \"$1\") | $2"; }
disk_is() { [ "$(disk_get "$1" "$2")" = true ]; }
device() { # NAME BLOCK_BYTES: sets DEVICE
	head -c $((8 << 20)) /dev/urandom >"$T/$1.img"
	cp "$T/$1.img" "$T/$1.was"
	DEVICE=$(losetup -b "$2" -f --show "$T/$1.img") || fail "losetup"
	DEVICES="$DEVICES $DEVICE"
}
more_than() { [ "$(disk_get "$1" '.requests.reads + .requests.writes')" -gt "$2" ]; }

backend_config 'disks: []'
backend_start
for block in 512 4096; do
	name=d$block
	device $name $block
	fallow disk add $name --image "$DEVICE" >"$T/c.out" 2>&1 || fail "disk add: $(cat "$T/c.out")"
	rm -f "$T/stop"
	# What a device gives back need not read as zeros.
	"$BIN/test-guest-disk" "$T/disk-$name.sock" 2048 "${SEED:-3}" "$T/stop" "$T/$name.was" nodiscard >"$T/guest.out" 2>"$T/guest.log" &
	guest=$!
	wait_for "the guest does something" more_than $name 4000
	touch "$T/stop"
	wait "$guest" || fail "the guest: $(cat "$T/guest.log")"
	grep -q ' errors=0 wrong=0 reconnects=0$' "$T/guest.out" || fail "the guest: $(cat "$T/guest.out" "$T/guest.log")"
	expect "blocks were zeroed" disk_is $name '.image_io.zeroes > 0 and .image_io.errors == 0'
done
expect "the second one is used through the page cache" disk_is d4096 '.image_io.direct == false'
grep -q '512-byte blocks cannot bypass' "$T/f.log.new" || fail "nothing was said about it"
backend_kill TERM
expect "it ended well" [ "$BACKEND_CODE" = 0 ]
for name in d512 d4096; do
	expect "device $name holds what the guest wrote" cmp "$T/$name.img" "$T/$name.was.want"
done
passed
