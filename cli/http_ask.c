/* One question to the daemon's HTTP, over a unix socket or TCP, with a limit on everything. */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/cli.h"

#define LIMIT_S	     10
#define ANSWER_BYTES (16u << 20)

static int limits_set(int fd)
{
	struct timeval tv = {.tv_sec = LIMIT_S};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	return fd;
}

static int connect_unix(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	memcpy(a.sun_path, path, strlen(path));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	limits_set(fd);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		int r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

/* authority: "host:port", "[::1]:port" or a host alone. */
static int connect_tcp(const char *authority)
{
	char host[256], port[16] = "80";
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list, *a;
	const char *colon = strrchr(authority, ':'), *end = authority + strlen(authority);
	int r = -ECONNREFUSED;

	if (colon && strchr(colon, ']'))
		colon = NULL;
	if (colon) {
		snprintf(port, sizeof(port), "%s", colon + 1);
		end = colon;
	}
	if (authority[0] == '[' && end > authority + 1 && end[-1] == ']') {
		authority++;
		end--;
	}
	snprintf(host, sizeof(host), "%.*s", (int)(end - authority), authority);
	if (getaddrinfo(host, port, &hints, &list))
		return -EHOSTUNREACH;
	for (a = list; a; a = a->ai_next) {
		int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);

		if (fd < 0)
			continue;
		limits_set(fd);
		if (!connect(fd, a->ai_addr, a->ai_addrlen)) {
			freeaddrinfo(list);
			return fd;
		}
		r = -errno;
		close(fd);
	}
	freeaddrinfo(list);
	return r;
}

static int request_send(
	int fd, const char *host, const char *method, const char *path, const char *body)
{
	char text[8192];
	int n = snprintf(text, sizeof(text),
		"%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nAccept: "
		"application/json\r\nContent-Length: %zu\r\n\r\n%s",
		method, path, host, strlen(body), body);

	if (n >= (int)sizeof(text))
		return -E2BIG;

	for (int done = 0; done < n;) {
		ssize_t w = send(fd, text + done, (size_t)(n - done), MSG_NOSIGNAL);

		if (w <= 0)
			return w < 0 ? -errno : -EIO;
		done += (int)w;
	}
	return 0;
}

/* Everything until the end of the connection, NUL-terminated. */
static int answer_read(int fd, char **out)
{
	size_t room = 65536, len = 0;
	char *text = malloc(room);

	while (text) {
		ssize_t n = recv(fd, text + len, room - len - 1, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int r = errno == EAGAIN ? -ETIMEDOUT : -errno;
			free(text);
			return r;
		}
		len += (size_t)n;
		if (!n) {
			text[len] = 0;
			*out = text;
			return 0;
		}
		if (len + 1 < room)
			continue;
		char *grown = room < ANSWER_BYTES ? realloc(text, room * 2) : NULL;
		if (!grown)
			free(text);
		text = grown;
		room *= 2;
	}
	return -ENOMEM;
}

static json_t *answer_parse(const char *where, char *text, int *answer)
{
	int code = 0;
	json_error_t error;
	char *body = strstr(text, "\r\n\r\n");

	if (sscanf(text, "HTTP/1.%*d %d", &code) != 1 || !body) {
		fprintf(stderr, "fallow: %s does not speak HTTP: is it fallowd's http socket?\n",
			where);
		return NULL;
	}
	json_t *json = json_loads(body + 4, 0, &error);
	const char *why = json_string_value(json_object_get(json, "error"));
	*answer = code;
	if ((code == 200 || code == 202) && json_is_object(json))
		return json;
	if (code != 404 || !why)
		fprintf(stderr, "fallow: %s answered %d%s%s\n", where, code, why ? ": " : "",
			why	      ? why
			: code == 200 ? " with something that is not JSON"
				      : "");
	else
		fprintf(stderr, "fallow: %s\n", why);
	json_decref(json);
	return NULL;
}

json_t *http_get_json(const char *where, const char *path)
{
	int code;

	return http_ask_json(where, "GET", path, "", &code);
}

json_t *http_ask_json(
	const char *where, const char *method, const char *path, const char *body, int *code)
{
	bool tcp = !strncmp(where, "http://", 7);
	char authority[300] = "localhost", *text = NULL;

	*code = 0;
	if (tcp)
		snprintf(authority, sizeof(authority), "%.*s", (int)strcspn(where + 7, "/"),
			where + 7);
	else if (where[0] != '/' && where[0] != '.') {
		fprintf(stderr,
			"fallow: --http %s: give the path of a unix socket or http://HOST:PORT\n",
			where);
		return NULL;
	}
	int fd = tcp ? connect_tcp(authority) : connect_unix(where);
	int r = fd < 0 ? fd : request_send(fd, authority, method, path, body);
	if (!r)
		r = answer_read(fd, &text);
	if (fd >= 0)
		close(fd);
	if (r < 0) {
		fprintf(stderr, "fallow: cannot ask fallowd at %s: %s%s\n", where,
			r == -EINPROGRESS ? "timed out" : strerror(-r),
			r == -ECONNREFUSED || r == -ENOENT ? " (is it running? --http tells where)"
							   : "");
		return NULL;
	}
	json_t *json = answer_parse(where, text, code);
	free(text);
	return json;
}
