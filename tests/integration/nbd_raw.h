/* A raw NBD client for tests: what to send is up to the caller, right or wrong. */
#ifndef FALLOW_TESTS_NBD_RAW_H
#define FALLOW_TESTS_NBD_RAW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client-backend/frontend/nbd_proto.h"

#define RAW_LIMIT_MS 120000 /* for any single wait */

/* A connection to a unix socket that has read the greeting; -1: nobody answers there. */
int raw_connect(const char *path);
/* All of it, or false: the other end has gone. */
bool raw_send(int fd, const void *from, size_t bytes);
bool raw_recv(int fd, void *to, size_t bytes);
/* True: the other end closes without a word, within the limit. */
bool raw_closed(int fd);

/* The client's flags. */
bool raw_flags(int fd, uint32_t flags);
bool raw_option(int fd, uint32_t option, const void *data, uint32_t bytes);
/* The last reply to it, after what informs; its data is thrown away. 0: closed. */
uint32_t raw_option_reply(int fd, uint32_t option);
/* NBD_OPT_INFO or _GO of the export. */
bool raw_go(int fd, uint32_t option, const char *name);
/* All of the negotiation: ready for commands, or -1. */
int raw_open(const char *path);

bool raw_command(
	int fd, unsigned type, unsigned flags, uint64_t cookie, uint64_t offset, uint32_t bytes);
/* The head of the next answer. */
bool raw_answer(int fd, uint64_t *cookie, uint32_t *error);

#endif
