# shellcheck shell=bash
# The demo's guest: it swaps on Fallow, then on a throttled disk image, and both are shown side by side. Sourced by demo.sh.

guest_mib=128
guest_set_mib=$((guest_mib * 4))
guest_swap_mib=$((guest_set_mib + 64))
guest_steps=4000
# A small network disk. A bare image here is host memory, and its figures would say nothing.
guest_image_iops=1000
guest_image_mib_per_s=100

demo_guest() { # WHICH COMMAND...: fallow or image
	local which=$1
	shift
	FALLOW_GUEST_DIR=$dir/guest-$which scripts/guest.sh "$@"
}

demo_guest_stop() {
	local which
	for which in fallow image; do
		[ ! -d "$dir/guest-$which" ] || demo_guest $which down
	done
}

# A guest with that disk as its only swap; the walk's figures are left in $dir/walk-WHICH.
demo_guest_walk() { # WHICH DISK
	local which=$1 seed=$RANDOM
	demo_guest "$which" up --mib $guest_mib --disk "$2" --program "$bin/swapwalk"
	demo_guest "$which" exec 'echo 0 >/sys/block/vda/queue/rotational && mkswap /dev/vda >/dev/null && swapon -dpages /dev/vda'
	demo_guest "$which" exec "swapwalk --mib $guest_set_mib --seed $seed --steps $guest_steps" >"$dir/walk-$which" || {
		cat "$dir/walk-$which" >&2
		die "demo: the walk in the guest failed"
	}
}

demo_guest_figures() {
	{
		grep '^{' "$dir/walk-fallow"
		grep '^{' "$dir/walk-image"
	} | jq -rs '
		def row(name; unit; f): "\(name)\t\(.[0] | f) \(unit)\t\(.[1] | f) \(unit)";
		"\tFallow\tdisk image",
		row("fill, swapping out"; "s"; .fill_s),
		row("random walk"; "s"; .walk_s),
		row("  major faults"; ""; .major_faults),
		row("  time of one, p50"; "us"; .p50_us),
		row("  p99"; "us"; .p99_us),
		row("  p99.9"; "us"; .p999_us),
		row("check of all, in order"; "s"; .check_s),
		row("pages checked"; ""; .checked),
		row("wrong pages"; ""; .wrong)' | column -t -s "$(printf '\t')"
}

# Says why when no guest can be started here.
demo_guest_check() {
	local why
	why=$(demo_guest fallow check 2>&1) && return
	echo "demo: no guest is shown, this machine cannot run one: $why"
	return 1
}

demo_guest_run() {
	echo "A guest of $guest_mib MiB walks a working set of $guest_set_mib MiB ($(cat build/kernel/accel)), half of it compressible."
	"$bin/fallow" --http "$dir/http.sock" disk add guest "${guest_swap_mib}MiB" --socket "$dir/guest.sock" --queues 1
	demo_guest_walk fallow "vhost:$dir/guest.sock,queues=1"
	[ "$keep" = 1 ] || demo_guest fallow down
	truncate -s "${guest_swap_mib}M" "$arenas/guest.img"
	demo_guest_walk image \
		"file:$arenas/guest.img,iops=$guest_image_iops,bps=$((guest_image_mib_per_s * 1048576))"
	demo_guest image down
	rm "$arenas/guest.img"
	echo
	echo "Swap on Fallow, and on a disk image of $guest_image_iops requests/s and $guest_image_mib_per_s MiB/s at most (QEMU's throttle):"
	demo_guest_figures
	echo
	"$bin/fallow" --http "$dir/http.sock" disk ls
}
