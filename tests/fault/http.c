/* What the daemons say over the HTTP of their unix sockets. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/fault/site.h"

#define ANSWER_BYTES (1u << 20)

/* The answer's body, NUL-terminated, in a static buffer; NULL: none with status 200. */
static char *body_get(const char *path_of_socket, const char *path)
{
	static char answer[ANSWER_BYTES];
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = 2};
	char request[256];
	size_t got = 0;
	ssize_t n;

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path_of_socket);
	int len = snprintf(request, sizeof(request), "GET %s HTTP/1.0\r\n\r\n", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return NULL;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) ||
		send(fd, request, (size_t)len, MSG_NOSIGNAL) != len) {
		close(fd);
		return NULL;
	}
	while (got < sizeof(answer) - 1 &&
		(n = recv(fd, answer + got, sizeof(answer) - 1 - got, 0)) > 0)
		got += (size_t)n;
	close(fd);
	answer[got] = '\0';
	char *body = strstr(answer, "\r\n\r\n");
	return body && strstr(answer, " 200 ") == strchr(answer, ' ') ? body + 4 : NULL;
}

json_t *http_json(const char *socket, const char *path)
{
	const char *body = body_get(socket, path);

	return body ? json_loads(body, 0, NULL) : NULL;
}

double http_metric(const char *socket, const char *sample)
{
	char *line = body_get(socket, "/metrics");
	double sum = 0;

	if (!line)
		return -1;
	for (char *rest; line && *line; line = rest) {
		rest = strchr(line, '\n');
		if (rest)
			*rest++ = '\0';
		if (!strncmp(line, sample, strlen(sample)) && strrchr(line, ' '))
			sum += strtod(strrchr(line, ' '), NULL);
	}
	return sum;
}
