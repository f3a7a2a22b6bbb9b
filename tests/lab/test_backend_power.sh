# A host that loses its power loses its arenas with it; its leases are given back or run out, the donors wipe them, and a new
# start gets service and nothing stale (DESIGN, rules 1 and 4).
needs nodes:3 kill reboot
STATE_DIR=/run/lab/fallow-state # outlives the host's power, unlike its runtime directory
start_donors() { # TTL
	local node
	for node in 2 3; do
		donor_start $node "lease: {ttl: $1}" "region: {size: 2MiB, keep: 64}"
	done
}
leased() { metric "$1" fallow_memserver_leased_bytes; }
ended() { metric "$1" fallow_memserver_leases_ended_total "how=\"$2\""; }

start_donors 10min
backend_config "2 3"
backend_start
wait_for "two donors are up" donors_up 2
expect_pages "$(all_ok 6144)" put p 0 6144 91
load_start writes churn q 0 1024 92
expect "the donors hold leases" [ "$(leased 2)" -gt 0 ]

# The same identity again, while the leases last: what it does not know is given back.
before=$(ended 2 released)
lab kill 1
lab reboot 1
expect "the leases have not run out" [ "$(ended 2 expired)" = 0 ]
expect "the donor still holds them" [ "$(leased 2)" -gt 0 ]
backend_start
wait_for "two donors are up" donors_up 2
given_back() { [ "$(ended 2 released)" -gt "$before" ] && [ "$(($(leased 2) + $(leased 3)))" = "$(json capacity .remote.leased_bytes)" ]; }
wait_for "the old leases are given back" given_back
expect_pages "ok=0 refused=0 miss=6144 lost=0 wrong=0 failed=0" check p 0 6144 91
expect_pages "$(all_ok 6144)" put p 0 6144 93
expect_pages "$(all_ok 6144)" check p 0 6144 93

# Another identity, when they are over.
donor_kill 2
donor_kill 3
start_donors 4s
wait_for "two donors are up again" donors_up 2
expect_pages "$(all_ok 6144)" put p 0 6144 94
wait_for "the donors hold leases" metric_at_least 2 fallow_memserver_leased_bytes 1
wait_for "the donors hold leases" metric_at_least 3 fallow_memserver_leased_bytes 1
lab kill 1
for node in 2 3; do
	wait_for "the leases run out" metric_is $node fallow_memserver_leased_bytes 0
	expect "they ran out by themselves" [ "$(ended $node expired)" -gt 0 ]
	say "donor d$node: $(ended $node expired) leases ran out, $(metric $node fallow_memserver_wipes_total) regions wiped"
	wait_for "every one is wiped" metric_at_least $node fallow_memserver_wipes_total "$(ended $node expired)"
done
rm -rf "${BACKEND_SHARE:?}/fallow-state"
lab reboot 1
backend_start
wait_for "two donors are up" donors_up 2
expect_pages "ok=0 refused=0 miss=6144 lost=0 wrong=0 failed=0" check p 0 6144 94
expect_pages "$(all_ok 6144)" put p 0 6144 95
expect_pages "$(all_ok 6144)" check p 0 6144 95
