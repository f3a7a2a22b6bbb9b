/* The messages between the control thread and the lanes: two fixed-size structs, each with a union.
 */
#ifndef FALLOW_BACKEND_LANE_MSG_H
#define FALLOW_BACKEND_LANE_MSG_H

#include "client-backend/call.h"
#include "client-backend/engine/engine.h"
#include "client-backend/frontend/disk_cached.h"
#include "client-backend/frontend/nbd_lane.h"
#include "client-backend/frontend/socket_lane.h"
#include "client-backend/frontend/vhost_lane.h"
#include "client-backend/tier/remote.h"

/*
 * Control to a lane, in order. Where `call` is set the lane answers with LANE_REPLY_CALL and that
 * call; everything else needs no answer.
 */
enum lane_msg_type {
	LANE_REGION_ADD,     /* region */
	LANE_REGION_BIND,    /* region */
	LANE_REGION_REVOKE,  /* region */
	LANE_REGION_LOST,    /* region */
	LANE_DONOR_STATE,    /* donor: may it be used, may new segments go there */
	LANE_LINK_ATTACH,    /* link: an established connection; answered only when that fails */
	LANE_LINK_DETACH,    /* link.donor and channel; answered by LANE_REPLY_LINK_DETACHED */
	LANE_SESSION_ATTACH, /* session, call */
	LANE_SESSION_DETACH, /* session, call */
	LANE_QUEUE_ATTACH,   /* queue, call */
	LANE_QUEUE_UPDATE,   /* queue, call */
	LANE_QUEUE_DETACH,   /* queue, call: answered when it is drained */
	LANE_NBD_ATTACH,     /* nbd, call */
	LANE_NBD_DETACH,     /* nbd, call: answered when nothing of it is under way */
	LANE_POOL_ADD,	     /* pool, call */
	LANE_POOL_DESTROY,   /* pool_id, call */
	LANE_POOL_PAGES,     /* pool_id, call: value is the number of pages */
	LANE_POOL_RESERVE,   /* reserve, call: value is the number of pages that are possible */
	LANE_CACHE_DETACH,   /* cache (NULL: none), call: answered when nothing of it is used */
	LANE_ACCOUNT_SET,    /* account */
	LANE_TUNE,	     /* tune */
	LANE_PING,	     /* call */
	LANE_STOP, /* the last one: every session, queue, connection and link was detached before */
};

struct lane_link {
	unsigned donor;
	enum tier_remote_channel channel;
	const struct transport_ops *ops;
	struct transport_conn *conn; /* whoever holds the message owns it */
};

struct lane_msg {
	enum lane_msg_type type;
	struct backend_call *call;
	union {
		struct engine_region_desc region;
		struct {
			unsigned index;
			bool up, suspect;
		} donor;
		struct lane_link link;
		struct socket_attachment *session;
		struct vhost_queue *queue;
		struct nbd_conn *nbd;
		struct disk_cache *cache;
		struct engine_pool_desc pool;
		uint32_t pool_id;
		struct {
			uint32_t pool;
			bool keep_asking;
			struct engine_reservation value;
		} reserve;
		struct {
			unsigned index;
			struct engine_account value;
		} account;
		struct {
			struct engine_config engine;
			uint64_t idle_poll_ns, get_poll_ns;
		} tune;
	};
};

/* A lane to control, all lanes through one ring. */
enum lane_reply_type {
	LANE_REPLY_CALL,	    /* call.done(status, value) is due */
	LANE_REPLY_LINK_BROKEN,	    /* link: failed, or could not be attached; to be destroyed */
	LANE_REPLY_LINK_DETACHED,   /* link; conn NULL: there was none any more */
	LANE_REPLY_WANT_REGIONS,    /* want */
	LANE_REPLY_REGION_SPARE,    /* spare */
	LANE_REPLY_REGION_RELEASED, /* region */
	LANE_REPLY_BAD_DATA,	    /* donor */
	LANE_REPLY_STOPPED,	    /* the thread is about to end */
};

struct lane_reply {
	enum lane_reply_type type;
	unsigned lane;
	union {
		struct {
			struct backend_call *call;
			int status;
			uint64_t value;
		} call;
		struct lane_link link;
		struct {
			unsigned count;
			bool ephemeral; /* for copies of ephemeral segments only */
		} want;
		struct {
			struct engine_region_desc region;
			bool value; /* it holds nothing else and could go */
		} spare;
		unsigned donor;
		struct engine_region_desc region;
	};
};

#endif
