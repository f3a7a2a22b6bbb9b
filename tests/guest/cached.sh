# A real guest on cached disks: a file system through kills of fallowd and donors at random instants; then a root disk, from
# which the guest boots again and a clone does, which must come from memory.
. "$(dirname "$0")/lib.sh"
need_fallowd "cached disks"

# Images are on a disk, as they are in service.
IMAGES=$(mktemp -d /var/tmp/fallow-images.XXXXXX)
trap 'code=$?; rm -rf "$IMAGES"; (exit $code); guest_finish' EXIT

disk_get() { fallow --json disk ls | jq -r ".disks[] | select(.name == \"$1\") | $2"; }
disk_is() { [ "$(disk_get "$1" "$2")" = true ]; }

# The programs and libraries of this machine, as far as a guest's root would have them.
root_make() {
	local root=$IMAGES/root
	mkdir -p "$root"/{dev,proc,sys,tmp,jobs,run,var,usr/lib/x86_64-linux-gnu,usr/share}
	cp -a /usr/bin /usr/sbin "$root/usr/" 2>/dev/null
	find "$root/usr" -type f -size +4M -delete
	find /usr/lib/x86_64-linux-gnu -maxdepth 1 -name '*.so*' -size -4M -exec cp -a -t "$root/usr/lib/x86_64-linux-gnu" {} +
	cp -a /usr/share/perl5 /usr/share/perl "$root/usr/share/" 2>/dev/null
	cp -a /usr/lib64 "$root/usr/" 2>/dev/null
	for link in bin sbin lib lib64; do ln -s "usr/$link" "$root/$link"; done
	rm -f "$root/sbin/init"
	install -m 755 "$ROOT/tests/guest/jobs.sh" "$root/sbin/init"
	(cd "$root" && find . -type f -exec sha256sum {} + | sort) >"$IMAGES/sums"
	cp "$IMAGES/sums" "$root/sums"
	mkfs.ext4 -q -F -d "$root" "$IMAGES/base.img" "$(($(du -sm "$root" | cut -f 1) * 5 / 4 + 32))M" >/dev/null || fail "mkfs"
	rm -rf "$root"
}
root_make
truncate -s 512M "$IMAGES/files.img"
truncate -s 64M "$IMAGES/plain.img"
say "seed $SEED; a root of $(wc -l <"$IMAGES/sums") files in an image of $(($(stat -c %s "$IMAGES/base.img") >> 20)) MiB"

DONOR_SETTINGS=('memory: {min: 1GiB, max: 1GiB, floor: 1%}' 'region: {size: 16MiB}')
for n in 1 2; do
	donor_start "$n" "${DONOR_SETTINGS[@]}"
done
list="disks:"
for disk in "files:$IMAGES/files.img" "plain:$IMAGES/plain.img" "base:$IMAGES/base.img, readonly: true" \
	"clone:$IMAGES/base.img, readonly: true"; do
	list="$list
  - {name: ${disk%%:*}, kind: cached, image: ${disk#*:}, socket: $(backend_socket "${disk%%:*}"), queues: 2}"
done
backend_config "$list" 'store: {size: 96MiB, max_pages: 1048576}' \
	'remote: {max_lease: 2GiB, heartbeat: 200ms, suspect: 1s, dead: 3s, reconnect_max: 500ms}'
backend_start
wait_for "the donors are up" donors_up 2

### A file system, and a bare disk, while everything is killed.

guest_start_with --host --mib 384 --cpus 2 files:2 plain:2
in_guest 'chroot /host mkfs.ext4 -q -F /dev/vda && mount -t ext4 -o discard /dev/vda /mnt'
guest start blocks "blockwalk --mib 64 --seed $SEED --workers 16 --until /tmp/enough /dev/vdb"
# shellcheck disable=SC2016
guest start files 'n=0; while [ ! -f /tmp/enough ]; do n=$((n + 1))
	tar cf /mnt/a.new -C /host/usr sbin && sync && mv /mnt/a.new /mnt/a && echo 1 >/proc/sys/vm/drop_caches &&
	sha256sum </mnt/a >/tmp/sum.$((n % 2)) || exit 1
	[ $n = 1 ] || cmp /tmp/sum.0 /tmp/sum.1 || exit 1; done; echo rounds $n'
for round in 1 2 3 4 5; do
	for disk in vda vdb; do
		wait_progress $disk $((20 + RANDOM % 100))
	done
	backend_kill KILL
	[ $((round % 2)) = 0 ] || sleep 0.$((RANDOM % 9))
	backend_start
	say "fallowd killed, $round: the guest goes on"
	[ $round != 2 ] || donor_kill 1
	[ $round != 4 ] || { donor_start 1 "${DONOR_SETTINGS[@]}" && donor_kill 2; }
done
wait_progress vda 100
wait_progress vdb 100
in_guest 'touch /tmp/enough'
for job in blocks files; do
	wait_for "the end of $job" guest_is "[ -f /tmp/$job.code ]"
	say "$job: $(in_guest "tail -n 1 /tmp/$job.log; exit \$(cat /tmp/$job.code)")"
done
in_guest 'sha256sum </mnt/a >/tmp/last && umount /mnt && chroot /host e2fsck -f -n /dev/vda && mount -t ext4 /dev/vda /mnt &&
	sha256sum </mnt/a | cmp - /tmp/last && umount /mnt' >/dev/null
no_errors_seen
expect "nothing was stale" disk_is files '.pages.stale_drops == 0 and .image_io.errors == 0'
guest down
donor_start 2 "${DONOR_SETTINGS[@]}"
wait_for "the donors are up" donors_up 2

### A root disk: the first boot fills, the second one and a clone's find it.

# Debian's kernel and the modules for the disk and its file system come from elsewhere, all after them from the disk: the first
# process, which takes the commands; a program that loads libraries; every file. Prints what share came without the image.
boot() { # DISK ro|rw
	local all image all_before image_before
	all_before=$(disk_get "$1" '[.pages.hits[]] | add')
	image_before=$(disk_get "$1" '.pages.hits.disk')
	guest_start_with --mib 384 --cpus 2 --append "fallow.root=$2" "$1:2" >"$T/boot.out"
	boots="${boots:-} $(sed -n 's/.* after \([0-9]* s\)$/\1/p' "$T/boot.out")"
	# shellcheck disable=SC2016
	guest exec 'grep -q "^/dev/vda / ext4 '"$2"'[, ]" /proc/mounts && [ ! -e /init ] && [ "$(tr "\0" " " </proc/1/cmdline)" = "/bin/busybox sh /sbin/init " ] &&
		cd / && /bin/sh -c "perl -e 1 && ls /usr/bin | sort | wc -l && sha256sum -c --quiet /sums"' >"$T/boot.out" 2>&1 ||
		fail "boot: $(cat "$T/boot.out")"
	[ "$2" = ro ] || in_guest 'cp /bin/busybox /var/own && sync && mount -o remount,ro / && cmp /bin/busybox /var/own'
	no_errors_seen
	guest down
	all=$(($(disk_get "$1" '[.pages.hits[]] | add') - all_before))
	image=$(($(disk_get "$1" '.pages.hits.disk') - image_before))
	say "$1: $all blocks read, $image of them from the image, $(disk_get "$1" '.image_io.reads') requests to it so far"
	SHARE=$((100 - 100 * image / all))
}
boot base ro
first=$SHARE
expect "the first boot read the image" [ "$first" -lt 50 ]
boot base ro
expect "the second boot reads at least 95% without disk I/O, not $SHARE%" [ "$SHARE" -ge 95 ]
second=$SHARE
boot clone ro
expect "a clone's boot reads at least 95% without disk I/O, not $SHARE%" [ "$SHARE" -ge 95 ]
expect "it was not from the local tier alone" disk_is clone '.pages.hits.remote > 0'
clone=$SHARE
backend_kill KILL
backend_start
wait_for "the donors are up" donors_up 2
boot clone ro
expect "after a kill of fallowd, too, not $SHARE%" [ "$SHARE" -ge 95 ]
say "boots from cached disks took$boots; without the image: first $first%, second $second%, clone $clone%, after a kill $SHARE%"

# A clone that is written: a qcow2 over the same image, behind QEMU's NBD server.
qemu-img create -q -f qcow2 -b "$IMAGES/base.img" -F raw "$IMAGES/clone.qcow2" || fail "qemu-img"
qemu-nbd -t -e 8 --allocation-depth --discard=unmap -k "$T/clone.nbd" -f qcow2 "$IMAGES/clone.qcow2" >"$T/nbd.log" 2>&1 &
STAND_IN[clone]=$!
wait_for "the NBD server listens" test -S "$T/clone.nbd"
fallow disk add written --image "nbd+unix:///?socket=$T/clone.nbd" --base "$IMAGES/base.img" --socket "$(backend_socket written)" \
	--queues 2 >"$T/c.out" 2>&1 || fail "disk add: $(cat "$T/c.out")"
boot written rw
expect "a written clone's boot, too, not $SHARE%" [ "$SHARE" -ge 95 ]
say "a clone that is written: $SHARE%, $(disk_get written '.image_io.writes') writes to its image"
fallow disk rm written >"$T/c.out" 2>&1 || fail "disk rm: $(cat "$T/c.out")"
kill -TERM "${STAND_IN[clone]}"
wait "${STAND_IN[clone]}" 2>/dev/null
unset "STAND_IN[clone]"

backend_kill TERM
expect "it ended well" [ "$BACKEND_CODE" = 0 ]
e2fsck -f -n "$IMAGES/files.img" >"$T/fsck.out" 2>&1 || fail "the image on the host: $(cat "$T/fsck.out")"
passed
