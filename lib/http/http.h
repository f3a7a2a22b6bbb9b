/* A daemon's HTTP: a table of routes, on an address and on a unix socket, with JSON and text
 * replies. */
#ifndef FALLOW_HTTP_HTTP_H
#define FALLOW_HTTP_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <event2/buffer.h>
#include <event2/event.h>
#include <jansson.h>

#include "lib/core/stats.h"

/* All functions are for the thread of the event base; none blocks. */
struct http_server;
struct http_request; /* valid during its handler */

enum http_method {
	HTTP_GET = 1u << 0,
	HTTP_POST = 1u << 1,
	HTTP_PUT = 1u << 2,
	HTTP_DELETE = 1u << 3
};

struct http_route {
	const char *path;   /* "/metrics"; with a final star all paths that start so */
	unsigned methods;   /* enum http_method bits; GET includes HEAD */
	unsigned unix_only; /* of these methods: refused (403) on the address, they change something
			     */
	/* Must reply exactly once before it returns. */
	void (*handle)(void *ctx, struct http_request *r);
};

struct http_stats {
	stat_t requests;
	stat_t refused; /* replied with 4xx or 5xx */
};

/* routes ends with a NULL path and, like ctx, must outlive the server. -ENOMEM. */
int http_server_new(struct event_base *base, const struct http_route *routes, void *ctx,
	struct http_server **out);
/*
 * Listens on "127.0.0.1:9100", "[::1]:9100" or any other numeric address; port 0: any free one.
 * *port (may be NULL) gets the port. -EINVAL, -EADDRINUSE, ...; err gets one sentence.
 */
int http_server_listen(
	struct http_server *s, const char *address, uint16_t *port, char *err, size_t err_bytes);
/* Listens on a unix socket with these permission bits; a socket that nobody listens on any more is
 * replaced, a live one is -EADDRINUSE. It is removed at the end. Once for each server. */
int http_server_listen_unix(
	struct http_server *s, const char *path, unsigned mode, char *err, size_t err_bytes);
void http_server_delete(struct http_server *s); /* NULL is allowed */
const struct http_stats *http_server_stats(const struct http_server *s);

/* What was asked for. */
enum http_method http_request_method(const struct http_request *r);
const char *http_request_path(const struct http_request *r); /* decoded, without the query */
/* The value of a query parameter, decoded; NULL: not given. Valid during the handler. */
const char *http_request_query(const struct http_request *r, const char *key);
/* The body (at most 64 KiB) as JSON, to be freed by the caller; NULL with a sentence in err. */
json_t *http_request_json(struct http_request *r, char *err, size_t err_bytes);

/* Replies. */
void http_reply_text(struct http_request *r, int code, const char *content_type, const char *text);
void http_reply_buffer(struct http_request *r, int code, const char *content_type,
	struct evbuffer *body); /* body is drained, not freed */
void http_reply_json(
	struct http_request *r, int code, json_t *body); /* takes the reference; NULL: 500 */
/* {"error": "..."} */
void http_reply_error(struct http_request *r, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
