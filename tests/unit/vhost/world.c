/* What most tests of a device start with: one on a disk in memory, and a front end for it. */
#include "tests/unit/vhost/world.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/must.h"

struct world *world_new(unsigned rings, uint32_t drain_timeout_ms)
{
	struct world *w = calloc(1, sizeof(*w));

	MUST(w);
	snprintf(w->file, sizeof(w->file), "/tmp/fallow-vhost-%d.sock", (int)getpid());
	ramdisk_init(&w->disk, 2, rings);
	backend_start(&w->backend, w->file, &w->disk, drain_timeout_ms);
	w->socket_fd = open(w->file, O_PATH | O_CLOEXEC);
	MUST(w->socket_fd >= 0 && unlink(w->file) == 0);
	snprintf(w->path, sizeof(w->path), "/proc/self/fd/%d", w->socket_fd);
	client_init(&w->client, rings);
	return w;
}

void world_delete(struct world *w)
{
	client_fini(&w->client);
	backend_stop(&w->backend);
	close(w->socket_fd);
	ramdisk_fini(&w->disk);
	MUST(access(w->file, F_OK) < 0);
	free(w);
}
