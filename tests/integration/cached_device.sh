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
. "$(dirname "$0")/disks.sh"
SEED=${SEED:-3}

DEVICES=
trap 'code=$?; for d in $DEVICES; do losetup -d "$d"; done; (exit $code); finish' EXIT
device() { # NAME BLOCK_BYTES: sets DEVICE
	head -c $((8 << 20)) /dev/urandom >"$T/$1.img"
	cp "$T/$1.img" "$T/$1.was"
	DEVICE=$(losetup -b "$2" -f --show "$T/$1.img") || fail "losetup"
	DEVICES="$DEVICES $DEVICE"
}

backend_config 'disks: []'
backend_start
for block in 512 4096; do
	name=d$block
	device $name $block
	fallow disk add $name --image "$DEVICE" >"$T/c.out" 2>&1 || fail "disk add: $(cat "$T/c.out")"
	# What a device gives back need not read as zeros.
	guest_start $name 2048 "$T/$name.was" nodiscard
	wait_for "the guest does something" more_than $name 4000
	guest_end 0
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
