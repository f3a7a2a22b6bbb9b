/* Gets: from memory at once, or from a segment's holders with merging, verification, hedging and a
 * time limit. */
#include <errno.h>

#include "client-backend/engine/impl.h"

#define MERGE_GAP_BYTES 512u
#define KICK_BATCH	64u
#define BARE_AT                                                                                    \
	64u /* where a payload without its header is read to: aligned, with room before it */
#define LATE_NS	   5000000ull /* when hedging is off */
#define RETRY_NS   5000000ull
#define ROUNDS_MAX 3u /* wrong answers from every holder, this often: the page is lost */

void fetch_init(struct engine *e, uint8_t *buffers)
{
	e->fetch_free = NULL;
	e->fetch_active = NULL;
	e->fetch_active_tail = &e->fetch_active;
	for (uint32_t i = 0; i < e->cfg.fetches; i++) {
		struct fetch *f = &e->fetch[i];

		for (unsigned a = 0; a < 2; a++) {
			f->attempt[a].engine = e;
			f->attempt[a].fetch = f;
			f->attempt[a].buf = buffers;
			buffers += FETCH_BYTES + FETCH_SLACK_BYTES;
		}
		req_list_init(&f->reqs);
		f->next = e->fetch_free;
		e->fetch_free = f;
	}
	req_list_init(&e->put_wait);
	req_list_init(&e->grant_wait);
	req_list_init(&e->get_wait);
	req_list_init(&e->plug);
}

static struct fetch *fetch_take(struct engine *e)
{
	struct fetch *f = e->fetch_free;

	if (!f)
		return NULL;
	e->fetch_free = f->next;
	f->next = NULL;
	f->pprev = e->fetch_active_tail;
	*e->fetch_active_tail = f;
	e->fetch_active_tail = &f->next;
	e->fetch_count_active++;
	return f;
}

static void fetch_give_back(struct engine *e, struct fetch *f)
{
	*f->pprev = f->next;
	if (f->next)
		f->next->pprev = f->pprev;
	else
		e->fetch_active_tail = f->pprev;
	e->fetch_count_active--;
	seg_unpin(e, f->row);
	f->next = e->fetch_free;
	e->fetch_free = f;
	if (e->get_busy) {
		e->get_busy = false;
		e->get_retry_ns = 0;
	}
}

/* What is kept for speed alone is not waited for long, and is a miss where others would be lost. */
static bool req_is_ephemeral(const struct engine *e, const struct engine_req *r)
{
	const struct pool_row *p = pool_find(e, r->key.pool);

	return p && !(p->desc.flags & ENGINE_POOL_PERSISTENT);
}

void fetch_req_done(struct engine *e, struct engine_req *r, int status)
{
	if ((status == -EIO || status == -ETIMEDOUT) && req_is_ephemeral(e, r)) {
		ephemeral_miss(e, r);
		status = -ENOENT;
	}
	if (status == -EIO)
		stat_add(&e->stats.gets_lost, 1);
	else if (status == -ETIMEDOUT)
		stat_add(&e->stats.gets_timeout, 1);
	else if (status == -ENOENT)
		stat_add(&e->stats.gets_miss, 1);
	hist_record(&e->stats.get_remote_ns, now_ns(e) - r->start_ns);
	r->done(r, status);
}

/* ---- what is in memory ---- */

static int record_deliver(struct engine *e, const struct record_header *h, uint64_t seq,
	uint32_t bytes, const struct engine_key *k, void *page)
{
	if (!record_intact(h, seq, bytes, e->header->secret) || !record_is_key(h, k))
		return -EBADMSG;
	return codec_decode(e->codec, h->codec, h + 1, h->len, page);
}

int fetch_lookup(struct engine *e, const struct engine_key *k, void *page, uint64_t *loc)
{
	uint32_t object, row;
	uint64_t *slot;

	if (!pool_find(e, k->pool))
		return -ENOENT;
	slot = entry_find(e, k, &object);
	if (!slot)
		return -ENOENT;
	*loc = *slot;
	if (loc_is_same(*loc)) {
		codec_fill(page, (uint32_t)*loc);
		stat_add(&e->stats.gets_same_filled, 1);
		return 0;
	}
	row = loc_row(*loc);
	if (e->seg[row].local) {
		const void *h = seg_data(e, row) + loc_off(*loc);

		if (record_deliver(e, h, e->seg[row].seq, loc_len(*loc), k, page) == 0) {
			e->sv[row].recent = true;
			if (!e->seg[row].persistent && !(*loc & LOC_READ))
				__atomic_store_n(slot, *loc | LOC_READ, __ATOMIC_RELEASE);
			stat_add(&e->stats.gets_local, 1);
			return 0;
		}
		stat_add(&e->stats.records_corrupt, 1);
	}
	if (seg_has_holder(e, row))
		return -EINPROGRESS;
	if (e->seg[row].persistent)
		return -EIO;
	entry_remove(e, slot, object); /* an ephemeral page may vanish */
	return -ENOENT;
}

int engine_get(struct engine *e, const struct engine_key *k, void *page, struct engine_req *req)
{
	static const struct engine_direct none;

	return engine_get_direct(e, k, page, &none, req);
}

int engine_get_direct(struct engine *e, const struct engine_key *k, void *page,
	const struct engine_direct *direct, struct engine_req *req)
{
	uint64_t loc;
	int err = fetch_lookup(e, k, page, &loc);

	if (err == -ENOENT)
		stat_add(&e->stats.gets_miss, 1);
	if (err == -EIO)
		stat_add(&e->stats.gets_lost, 1);
	if (err != -EINPROGRESS)
		return err;
	req->key = *k;
	req->page = page;
	req->direct = *direct;
	req->in_place = false;
	req->start_ns = now_ns(e);
	req->deadline_ns =
		req->start_ns +
		(e->seg[loc_row(loc)].persistent || e->cfg.cache_timeout_ns > e->cfg.get_timeout_ns
				? e->cfg.get_timeout_ns
				: e->cfg.cache_timeout_ns);
	req->loc = loc;
	req->tier = ENGINE_TIER_LOCAL;
	req->tried = 0;
	req_list_push(&e->plug, req, REQ_PLUG);
	return -EINPROGRESS;
}

unsigned engine_gets_in_flight(const struct engine *e)
{
	return e->fetch_count_active;
}

/* ---- holders ---- */

bool holder_reachable(struct engine *e, uint64_t holder, unsigned which)
{
	if (!(holder & HOLDER_VALID))
		return false;
	return which == DISK_HOLDER || region_donor(e, holder_region(holder))->up;
}

void holder_io(struct engine *e, struct engine_io *io, uint64_t holder, unsigned which,
	uint32_t off, uint32_t len)
{
	uint64_t at = (uint64_t)holder_slot(holder) * e->cfg.segment_bytes;

	if (which == DISK_HOLDER) {
		io->region = NULL;
		io->offset = at + (off & ~4095u);
		io->len = ((off + len + 4095u) & ~4095u) - (off & ~4095u);
	} else {
		io->region = &e->region[holder_region(holder)].desc;
		io->offset = at + off;
		io->len = len;
	}
}

/* The last copy is never dropped on a bad read: the next read may find it whole. */
void holder_bad(struct engine *e, uint32_t row, unsigned which, uint64_t holder)
{
	unsigned others = e->seg[row].local ? 1 : 0;

	if (e->seg[row].holder[which] != holder)
		return;
	stat_add(&e->stats.records_corrupt, 1);
	if (which != DISK_HOLDER)
		e->ops.donor_bad_data(e->ops_ctx, e->region[holder_region(holder)].desc.donor);
	if (!e->seg[row].persistent)
		return; /* the pages that were wrong go, one by one */
	for (unsigned i = 0; i < HOLDERS; i++)
		if (i != which && (e->seg[row].holder[i] & HOLDER_VALID))
			others++;
	if (others == 0)
		return;
	seg_holder_clear(e, row, which);
	seg_short_set(e, row, true);
	e->repair_at_ns = 0;
}

/* A donor that does not answer may not take all reads that can be in flight. */
static bool donor_may_read(const struct engine *e, const struct donor_vol *d)
{
	return d->late < (e->cfg.fetches + 3) / 4;
}

/* The next holder to ask: reachable and not asked yet; donors that answer in time first, then those
 * that are suspect or late, then the disk. */
static unsigned fetch_next_holder(struct engine *e, const struct fetch *f)
{
	unsigned best = HOLDERS, best_rank = 0;
	unsigned start = (unsigned)(env_random(&e->env) % ENGINE_MAX_COPIES);

	for (unsigned n = 0; n < HOLDERS; n++) {
		unsigned i = n < DISK_HOLDER ? (start + n) % ENGINE_MAX_COPIES : DISK_HOLDER;
		uint64_t h = e->seg[f->row].holder[i];

		if ((f->tried >> i & 1) || !holder_reachable(e, h, i))
			continue;
		struct donor_vol *d = i == DISK_HOLDER ? NULL : region_donor(e, holder_region(h));

		if (d && !donor_may_read(e, d))
			continue;
		unsigned rank = !d ? 1 : d->suspect || d->late ? 2 : 3;

		if (rank > best_rank) {
			best_rank = rank;
			best = i;
		}
	}
	return best;
}

/* ---- fetches ---- */

static void attempt_done(struct engine_io *io, int status);

/* Asks the next holder; false: there is none to ask. */
static bool fetch_attempt(struct engine *e, struct fetch *f)
{
	struct attempt *a = f->attempt[0].active ? &f->attempt[1] : &f->attempt[0];
	unsigned which;

	while ((which = fetch_next_holder(e, f)) < HOLDERS) {
		f->tried |= (uint8_t)(1u << which);
		a->which = (uint8_t)which;
		a->holder = e->seg[f->row].holder[which];
		a->bare = f->bare && which != DISK_HOLDER;
		if (a->bare)
			holder_io(e, &a->io, a->holder, which, f->off + RECORD_HEADER_BYTES,
				ENGINE_PAGE_BYTES);
		else
			holder_io(e, &a->io, a->holder, which, f->off, f->len);
		a->io.done = attempt_done;
		a->io.background = false;
		a->data = a->buf + (which == DISK_HOLDER ? f->off & 4095u : 0) +
			  (a->bare ? BARE_AT - RECORD_HEADER_BYTES : 0);
		int err = direct_read(e, f, a);

		if (err == -EOPNOTSUPP) {
			a->io.buf = a->buf + (a->bare ? BARE_AT : 0);
			a->io.memory = NULL;
			err = e->ops.io_read(e->ops_ctx, &a->io);
		}
		if (err == -EAGAIN)
			e->get_busy = true;
		if (err == 0) {
			a->active = true;
			a->donor = which == DISK_HOLDER ? 0 : a->io.region->donor;
			stat_add(&e->stats.reads_posted, 1);
			stat_add(&e->stats.reads_bare, a->bare);
			stat_add(which == DISK_HOLDER ? &e->stats.bytes_read_disk
						      : &e->stats.bytes_read_remote,
				a->io.len);
			return true;
		}
	}
	return false;
}

/* Nobody is left to ask: its requests wait and try again, or fail when that is no use. */
static void fetch_fail(struct engine *e, struct fetch *f)
{
	struct req_list reqs;
	struct engine_req *r;
	uint8_t valid = 0;
	bool busy = e->get_busy, reachable = e->seg[f->row].persistent;

	for (unsigned i = 0; i < HOLDERS; i++) {
		valid |= (uint8_t)((e->seg[f->row].holder[i] >> 63) << i);
		reachable |= holder_reachable(e, e->seg[f->row].holder[i], i);
	}
	bool wrong = (f->errors & valid) == valid;

	req_list_take(&reqs, &f->reqs);
	e->get_busy = false;
	fetch_give_back(e, f);
	e->get_busy = busy;
	/* Never put off: others may wait for that time already. */
	if (e->get_retry_ns <= now_ns(e))
		e->get_retry_ns = now_ns(e) + RETRY_NS;
	while ((r = req_list_pop(&reqs))) {
		if ((valid && !reachable) || (wrong && ++r->tried >= ROUNDS_MAX))
			fetch_req_done(e, r, -EIO);
		else
			req_list_push(&e->get_wait, r, REQ_GET_WAIT);
	}
}

/* Delivers what verifies; what does not stays with the fetch. True: something did not verify. */
static bool fetch_deliver(struct engine *e, struct fetch *f, const struct attempt *a)
{
	uint64_t seq = e->seg[f->row].seq;
	struct req_list reqs;
	struct engine_req *r;
	bool bad = false;

	req_list_take(&reqs, &f->reqs);
	while ((r = req_list_pop(&reqs))) {
		struct record_header *h =
			(struct record_header *)(a->data + (loc_off(r->loc) - f->off));

		if (a->bare)
			*h = record_raw_header(&r->key, seq, f->checksum);
		if (record_deliver(e, h, seq, loc_len(r->loc), &r->key, r->page) != 0) {
			req_list_push(&f->reqs, r, REQ_FETCH);
			bad = true;
			continue;
		}
		sums_put(e, loc_off(r->loc), h);
		if (!e->seg[f->row].persistent)
			ephemeral_was_read(e, r, h);
		if (f->direct) {
			direct_hold(f, r, a);
			continue;
		}
		stat_add(a->which == DISK_HOLDER ? &e->stats.gets_disk : &e->stats.gets_remote, 1);
		r->tier = a->which == DISK_HOLDER ? ENGINE_TIER_DISK : ENGINE_TIER_REMOTE;
		fetch_req_done(e, r, 0);
	}
	return bad;
}

static void attempt_done(struct engine_io *io, int status)
{
	struct attempt *a = container_of(io, struct attempt, io);
	struct engine *e = a->engine;
	struct fetch *f = a->fetch;

	a->active = false;
	if (a->late)
		e->donor[a->donor].late--;
	a->late = false;
	if (status) {
		stat_add(&e->stats.reads_failed, 1);
		if (status == -EREMOTEIO)
			f->errors |= (uint8_t)(1u << a->which);
	}
	if (f->direct == a) {
		direct_end(e, f, status);
	} else if (!status && fetch_deliver(e, f, a)) {
		f->errors |= (uint8_t)(1u << a->which);
		holder_bad(e, f->row, a->which, a->holder);
	}
	if (f->attempt[0].active || f->attempt[1].active)
		return;
	if (!f->reqs.head)
		fetch_give_back(e, f);
	else if (fetch_attempt(e, f))
		e->ops.io_kick(e->ops_ctx);
	else
		fetch_fail(e, f);
}

/* False: every fetch is under way. */
static bool fetch_start(struct engine *e, struct engine_req **run, unsigned n, uint32_t len)
{
	struct fetch *f = fetch_take(e);

	if (!f)
		return false;
	f->row = loc_row(run[0]->loc);
	f->off = loc_off(run[0]->loc);
	f->len = len;
	f->tried = f->errors = 0;
	f->bare = n == 1 && len == RECORD_MAX_BYTES &&
		  sums_find(e, e->seg[f->row].seq, f->off, &f->checksum);
	f->hedged = false;
	f->posted_ns = now_ns(e);
	seg_pin(e, f->row);
	for (unsigned i = 0; i < n; i++) {
		run[i]->fetch[0] = f;
		req_list_push(&f->reqs, run[i], REQ_FETCH);
	}
	stat_add(&e->stats.reads_merged, n - 1);
	if (!fetch_attempt(e, f))
		fetch_fail(e, f);
	return true;
}

static bool req_before(const struct engine_req *a, const struct engine_req *b)
{
	return loc_row(a->loc) != loc_row(b->loc) ? loc_row(a->loc) < loc_row(b->loc)
						  : loc_off(a->loc) < loc_off(b->loc);
}

/* Takes plugged requests, in the order of their records; those that memory can answer by now are
 * done. */
static unsigned plug_take(struct engine *e, struct engine_req **batch)
{
	struct engine_req *r;
	unsigned n = 0;

	while (n < KICK_BATCH && (r = req_list_pop(&e->plug))) {
		int err = fetch_lookup(e, &r->key, r->page, &r->loc);

		if (err != -EINPROGRESS) {
			fetch_req_done(e, r, err);
			continue;
		}
		unsigned i = n++;

		for (; i > 0 && req_before(r, batch[i - 1]); i--)
			batch[i] = batch[i - 1];
		batch[i] = r;
	}
	return n;
}

/* What finds no fetch stays plugged until one is given back. */
void fetch_kick(struct engine *e)
{
	struct engine_req *batch[KICK_BATCH];
	uint64_t checksum;

	while (e->plug.head && e->fetch_free) {
		unsigned n = plug_take(e, batch), i = 0;

		while (i < n) {
			uint32_t off = loc_off(batch[i]->loc), end = off + loc_len(batch[i]->loc);
			unsigned j = i + 1;

			bool alone = direct_is_meant(e, batch[i], &checksum);

			for (; j < n && !alone && loc_row(batch[j]->loc) == loc_row(batch[i]->loc);
				j++) {
				uint32_t o = loc_off(batch[j]->loc), l = loc_len(batch[j]->loc);

				if (direct_is_meant(e, batch[j], &checksum) ||
					o > end + MERGE_GAP_BYTES || o + l - off > FETCH_BYTES)
					break;
				if (o + l > end)
					end = o + l;
			}
			if (!fetch_start(e, batch + i, j - i, end - off))
				break;
			i = j;
		}
		while (n > i)
			req_list_push_front(&e->plug, batch[--n], REQ_PLUG);
	}
	e->ops.io_kick(e->ops_ctx);
}

void engine_kick(struct engine *e)
{
	if (e->plug.head)
		fetch_kick(e);
}

/* ---- time ---- */

static void list_expire(struct engine *e, struct req_list *l, uint64_t now)
{
	struct engine_req *r, *next;
	struct req_list over;

	/* done() may start others and so change the list. */
	req_list_init(&over);
	for (r = l->head; r; r = next) {
		next = r->next;
		if (now < r->deadline_ns)
			continue;
		req_unlink(l, r);
		req_list_push(&over, r, REQ_GET_WAIT);
	}
	while ((r = req_list_pop(&over)))
		fetch_req_done(e, r, -ETIMEDOUT);
}

/* What is late counts against its donor, and the next holder is asked too. */
static void fetch_late(struct engine *e, struct fetch *f)
{
	for (unsigned i = 0; i < 2; i++) {
		struct attempt *a = &f->attempt[i];

		if (a->active && a->which != DISK_HOLDER && !a->late) {
			a->late = true;
			e->donor[a->donor].late++;
		}
	}
	if (e->cfg.hedge_ns && f->attempt[0].active != f->attempt[1].active && f->reqs.head &&
		fetch_attempt(e, f))
		stat_add(&e->stats.reads_hedged, 1);
}

static void fetch_hedge(struct engine *e, uint64_t now, uint64_t *wake)
{
	uint64_t late_ns = e->cfg.hedge_ns ? e->cfg.hedge_ns : LATE_NS;

	for (struct fetch *f = e->fetch_active; f; f = f->next) {
		direct_tick(e, f, now, wake);
		if (f->hedged)
			continue;
		if (now < f->posted_ns + late_ns) {
			if (f->posted_ns + late_ns < *wake)
				*wake = f->posted_ns + late_ns;
			return;
		}
		f->hedged = true;
		fetch_late(e, f);
	}
}

void fetch_tick(struct engine *e, uint64_t now, uint64_t *wake)
{
	if (!e->fetch_active && !e->get_wait.head && !e->plug.head)
		return;
	fetch_hedge(e, now, wake);
	if (now >= e->get_retry_ns) {
		struct req_list again;
		struct engine_req *r;

		e->get_retry_ns = now + RETRY_NS;
		for (struct fetch *f = e->fetch_active; f; f = f->next)
			if (!f->direct)
				list_expire(e, &f->reqs, now);
		list_expire(e, &e->get_wait, now);
		list_expire(e, &e->plug, now);
		req_list_take(&again, &e->get_wait);
		while ((r = req_list_pop(&again)))
			req_list_push(&e->plug, r, REQ_PLUG);
	}
	fetch_kick(e);
	if (e->get_retry_ns < *wake)
		*wake = e->get_retry_ns;
}
