# The swap disk as a plain block device: fio compares what it wrote, in all sizes and depths; then writes, reads, discards
# and zeroing mixed; then ext4 on it.
. "$(dirname "$0")/lib.sh"

say "seed $SEED"
disks_start 3 disk:256:2
guest_start_with --host --mib 512 --cpus 2 disk:2
say "logical blocks of $(in_guest 'cat /sys/block/vda/queue/logical_block_size') bytes," \
	"discards of up to $(in_guest 'cat /sys/block/vda/queue/discard_max_bytes') bytes"

# Requests under the device's block size reach it through the guest's page cache.
in_guest "cat >/host/tmp/jobs <<'JOBS'
[global]
filename=/dev/vda
ioengine=libaio
verify=crc32c
verify_fatal=1
randseed=$SEED
direct=1
stonewall
[sequential-depth-1]
rw=write
bs=4k
iodepth=1
size=8m
[sequential-depth-32]
rw=write
bs=128k
iodepth=32
size=64m
[random-depth-1]
rw=randwrite
bsrange=4k-128k
iodepth=1
offset=64m
size=16m
[random-depth-32]
rw=randwrite
bsrange=4k-128k
iodepth=32
offset=64m
size=64m
[random-pages-depth-32]
rw=randwrite
bs=4k
iodepth=32
offset=128m
size=16m
[buffered-512]
direct=0
rw=randwrite
bs=512
iodepth=1
offset=160m
size=2m
fsync=256
[buffered-odd]
direct=0
rw=write
bsrange=512-128k
bs_unaligned=0
offset=168m
size=16m
JOBS"
in_guest 'chroot /host fio --output-format=json --verify_state_save=0 /tmp/jobs >/tmp/fio.json 2>/tmp/fio.err; code=$?; cat /tmp/fio.err; exit $code'
fio=$(in_guest 'cat /tmp/fio.json')
# fio ends with 0 even when a job was killed.
expect "a fio job failed" [ "$(jq -r '(.jobs | length == 7) and ([.jobs[] | .error == 0 and .write.total_ios > 0 and
	.read.total_ios == .write.total_ios] | all)' <<<"$fio")" = true ]
say "$(jq -r '.jobs | map("\(.jobname) \(.write.total_ios)") | join(", ")' <<<"$fio")"
no_errors_seen

say "$(in_guest "blockwalk --mib 32 --seed $SEED --steps $(amount 100 400) --workers 1 /dev/vda")"
say "$(in_guest "blockwalk --mib 256 --seed $((SEED + 1)) --steps $(amount 50 200) --workers 32 /dev/vda")"
no_errors_seen

# A disk that was discarded whole reads as zeros.
in_guest 'blkdiscard /dev/vda && ! tr -d "\0" </dev/vda | head -c 1 | grep -q .'

in_guest 'chroot /host mkfs.ext4 -q -F /dev/vda && mount -t ext4 -o discard /dev/vda /mnt && cp -r /host/usr/share/perl5 /host/usr/sbin /mnt/'
in_guest 'cd /mnt && find . -type f -exec sha256sum {} + >/tmp/sums && rm -rf sbin/[a-m]* && grep -v " ./sbin/[a-m]" /tmp/sums >/tmp/left'
in_guest 'cd / && umount /mnt && chroot /host e2fsck -f -n /dev/vda' >/dev/null
in_guest 'mount -t ext4 /dev/vda /mnt && fstrim /mnt && cd /mnt && echo 3 >/proc/sys/vm/drop_caches && sha256sum -c /tmp/left | grep -v ": OK"; [ $? = 1 ]'
say "$(in_guest 'wc -l </tmp/left') files on ext4 compared"
in_guest 'cd / && umount /mnt && chroot /host e2fsck -f -n /dev/vda' >/dev/null
no_errors_seen
passed
