/* A plain table behind the functions of engine.h that the front end calls, with late completions.
 */
#ifndef FALLOW_TEST_FAKE_ENGINE_H
#define FALLOW_TEST_FAKE_ENGINE_H

#include "client-backend/engine/engine.h"

/* One in late_one_in puts and gets completes in a later engine_tick(); 0: none. max_pages: more are
 * refused. */
struct engine *fake_engine_new(uint64_t seed, unsigned late_one_in, uint64_t max_pages);
void fake_engine_delete(struct engine *e);
/* Late requests wait until this is false. Any thread. */
void fake_engine_hold(struct engine *e, bool hold);
/* Requests that wait. Any thread. */
unsigned fake_engine_pending(struct engine *e);

#endif
