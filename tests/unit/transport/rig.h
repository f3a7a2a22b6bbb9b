/* A memory server and lanes' transports in one process over loopback, for the transport tests. */
#ifndef FALLOW_TEST_TRANSPORT_RIG_H
#define FALLOW_TEST_TRANSPORT_RIG_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdatomic.h>

#include "lib/transport/server.h"
#include "lib/transport/transport.h"

#define RIG_LIMIT_MS 20000

struct rig_region {
	uint8_t *base;
	size_t len;
	struct transport_export export;
};

/* An op that records its end. */
struct rig_op {
	struct transport_op op;
	bool ended;
	int status;
};

uint64_t rig_now_ms(void);
void *rig_map(size_t len);
struct transport_server *rig_server(void (*change)(struct transport_server_config *cfg));
void rig_export(struct transport_server *s, uint64_t client, size_t len, struct rig_region *r);
/* Drives conn_progress() until it has a verdict. *c is to be destroyed in any case when not NULL.
 */
int rig_establish(
	struct transport *t, uint16_t port, const uint64_t token[2], struct transport_conn **c);
struct transport *rig_transport(uint32_t depth, void **area, size_t len);
/* Establishes and attaches; fails the test when that does not work. */
struct transport_conn *rig_connect(struct transport *t, uint16_t port, const uint64_t token[2]);
void rig_drop(struct transport_conn *c);
void rig_op_init(struct rig_op *o, enum transport_op_kind kind, void *buf, uint32_t len,
	uint64_t rkey, uint64_t raddr);
/* Polls until the op has ended; its status. */
int rig_wait(struct transport *t, struct rig_op *o);
int rig_do(struct transport *t, struct transport_conn *c, enum transport_op_kind kind, void *buf,
	uint32_t len, uint64_t rkey, uint64_t raddr);
/* Waits until the counter is at least n. */
void rig_wait_stat(struct transport_server *s, size_t offset, uint64_t n);
#define RIG_WAIT_STAT(s, name, n) rig_wait_stat(s, offsetof(struct transport_server_stats, name), n)
uint64_t rig_stat(struct transport_server *s, size_t offset);
#define RIG_STAT(s, name) rig_stat(s, offsetof(struct transport_server_stats, name))
/* A plain connected socket to the port; it waits RIG_LIMIT_MS at most. */
int rig_socket(uint16_t port);

#endif
