/* An image in memory that ends its ios when the test wants, in any order, well or not. */
#ifndef FALLOW_TESTS_DISKS_FAKE_IMAGE_H
#define FALLOW_TESTS_DISKS_FAKE_IMAGE_H

#include "client-backend/image/image.h"

#define FAKE_MAX_LANES 4u

struct fake_image {
	struct image head; /* first */
	uint8_t *bytes;
	bool hold, hold_sync;	     /* ios wait; those of IMAGE_SYNC do */
	int status[4];		     /* what ios of an op end with */
	_Atomic unsigned started[4]; /* ios of an op */
	uint64_t *rnd;		     /* not NULL: ios end late and out of order */
	struct fake_lane {
		struct image_source source;
		struct fake_image *image;
		struct image_lane *lane;
		struct image_io *queue; /* newest first */
	} lane[FAKE_MAX_LANES];
};

struct fake_image *fake_image_new(uint64_t bytes);
void fake_image_delete(struct fake_image *f);
/* What a kill leaves: ios that have not ended come to pass or not, as *rnd says (NULL: none does).
 */
void fake_image_kill(struct fake_image *f, uint64_t *rnd);
/* Ios that have not ended. */
unsigned fake_image_waiting(const struct fake_image *f);

#endif
