# A put that was acknowledged survives as many donors as its pool has copies, less one (DESIGN, rule 2), and a donor that
# dies costs time only (rule 3): a memory server killed with reads in flight, a machine that loses its power, a link that
# is cut for longer than queue pairs live; each back in service.
needs nodes:4
for node in 2 3 4; do
	donor_start $node
done
backend_config "2 3 4"
backend_start
wait_for "three donors are up" donors_up 3
expect_pages "$(all_ok 8192)" put p 0 8192 11
wait_for "all copies" all_copies

donor_gone() { json_is donors ".donors[] | select(.name == \"d$1\") | .phase == \"dead\" or .phase == \"down\""; }

loads() {
	load_start reads watch p 0 8192 11
	load_start more watch p 0 8192 11
	load_start writes churn q 0 1024 12
}

# After the fault: nothing was lost meanwhile, and all copies are made again on the donors that are left.
survived() { # WHAT NODE
	local begin=$SECONDS longest
	wait_for "the donor is known to be gone" donor_gone "$2"
	wait_for "all copies again on the others" all_copies
	say "$1: all copies again after $((SECONDS - begin)) s"
	for load in reads more writes; do
		load_goes_on $load
	done
	expect_load reads && longest=$LOAD_MS
	expect_load more
	expect_load writes refused
	expect_pages "$(all_ok 8192)" check p 0 8192 11
	say "$1: longest get $longest ms, longest beside puts $LOAD_MS ms"
	# Only what is broken takes so long: a get that waits for the dead donor to the end of its own limit.
	expect "a get waited for the donor that is gone" [ "$longest" -lt 30000 ]
}

loads
donor_kill 2
survived "memory server killed" 2
say "reads that failed on it: $(metric 1 fallow_donor_failed_total 'donor="d2"')"
donor_start 2
wait_for "three donors are up again" donors_up 3

if lab can kill && lab can reboot; then
	loads
	lab kill 3
	survived "power lost" 3
	begin=$(now_ms)
	lab reboot 3
	booted=$(now_ms)
	donor_start 3
	wait_for "three donors are up again" donors_up 3
	back=$(($(now_ms) - begin))
	say "reboot: node up after $((booted - begin)) ms, back in the cluster after $back ms (target: 30000)"
	expect "a node that is rebooted is soon back in the cluster" [ $back -lt 150000 ]
else
	say "left out here: power lost"
fi

if lab can cut; then
	loads
	lab cut 1 2
	survived "link cut" 2
	lab heal
	wait_for "three donors are up again" donors_up 3
else
	say "left out here: link cut"
fi
expect_pages "$(all_ok 8192)" check p 0 8192 11
expect "no get was lost" json_is status '.gets_lost == 0'
