/* A daemon's HTTP: a table of routes, on an address and on a unix socket, with JSON and text
 * replies. */
#include "lib/http/http.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>

#include "lib/core/unix_socket.h"

#define HEADERS_MAX_BYTES 16384
#define BODY_MAX_BYTES	  65536
#define TIMEOUT_S	  10

struct http_server {
	struct event_base *base;
	struct evhttp *http;	  /* on addresses */
	struct evhttp *http_unix; /* on the unix socket */
	const struct http_route *routes;
	void *ctx;
	char unix_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	struct http_stats stats;
};

struct http_request {
	struct http_server *server;
	struct evhttp_request *req;
	enum http_method method;
	char *path;
	struct evkeyvalq query;
	bool replied;
};

static void server_handle(struct http_server *s, struct evhttp_request *req, bool from_unix);

static void handle_address(struct evhttp_request *req, void *arg)
{
	server_handle(arg, req, false);
}

static void handle_unix(struct evhttp_request *req, void *arg)
{
	server_handle(arg, req, true);
}

static struct evhttp *evhttp_make(
	struct http_server *s, void (*cb)(struct evhttp_request *req, void *arg))
{
	struct evhttp *h = evhttp_new(s->base);

	if (!h)
		return NULL;
	evhttp_set_max_headers_size(h, HEADERS_MAX_BYTES);
	evhttp_set_max_body_size(h, BODY_MAX_BYTES);
	evhttp_set_timeout(h, TIMEOUT_S);
	evhttp_set_allowed_methods(h, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD | EVHTTP_REQ_POST |
					      EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE);
	evhttp_set_gencb(h, cb, s);
	return h;
}

int http_server_new(struct event_base *base, const struct http_route *routes, void *ctx,
	struct http_server **out)
{
	struct http_server *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->base = base;
	s->routes = routes;
	s->ctx = ctx;
	s->http = evhttp_make(s, handle_address);
	s->http_unix = evhttp_make(s, handle_unix);
	if (!s->http || !s->http_unix) {
		http_server_delete(s);
		return -ENOMEM;
	}
	*out = s;
	return 0;
}

void http_server_delete(struct http_server *s)
{
	if (!s)
		return;
	if (s->unix_path[0])
		unlink(s->unix_path);
	if (s->http)
		evhttp_free(s->http);
	if (s->http_unix)
		evhttp_free(s->http_unix);
	free(s);
}

const struct http_stats *http_server_stats(const struct http_server *s)
{
	return &s->stats;
}

static int bind_failed(int rc, const char *where, char *err, size_t err_bytes)
{
	snprintf(err, err_bytes, "cannot listen on %s: %s", where, strerror(-rc));
	return rc;
}

static int server_bind(
	struct http_server *s, struct evhttp *h, struct sockaddr *sa, int len, evutil_socket_t *fd)
{
	errno = 0;
	struct evconnlistener *l = evconnlistener_new_bind(s->base, NULL, NULL,
		LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE, 64, sa, len);
	if (!l)
		return errno ? -errno : -ENOMEM;
	if (!evhttp_bind_listener(h, l)) {
		evconnlistener_free(l);
		return -ENOMEM;
	}
	*fd = evconnlistener_get_fd(l);
	return 0;
}

int http_server_listen(
	struct http_server *s, const char *address, uint16_t *port, char *err, size_t err_bytes)
{
	struct sockaddr_storage ss;
	int len = sizeof(ss);
	evutil_socket_t fd;

	memset(&ss, 0, sizeof(ss));
	if (!strrchr(address, ':') ||
		evutil_parse_sockaddr_port(address, (struct sockaddr *)&ss, &len))
		return bind_failed(-EINVAL, address, err, err_bytes);
	int rc = server_bind(s, s->http, (struct sockaddr *)&ss, len, &fd);
	if (rc)
		return bind_failed(rc, address, err, err_bytes);
	socklen_t slen = sizeof(ss);
	if (port && !getsockname(fd, (struct sockaddr *)&ss, &slen))
		*port = ntohs(ss.ss_family == AF_INET ? ((struct sockaddr_in *)&ss)->sin_port
						      : ((struct sockaddr_in6 *)&ss)->sin6_port);
	return 0;
}

int http_server_listen_unix(
	struct http_server *s, const char *path, unsigned mode, char *err, size_t err_bytes)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	evutil_socket_t fd;

	if (strlen(path) >= sizeof(un.sun_path))
		return bind_failed(-ENAMETOOLONG, path, err, err_bytes);
	if (s->unix_path[0])
		return bind_failed(-EALREADY, path, err, err_bytes);
	memcpy(un.sun_path, path, strlen(path) + 1);
	int rc = unix_socket_stale_remove(&un);
	if (rc)
		return bind_failed(rc, path, err, err_bytes);
	mode_t old = umask(0777);
	rc = server_bind(s, s->http_unix, (struct sockaddr *)&un, sizeof(un), &fd);
	umask(old);
	if (rc)
		return bind_failed(rc, path, err, err_bytes);
	memcpy(s->unix_path, un.sun_path, sizeof(s->unix_path));
	if (chmod(path, mode))
		return bind_failed(-errno, path, err, err_bytes);
	return 0;
}

static bool route_matches(const struct http_route *route, const char *path)
{
	size_t len = strlen(route->path);

	if (len && route->path[len - 1] == '*')
		return !strncmp(route->path, path, len - 1);
	return !strcmp(route->path, path);
}

static const struct http_route *route_find(const struct http_server *s, const char *path)
{
	for (const struct http_route *r = s->routes; r->path; r++) {
		if (route_matches(r, path))
			return r;
	}
	return NULL;
}

static bool request_method(const struct evhttp_request *req, enum http_method *out)
{
	switch (evhttp_request_get_command(req)) {
	case EVHTTP_REQ_GET:
	case EVHTTP_REQ_HEAD:
		*out = HTTP_GET;
		return true;
	case EVHTTP_REQ_POST:
		*out = HTTP_POST;
		return true;
	case EVHTTP_REQ_PUT:
		*out = HTTP_PUT;
		return true;
	case EVHTTP_REQ_DELETE:
		*out = HTTP_DELETE;
		return true;
	default:
		return false;
	}
}

static void request_route(struct http_request *r, bool from_unix)
{
	const struct http_route *route = route_find(r->server, r->path);

	if (!route)
		http_reply_error(r, 404, "no such path: %.200s", r->path);
	else if (!request_method(r->req, &r->method) || !(route->methods & r->method))
		http_reply_error(r, 405, "method not allowed for %s", route->path);
	else if ((route->unix_only & r->method) && !from_unix)
		http_reply_error(r, 403, "this is served on the unix socket only: %s", route->path);
	else
		route->handle(r->server->ctx, r);
	if (!r->replied)
		http_reply_error(r, 500, "no answer");
}

static void server_handle(struct http_server *s, struct evhttp_request *req, bool from_unix)
{
	const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
	const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
	const char *query = uri ? evhttp_uri_get_query(uri) : NULL;
	struct http_request r = {.server = s, .req = req};

	stat_add(&s->stats.requests, 1);
	TAILQ_INIT(&r.query);
	r.path = evhttp_uridecode(path && path[0] ? path : "/", 0, NULL);
	if (!r.path)
		http_reply_error(&r, 500, "out of memory");
	else if (query && evhttp_parse_query_str(query, &r.query))
		http_reply_error(&r, 400, "the query is malformed");
	else
		request_route(&r, from_unix);
	evhttp_clear_headers(&r.query);
	free(r.path);
}

enum http_method http_request_method(const struct http_request *r)
{
	return r->method;
}

const char *http_request_path(const struct http_request *r)
{
	return r->path;
}

const char *http_request_query(const struct http_request *r, const char *key)
{
	return evhttp_find_header(&r->query, key);
}

json_t *http_request_json(struct http_request *r, char *err, size_t err_bytes)
{
	struct evbuffer *in = evhttp_request_get_input_buffer(r->req);
	size_t len = evbuffer_get_length(in);
	const char *text = (const char *)evbuffer_pullup(in, -1);
	json_error_t je;

	json_t *j = json_loadb(text ? text : "", text ? len : 0, JSON_REJECT_DUPLICATES, &je);
	if (!j)
		snprintf(err, err_bytes, "line %d: %s", je.line, je.text);
	return j;
}

static const char *code_reason(int code)
{
	switch (code) {
	case 200:
		return "OK";
	case 202:
		return "Accepted";
	case 400:
		return "Bad Request";
	case 403:
		return "Forbidden";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 409:
		return "Conflict";
	case 503:
		return "Service Unavailable";
	default:
		return code < 400 ? "OK" : "Error";
	}
}

void http_reply_buffer(
	struct http_request *r, int code, const char *content_type, struct evbuffer *body)
{
	if (r->replied)
		return;
	r->replied = true;
	if (code >= 400)
		stat_add(&r->server->stats.refused, 1);
	struct evkeyvalq *out = evhttp_request_get_output_headers(r->req);
	evhttp_add_header(out, "Content-Type", content_type);
	evhttp_add_header(out, "Cache-Control", "no-store");
	evhttp_add_header(out, "X-Content-Type-Options", "nosniff");
	evhttp_send_reply(r->req, code, code_reason(code), body);
}

void http_reply_text(struct http_request *r, int code, const char *content_type, const char *text)
{
	struct evbuffer *body = evbuffer_new();

	if (body)
		evbuffer_add(body, text, strlen(text));
	http_reply_buffer(r, body ? code : 500, content_type, body);
	if (body)
		evbuffer_free(body);
}

void http_reply_json(struct http_request *r, int code, json_t *j)
{
	char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;

	if (text)
		http_reply_text(r, code, "application/json", text);
	else
		http_reply_text(r, 500, "application/json", "{\"error\":\"out of memory\"}");
	free(text);
	json_decref(j);
}

void http_reply_error(struct http_request *r, int code, const char *format, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	json_t *j = json_object();
	if (json_object_set_new(j, "error", json_string(text)))
		json_object_set_new(j, "error", json_string("(not printable)"));
	http_reply_json(r, code, j);
}
