# Queue pairs that fail are made anew without losing a request, also at one copy, where nobody else can answer (DESIGN,
# rules 2 and 3): the donor's interface down and up, a link that comes and goes, all links of the backend's machine.
needs verbs nodes:3 interface
donor_start 2
donor_start 3
backend_config "2 3" "pools: {copies: 1}" \
	'remote: {max_lease: 512MiB, heartbeat: 500ms, suspect: 3s, dead: 60s, reconnect_max: 1s}'
backend_start
wait_for "two donors are up" donors_up 2
expect_pages "$(all_ok 6144)" put p 0 6144 61

flap() { # NODE SECONDS
	lab exec "$1" "ip link set $(lab interface "$1") down; sleep $2; ip link set $(lab interface "$1") up"
}
blink() {
	lab cut 1 2
	sleep 3
	lab heal
}
# Not by its interface: the management queue pair of Soft-RoCE (6.1) receives nothing any more after it had to send on an
# interface that is down.
alone() {
	lab cut 1 2
	lab cut 1 3
	sleep 4
	lab heal
}

connections() { metric 2 fallow_data_accepted_total; }

at_first=$(connections)
for how in "flap 2 4" blink alone; do
	[ "$how" = "flap 2 4" ] || lab can cut || continue
	before=$(connections)
	load_start reads watch p 0 6144 61
	load_start writes churn q 0 1024 62
	load_goes_on writes
	$how
	wait_for "two donors are up" donors_up 2
	load_goes_on reads
	load_goes_on writes
	expect_load reads
	say "$how: $(($(connections) - before)) connections made anew; $LOAD_PAGES pages read, longest get $LOAD_MS ms"
	expect_load writes refused
	expect_pages "$(all_ok 6144)" check p 0 6144 61
done
expect "queue pairs failed and were made anew" [ "$(connections)" -gt "$at_first" ]
expect "no get was lost" json_is status '.gets_lost == 0'
