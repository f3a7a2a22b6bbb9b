# What the tests of guests' disks share beside lib.sh: disks of the daemon, and the guest without a machine on one of them.
# Sourced by a test; the programs in NEEDS must be there, else it is left out.
for tool in ${NEEDS:-}; do
	command -v "$tool" >/dev/null || {
		echo "left out: there is no $tool"
		exit 77
	}
done
. "$(dirname "$0")/lib.sh"

disk() { fallow disk "$@"; }
disk_get() { "$BIN/fallow" --http "$T/f.http" disk ls --json | jq -r ".disks[] | select(.name == \"$1\") | $2"; }
disk_is() { [ "$(disk_get "$1" "$2")" = true ]; }
has() { # TEXT: in what the last command said
	grep -q -- "$1" "$T/c.out" || fail "it does not say \"$1\": $(cat "$T/c.out")"
}

guest_start() { # NAME PAGES [IMAGE [nodiscard]]
	rm -f "$T/stop"
	"$BIN/test-guest-disk" "$T/disk-$1.sock" "$2" "${SEED:-5}" "$T/stop" ${3:+"$3"} ${4:-} >"$T/guest.out" 2>"$T/guest.log" &
	guest=$!
	wait_for "the guest is connected" disk_is "$1" .guest.connected
}
more_than() { [ "$(disk_get "$1" '.requests.reads + .requests.writes')" -gt "$2" ]; }
guest_end() { # RECONNECTS
	touch "$T/stop"
	wait "$guest" || fail "the guest: $(cat "$T/guest.log")"
	grep -q " errors=0 wrong=0 reconnects=$1\$" "$T/guest.out" || fail "the guest: $(cat "$T/guest.out" "$T/guest.log")"
}
# Reads all of a disk of 2048 pages and compares it with the image; the guest only reads while STOP is there.
disk_read() { # NAME IMAGE [nodiscard]
	touch "$T/stop"
	timeout 120 "$BIN/test-guest-disk" "$T/disk-$1.sock" 2048 1 "$T/stop" "$2" ${3:-} >"$T/guest.out" 2>"$T/guest.log" &&
		grep -q ' errors=0 wrong=0 reconnects=0$' "$T/guest.out" || fail "disk $1: $(cat "$T/guest.out" "$T/guest.log")"
}
