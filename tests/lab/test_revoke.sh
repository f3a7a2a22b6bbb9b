# A donor takes its memory back whether the backend answers or not, and the backend sees a clean failure: a read of a region
# that is gone is answered by the next holder, or is an error; never wrong bytes (DESIGN, rules 1 and 4).
needs nodes:4
pressure() { # NODE KIB: what the memory server reads as its machine's free memory
	lab exec "$1" "printf 'MemTotal: 655360 kB\nMemAvailable: $2 kB\n' >/run/fallow-lab/meminfo.new; mv /run/fallow-lab/meminfo.new /run/fallow-lab/meminfo"
}
refused() { metric 1 fallow_donor_failed_total 'donor="d2",reason="refused"'; }
taken() { metric 2 fallow_memserver_leases_ended_total 'how="forced"'; }
empty() { [ "$(metric "$1" fallow_memserver_leased_bytes)" = 0 ]; }
holds() { [ "$(metric "$1" fallow_memserver_leased_bytes)" -gt 0 ]; }

start_all() {
	local node
	for node in 2 3 4; do
		pressure $node 600000
		donor_start $node "memory: {min: 0, max: 192MiB, floor: 10%, interval: 100ms, meminfo: /run/fallow-lab/meminfo, psi: /run/fallow-lab/none}" \
			"lease: {revoke_grace: 10ms}"
	done
	backend_config "2 3 4"
	backend_start
	wait_for "three donors are up" donors_up 3
}

# Regions are taken under load, until a transfer met one that was gone.
take_back() { # COPIES [WHAT...]: what may become of the loads' requests
	local copies=$1 round load
	shift
	for round in $(seq 10); do
		[ $round = 1 ] || clean_up
		start_all
		expect_pages "$(all_ok 4096)" put p 0 4096 71 "$copies"
		wait_for "the donor holds segments" holds 2
		load_start reads watch p 0 4096 71
		load_start more watch p 0 4096 71
		load_start writes churn q 0 1024 72 "$copies"
		load_goes_on writes
		pressure 2 0
		wait_for "the memory is taken back" empty 2
		for load in reads more writes; do
			load_goes_on $load
		done
		expect_load reads "$@"
		expect_load more "$@"
		expect_load writes refused "$@"
		pressure 2 600000
		[ "$TRANSPORT" = verbs ] && [ "$(refused)" = 0 ] || break
	done
	say "R=$copies: $(taken) regions taken by force, $(refused) transfers refused by the donor, round $round"
	[ "$TRANSPORT" != verbs ] || expect "a transfer met a region that was gone" [ "$(refused)" -gt 0 ]
}

take_back 2
wait_for "all copies" all_copies
expect_pages "$(all_ok 4096)" check p 0 4096 71
expect "no page was lost at R=2" json_is status '.gets_lost == 0'

clean_up
take_back 1 lost
# What is lost at one copy is lost for good, told as an error, and can be put again.
tally=$(pages check p 0 4096 71)
say "R=1: $tally"
[[ $tally = *" refused=0 miss=0 lost="*" wrong=0 failed=0" ]] || fail "after the loss: $tally"
wait_for "three donors are up" donors_up 3
expect_pages "$(all_ok 4096)" put p 0 4096 73 1
expect_pages "$(all_ok 4096)" check p 0 4096 73
