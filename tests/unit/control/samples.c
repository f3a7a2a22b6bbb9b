/* One good message of each type, the same in every test that needs some. */
#include "tests/unit/control/samples.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void sample_lease(struct control_lease *l, unsigned n)
{
	*l = (struct control_lease){
		.region_id = n,
		.epoch = 0x1122334455667700ull + n,
		.len_bytes = 64ull << 20,
		.ttl_ms = 10000,
		.tcp_key = 0xa1a2a3a4a5a6a700ull + n,
		.verbs_rkey = 0x1000 + n,
		.verbs_raddr = 0x7f0000000000ull,
		.revoking = n == 1,
		.revoke_ms = n == 1 ? 4321 : 0,
	};
}

void sample_msg(enum control_msg_type type, struct control_msg *m)
{
	memset(m, 0, sizeof(*m));
	m->type = type;
	switch (type) {
	case CONTROL_HELLO:
		m->hello.version_min = m->hello.version_max = 1;
		memset(m->hello.identity, 0x11, 16);
		memset(m->hello.secret, 0x22, 16);
		strcpy(m->hello.name, "host-1");
		break;
	case CONTROL_HELLO_ACK:
		m->hello_ack.version = 1;
		m->hello_ack.token[0] = 0x0102030405060708ull;
		m->hello_ack.token[1] = 0x1112131415161718ull;
		m->hello_ack.boot_id = 0x2122232425262728ull;
		m->hello_ack.tcp_port = 7401;
		m->hello_ack.verbs_port = 7402;
		m->hello_ack.lease_ttl_ms = 10000;
		m->hello_ack.region_bytes = 64ull << 20;
		strcpy(m->hello_ack.name, "donor-1");
		strcpy(m->hello_ack.failure_domain, "rack-1");
		break;
	case CONTROL_LEASES:
		m->leases.count = 2;
		m->leases.more = true;
		sample_lease(&m->leases.lease[0], 0);
		sample_lease(&m->leases.lease[1], 1);
		break;
	case CONTROL_LEASE_REQUEST:
		m->lease_request.request_id = 7;
		m->lease_request.ephemeral = true;
		break;
	case CONTROL_LEASE_RENEW:
		m->lease_renew.count = 3;
		m->lease_renew.spare[0] = 3;
		m->lease_renew.spare[1] = 300;
		m->lease_renew.spare[2] = UINT64_MAX;
		break;
	case CONTROL_LEASE_GRANT:
		m->lease_grant.request_id = 7;
		sample_lease(&m->lease_grant.lease, 3);
		break;
	case CONTROL_LEASE_RELEASE:
		m->lease_release.region_id = 3;
		m->lease_release.epoch = 0x1122334455667703ull;
		break;
	case CONTROL_REVOKE:
		m->revoke.region_id = 3;
		m->revoke.epoch = 0x1122334455667703ull;
		m->revoke.deadline_ms = 5000;
		break;
	case CONTROL_REVOKE_DONE:
		m->revoke_done.region_id = 3;
		m->revoke_done.epoch = 0x1122334455667703ull;
		break;
	case CONTROL_HEARTBEAT:
		m->heartbeat.sequence = 99;
		break;
	case CONTROL_STATS:
		m->stats.total_bytes = 1ull << 34;
		m->stats.leased_bytes = 1ull << 33;
		m->stats.free_bytes = 1ull << 33;
		m->stats.spare_bytes = 1ull << 32;
		break;
	case CONTROL_DRAIN:
		m->drain.deadline_ms = 60000;
		break;
	case CONTROL_ERROR:
		m->error.status = -EPROTO;
		strcpy(m->error.text, "a second HELLO");
		break;
	default:
		break;
	}
}
