# A put that was acknowledged survives as many donors as its pool has copies, less one: a process that is killed, a
# machine that loses its power under load, and each back in service.
donor_start 2
donor_start 3
backend_config "2 3"
backend_start
wait_for "two donors are up" donors_up 2
expect_pages "$(all_ok 8192)" put p 0 8192 11
wait_for "all copies" json_is status '.segments_underreplicated == 0'

load_start() { # checks all pages over and over, until load_end
	lab exec 1 "rm -f /run/stop"
	: >"$BACKEND_SHARE/load.log"
	lab start 1 load "until [ -e /run/stop ]; do $BIN/test-pages check /run/f.sock p 0 8192 11; done; echo end" >/dev/null
	wait_for "the load runs" grep -q ok= "$BACKEND_SHARE/load.log"
}

load_end() {
	local lines=$(($(wc -l <"$BACKEND_SHARE/load.log") + 1))
	wait_for "one more round" sh -c "[ \$(wc -l <'$BACKEND_SHARE/load.log') -gt $lines ]"
	lab exec 1 "touch /run/stop"
	wait_for "the load ends" grep -q '^end' "$BACKEND_SHARE/load.log"
	if grep -v -e "^$(all_ok 8192)\$" -e '^end$' "$BACKEND_SHARE/load.log"; then
		fail "pages were lost or wrong under load"
	fi
}

repaired() {
	local begin=$SECONDS
	wait_for "two donors are up again" donors_up 2
	wait_for "all copies again" json_is status '.segments_underreplicated == 0'
	expect_pages "$(all_ok 8192)" check p 0 8192 11
	say "$1: all copies $((SECONDS - begin)) s after it was back; longest get so far $(json status '.latency.get_remote.max_ns / 1000000 | floor') ms"
}

load_start
donor_kill 2
wait_for "the donor is known to be gone" json_is donors '.donors[0].phase != "up"'
load_end
donor_start 2
repaired "memory server killed"

load_start
lab kill 3
wait_for "the donor is known to be gone" json_is donors '.donors[1].phase != "up"'
load_end
begin=$SECONDS
lab reboot 3
donor_start 3
say "node 3 is back after $((SECONDS - begin)) s"
repaired "power lost"

# A link that is cut for longer than queue pairs live, and healed.
load_start
lab cut 1 2
wait_for "the donor is known to be gone" json_is donors '.donors[0].phase != "up"'
sleep 3
lab heal
wait_for "two donors are up again" donors_up 2
load_end
repaired "link cut"
expect "no get was lost" json_is status '.gets_lost == 0'

# Lossy: slower, and every page is right.
lab drop 1 2 1
lab reorder 1 3 3
expect_pages "$(all_ok 2048)" check p 0 2048 11
expect_pages "$(all_ok 2048)" put q 0 2048 12
expect_pages "$(all_ok 2048)" check q 0 2048 12
lab heal
