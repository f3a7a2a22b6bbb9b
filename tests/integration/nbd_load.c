/* Clients of a disk served by NBD: random commands of all kinds, checked against what they should
 * yield; a lost connection is made again and what was not answered is sent again. */
#include <endian.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/integration/nbd_raw.h"

#define SECTOR	    512u
#define MAX_SECTORS 128u
#define BATCH	    16u
#define MAX_CONNS   16u
#define CONNECT_MS  120000u

struct command {
	uint16_t type, flags;
	uint32_t first, count; /* sectors of the slice */
	uint32_t version;      /* of a write */
	bool answered;
};

/* Each has a slice of the disk and a connection of its own. */
struct client {
	pthread_t thread;
	const char *path, *stop;
	uint64_t seed, offset; /* bytes on the disk */
	uint32_t sectors, *version;
	uint64_t commands, errors, wrong, reconnects;
	int fd;
	uint8_t *buffer;
};

static uint64_t draw(uint64_t *x)
{
	*x += 0x9e3779b97f4a7c15ull;
	uint64_t z = (*x ^ *x >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* Version 0 is zeros. Half of the words are the same, so that some of it compresses. */
static void sector_fill(
	const struct client *c, uint32_t sector, uint32_t version, uint64_t word[SECTOR / 8])
{
	uint64_t x = c->offset + (uint64_t)sector * SECTOR + version;

	for (unsigned i = 0; i < SECTOR / 8; i++)
		word[i] = !version ? 0 : i & 1 ? version : draw(&x);
}

static bool reconnect(struct client *c)
{
	if (c->fd >= 0) {
		close(c->fd);
		c->reconnects++;
	}
	for (unsigned ms = 0; ms < CONNECT_MS; ms += 20) {
		c->fd = raw_open(c->path);
		if (c->fd >= 0)
			return true;
		nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	}
	fprintf(stderr, "no connection within %u ms\n", CONNECT_MS);
	return false;
}

static bool command_send(struct client *c, const struct command *m, uint64_t cookie)
{
	bool flush = m->type == NBD_CMD_FLUSH;

	if (!raw_command(c->fd, m->type, m->flags, cookie,
		    flush ? 0 : c->offset + (uint64_t)m->first * SECTOR,
		    flush ? 0 : m->count * SECTOR))
		return false;
	if (m->type != NBD_CMD_WRITE)
		return true;
	for (uint32_t i = 0; i < m->count; i++)
		sector_fill(c, m->first + i, m->version,
			(uint64_t *)(void *)(c->buffer + (size_t)i * SECTOR));
	return raw_send(c->fd, c->buffer, (size_t)m->count * SECTOR);
}

static bool answer_take(struct client *c, struct command *batch, unsigned count)
{
	uint64_t cookie, want[SECTOR / 8];
	uint32_t error;

	if (!raw_answer(c->fd, &cookie, &error))
		return false;
	if (cookie >= count || batch[cookie].answered) {
		fprintf(stderr, "an answer to nothing\n");
		c->wrong++;
		return false;
	}
	struct command *m = &batch[cookie];
	if (!error && m->type == NBD_CMD_READ) {
		if (!raw_recv(c->fd, c->buffer, (size_t)m->count * SECTOR))
			return false;
		for (uint32_t i = 0; i < m->count; i++) {
			sector_fill(c, m->first + i, c->version[m->first + i], want);
			if (memcmp(want, c->buffer + (size_t)i * SECTOR, SECTOR)) {
				fprintf(stderr, "sector %u of the slice at %llu is wrong\n",
					m->first + i, (unsigned long long)c->offset);
				c->wrong++;
			}
		}
	}
	if (error) {
		fprintf(stderr, "command %u: error %u\n", m->type, error);
		c->errors++;
	}
	m->answered = true;
	if (m->type == NBD_CMD_WRITE || m->type == NBD_CMD_TRIM || m->type == NBD_CMD_WRITE_ZEROES)
		for (uint32_t i = 0; i < m->count; i++)
			c->version[m->first + i] = m->version;
	return true;
}

/* Sends what was not answered, until all was. */
static bool batch_run(struct client *c, struct command *batch, unsigned count)
{
	unsigned left = count;

	while (left) {
		bool good = c->fd >= 0;

		for (unsigned i = 0; i < count && good; i++)
			if (!batch[i].answered)
				good = command_send(c, &batch[i], i);
		while (good && left) {
			good = answer_take(c, batch, count);
			left -= good;
		}
		if (!good && left && !reconnect(c))
			return false;
	}
	c->commands += count;
	return true;
}

/* Commands in order of place, none touching another. */
static unsigned batch_make(struct client *c, struct command batch[BATCH])
{
	static const uint16_t types[] = {NBD_CMD_READ, NBD_CMD_READ, NBD_CMD_READ, NBD_CMD_WRITE,
		NBD_CMD_WRITE, NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLUSH};
	unsigned count = 0;
	uint32_t at = (uint32_t)(draw(&c->seed) % c->sectors);

	while (count < BATCH && at < c->sectors) {
		uint64_t r = draw(&c->seed);
		struct command *m = &batch[count++];

		*m = (struct command){.type = types[r % 9], .first = at};
		m->count = r >> 8 & 1 ? 8 : 1 + (uint32_t)(r >> 16) % MAX_SECTORS;
		if (r >> 9 & 1)
			m->first = at = at & ~7u;
		if (count > 1 && at < m[-1].first + m[-1].count)
			m->first = at = m[-1].first + m[-1].count;
		if (at >= c->sectors)
			return count - 1;
		if (m->count > c->sectors - at)
			m->count = c->sectors - at;
		if (m->type == NBD_CMD_WRITE)
			m->version = 1 + (uint32_t)(r >> 32) % 1000000;
		if (m->type == NBD_CMD_WRITE && r >> 10 & 1)
			m->flags = NBD_CMD_FLAG_FUA;
		at += m->count + (uint32_t)(r >> 24) % 64;
	}
	return count;
}

static void *client_main(void *arg)
{
	struct client *c = arg;
	struct command batch[BATCH];
	bool good = reconnect(c);

	while (good && access(c->stop, F_OK)) {
		unsigned n = batch_make(c, batch);

		good = batch_run(c, batch, n);
	}
	for (uint32_t at = 0; good && at < c->sectors; at += MAX_SECTORS) {
		uint32_t left = c->sectors - at;

		batch[0] = (struct command){.type = NBD_CMD_READ,
			.first = at,
			.count = left < MAX_SECTORS ? left : MAX_SECTORS};
		good = batch_run(c, batch, 1);
	}
	if (good)
		raw_command(c->fd, NBD_CMD_DISC, 0, 0, 0, 0);
	else
		c->errors++;
	close(c->fd);
	return NULL;
}

int main(int argc, char **argv)
{
	static struct client client[MAX_CONNS];
	uint64_t commands = 0, errors = 0, wrong = 0, reconnects = 0;

	if (argc != 6) {
		fprintf(stderr, "Usage: test-nbd-load SOCKET MIB CONNECTIONS SEED STOP_FILE\n");
		return 2;
	}
	uint32_t sectors = (uint32_t)atoi(argv[2]) * 2048u;
	unsigned conns = (unsigned)atoi(argv[3]);
	uint64_t seed = strtoull(argv[4], NULL, 0);
	if (conns < 1 || conns > MAX_CONNS)
		return 2;
	for (unsigned i = 0; i < conns; i++) {
		struct client *c = &client[i];

		*c = (struct client){.path = argv[1],
			.stop = argv[5],
			.seed = seed * 1000 + i,
			.offset = (uint64_t)i * (sectors / conns) * SECTOR,
			.sectors = sectors / conns,
			.fd = -1};
		c->version = calloc(c->sectors, sizeof(uint32_t));
		c->buffer = malloc((size_t)MAX_SECTORS * SECTOR);
		if (!c->version || !c->buffer || pthread_create(&c->thread, NULL, client_main, c))
			return 1;
	}
	for (unsigned i = 0; i < conns; i++) {
		pthread_join(client[i].thread, NULL);
		commands += client[i].commands;
		errors += client[i].errors;
		wrong += client[i].wrong;
		reconnects += client[i].reconnects;
		free(client[i].version);
		free(client[i].buffer);
	}
	printf("commands=%llu errors=%llu wrong=%llu reconnects=%llu\n",
		(unsigned long long)commands, (unsigned long long)errors, (unsigned long long)wrong,
		(unsigned long long)reconnects);
	return errors || wrong;
}
