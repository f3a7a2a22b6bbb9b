/* The lab's Ethernet switch: QEMU's stream sockets in, faults between named pairs of nodes. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PORTS_MAX      16u
#define FRAME_MAX      65536u
#define INPUT_BYTES    (4u * (FRAME_MAX + 4u))
#define QUEUE_MAX      (32u << 20) /* bytes waiting for one node; what comes on top is dropped */
#define REORDER_NS     5000000u	   /* how long a reordered frame is held back at most */
#define LINE_MAX_BYTES 256u

struct frame {
	struct frame *next;
	uint64_t due_ns;
	uint32_t len; /* with the 4 bytes of length in front */
	uint8_t data[];
};

struct link {
	bool cut;
	uint32_t delay_ms;
	uint32_t drop_percent, reorder_percent;
	uint64_t frames, dropped, reordered;
};

struct port {
	int listener, fd; /* -1: none */
	uint8_t *in;
	uint32_t in_bytes;
	struct frame *queue;	     /* in the order of due_ns */
	uint32_t queued_bytes, sent; /* sent: bytes of the first frame */
	uint64_t overflowed;
};

struct fabric {
	unsigned ports;
	int control;
	uint64_t random;
	struct port port[PORTS_MAX];
	struct link link[PORTS_MAX][PORTS_MAX];
};

static uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint32_t random_below(struct fabric *f, uint32_t limit)
{
	f->random ^= f->random << 13;
	f->random ^= f->random >> 7;
	f->random ^= f->random << 17;
	return (uint32_t)(f->random >> 32) % limit;
}

static int unix_address(struct sockaddr_un *a, const char *dir, const char *name)
{
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	int n = snprintf(a->sun_path, sizeof a->sun_path, "%s/%s", dir, name);
	return n < 0 || (size_t)n >= sizeof a->sun_path ? -ENAMETOOLONG : 0;
}

static int listen_on(const char *dir, const char *name)
{
	struct sockaddr_un a;
	int err = unix_address(&a, dir, name);
	if (err)
		return err;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	unlink(a.sun_path);
	if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4)) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

static void port_close(struct port *p)
{
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
	p->in_bytes = p->sent = p->queued_bytes = 0;
	while (p->queue) {
		struct frame *next = p->queue->next;
		free(p->queue);
		p->queue = next;
	}
}

static void port_accept(struct port *p)
{
	int size = 4 << 20, fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	port_close(p); /* a node that was started anew */
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	p->fd = fd;
}

/* Sends what is due, as far as the node takes it. */
static void port_send(struct port *p, uint64_t now)
{
	while (p->fd >= 0 && p->queue && (p->sent || p->queue->due_ns <= now)) {
		struct frame *f = p->queue;
		ssize_t n = send(p->fd, f->data + p->sent, f->len - p->sent, MSG_NOSIGNAL);
		if (n < 0) {
			if (errno != EAGAIN && errno != EINTR)
				port_close(p);
			return;
		}
		p->sent += (uint32_t)n;
		if (p->sent < f->len)
			return;
		p->sent = 0;
		p->queue = f->next;
		p->queued_bytes -= f->len;
		free(f);
	}
}

static void forward(struct fabric *f, unsigned from, unsigned to, const uint8_t *data, uint32_t len)
{
	struct link *l = &f->link[from][to];
	struct port *p = &f->port[to];
	l->frames++;
	if (l->cut || (l->drop_percent && random_below(f, 100) < l->drop_percent)) {
		l->dropped++;
		return;
	}
	if (p->fd < 0)
		return;
	struct frame *frame =
		p->queued_bytes + len <= QUEUE_MAX ? malloc(sizeof *frame + len) : NULL;
	if (!frame) {
		p->overflowed++;
		return;
	}
	uint64_t now = now_ns();
	frame->due_ns = now + (uint64_t)l->delay_ms * 1000000u;
	if (l->reorder_percent && random_below(f, 100) < l->reorder_percent) {
		frame->due_ns += random_below(f, REORDER_NS);
		l->reordered++;
	}
	frame->len = len;
	memcpy(frame->data, data, len);
	/* A frame that is partly out stays the first. */
	struct frame **at = &p->queue;
	while (*at && ((at == &p->queue && p->sent) || (*at)->due_ns <= frame->due_ns))
		at = &(*at)->next;
	frame->next = *at;
	*at = frame;
	p->queued_bytes += len;
	port_send(p, now);
}

/* Nodes have the addresses 52:54:00:77:00:NODE; everything else goes to all. */
static void frame_in(struct fabric *f, unsigned from, const uint8_t *data, uint32_t len)
{
	static const uint8_t ours[5] = {0x52, 0x54, 0x00, 0x77, 0x00};
	if (len < 4 + 14)
		return;
	const uint8_t *dest = data + 4;
	for (unsigned to = 0; to < f->ports; to++)
		if (to != from && (memcmp(dest, ours, sizeof ours) != 0 || dest[5] == to + 1))
			forward(f, from, to, data, len);
}

static void port_receive(struct fabric *f, unsigned n)
{
	struct port *p = &f->port[n];
	ssize_t got = recv(p->fd, p->in + p->in_bytes, INPUT_BYTES - p->in_bytes, 0);
	if (got <= 0) {
		if (got == 0 || (errno != EAGAIN && errno != EINTR))
			port_close(p);
		return;
	}
	p->in_bytes += (uint32_t)got;
	uint32_t at = 0;
	while (p->in_bytes - at >= 4) {
		uint32_t len;
		memcpy(&len, p->in + at, 4);
		len = ntohl(len);
		if (len > FRAME_MAX) {
			port_close(p);
			return;
		}
		if (p->in_bytes - at < len + 4)
			break;
		frame_in(f, n, p->in + at, len + 4);
		at += len + 4;
	}
	p->in_bytes -= at;
	memmove(p->in, p->in + at, p->in_bytes);
}

static void show(const struct fabric *f, FILE *out)
{
	for (unsigned a = 0; a < f->ports; a++)
		for (unsigned b = 0; b < f->ports; b++) {
			const struct link *l = &f->link[a][b];
			if (a == b)
				continue;
			fprintf(out,
				"link %u-%u frames=%" PRIu64 " dropped=%" PRIu64
				" reordered=%" PRIu64 " overflowed=%" PRIu64 "%s",
				a + 1, b + 1, l->frames, l->dropped, l->reordered,
				f->port[b].overflowed, l->cut ? " cut" : "");
			fprintf(out, " delay_ms=%u drop_percent=%u reorder_percent=%u\n",
				l->delay_ms, l->drop_percent, l->reorder_percent);
		}
}

static void heal(struct fabric *f)
{
	for (unsigned a = 0; a < f->ports; a++)
		for (unsigned b = 0; b < f->ports; b++) {
			struct link *l = &f->link[a][b];
			l->cut = false;
			l->delay_ms = l->drop_percent = l->reorder_percent = 0;
		}
}

static int link_change(struct link *l, const char *what, unsigned value)
{
	if (!strcmp(what, "cut"))
		l->cut = true;
	else if (!strcmp(what, "delay") && value <= 60000)
		l->delay_ms = value;
	else if (!strcmp(what, "drop") && value <= 100)
		l->drop_percent = value;
	else if (!strcmp(what, "reorder") && value <= 100)
		l->reorder_percent = value;
	else
		return -EINVAL;
	return 0;
}

static void control_run(struct fabric *f, const char *line, FILE *out)
{
	char what[16];
	unsigned a, b, value = 0;
	int words = sscanf(line, "%15s %u %u %u", what, &a, &b, &value);
	if (words == 1 && !strcmp(what, "show")) {
		show(f, out);
	} else if (words == 1 && !strcmp(what, "heal")) {
		heal(f);
	} else if (words >= 3 && a >= 1 && b >= 1 && a <= f->ports && b <= f->ports && a != b &&
		   (words == 4) == (strcmp(what, "cut") != 0)) {
		if (link_change(&f->link[a - 1][b - 1], what, value) ||
			link_change(&f->link[b - 1][a - 1], what, value)) {
			fprintf(out, "error: not understood: %s\n", line);
			return;
		}
	} else {
		fprintf(out, "error: not understood: %s\n", line);
		return;
	}
	fprintf(out, "ok\n");
}

/* One command of one line; whoever asks is this machine's own script. */
static void control_accept(struct fabric *f)
{
	char line[LINE_MAX_BYTES];
	int fd = accept4(f->control, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return;
	struct timeval limit = {.tv_sec = 2};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	FILE *io = fdopen(fd, "r+");
	if (!io) {
		close(fd);
		return;
	}
	if (fgets(line, sizeof line, io)) {
		line[strcspn(line, "\n")] = 0;
		fseek(io, 0, SEEK_CUR);
		control_run(f, line, io);
	}
	fclose(io);
}

static int wait_ns(const struct fabric *f, uint64_t now, struct timespec *out)
{
	uint64_t first = UINT64_MAX;
	for (unsigned i = 0; i < f->ports; i++)
		if (f->port[i].queue && !f->port[i].sent && f->port[i].queue->due_ns < first)
			first = f->port[i].queue->due_ns;
	if (first == UINT64_MAX)
		return 0;
	uint64_t ns = first > now ? first - now : 0;
	*out = (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
	return 1;
}

static void run_once(struct fabric *f)
{
	struct pollfd p[2 * PORTS_MAX + 1];
	struct timespec limit;
	uint64_t now = now_ns();
	for (unsigned i = 0; i < f->ports; i++) {
		struct port *port = &f->port[i];
		bool waits = port->queue && (port->sent || port->queue->due_ns <= now);
		p[2 * i] = (struct pollfd){.fd = port->listener, .events = POLLIN};
		p[2 * i + 1] = (struct pollfd){
			.fd = port->fd, .events = (short)(POLLIN | (waits ? POLLOUT : 0))};
	}
	p[2 * f->ports] = (struct pollfd){.fd = f->control, .events = POLLIN};
	/* What is due and could not be sent is told of by POLLOUT. */
	bool timed = wait_ns(f, now, &limit);
	if (timed && limit.tv_sec == 0 && limit.tv_nsec == 0)
		limit.tv_nsec = 1000000;
	if (ppoll(p, 2 * f->ports + 1, timed ? &limit : NULL, NULL) < 0)
		return;
	now = now_ns();
	for (unsigned i = 0; i < f->ports; i++) {
		if (p[2 * i + 1].fd >= 0 && p[2 * i + 1].fd == f->port[i].fd &&
			p[2 * i + 1].revents & (POLLIN | POLLHUP | POLLERR))
			port_receive(f, i);
		port_send(&f->port[i], now);
		if (p[2 * i].revents)
			port_accept(&f->port[i]);
	}
	if (p[2 * f->ports].revents)
		control_accept(f);
}

static int serve(const char *dir, unsigned ports)
{
	static struct fabric f = {.random = 0x9e3779b97f4a7c15u};
	char name[16];
	f.ports = ports;
	for (unsigned i = 0; i < ports; i++) {
		snprintf(name, sizeof name, "port%u", i + 1);
		f.port[i].fd = -1;
		f.port[i].in = malloc(INPUT_BYTES);
		f.port[i].listener = listen_on(dir, name);
		if (!f.port[i].in || f.port[i].listener < 0) {
			fprintf(stderr, "lab-switch: cannot listen on %s/%s\n", dir, name);
			return 1;
		}
	}
	f.control = listen_on(dir, "control");
	if (f.control < 0) {
		fprintf(stderr, "lab-switch: cannot listen on %s/control\n", dir);
		return 1;
	}
	for (;;)
		run_once(&f);
}

static int tell(const char *dir, int words, char **word)
{
	struct sockaddr_un a;
	char line[LINE_MAX_BYTES] = "";
	size_t at = 0;
	for (int i = 0; i < words; i++) {
		int n = snprintf(line + at, sizeof line - at, "%s%s", i ? " " : "", word[i]);
		if (n < 0 || (size_t)n >= sizeof line - at - 1)
			return 2;
		at += (size_t)n;
	}
	line[at++] = '\n';
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || unix_address(&a, dir, "control") ||
		connect(fd, (struct sockaddr *)&a, sizeof a) ||
		send(fd, line, at, MSG_NOSIGNAL) != (ssize_t)at) {
		fprintf(stderr, "lab-switch: nothing serves %s\n", dir);
		return 1;
	}
	FILE *in = fdopen(fd, "r");
	int status = 1;
	while (in && fgets(line, sizeof line, in)) {
		if (!strcmp(line, "ok\n"))
			status = 0;
		else
			fputs(line, stdout);
	}
	if (in)
		fclose(in);
	return status;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[2], "serve")) {
		long ports = strtol(argv[3], NULL, 10);
		if (ports >= 1 && ports <= (long)PORTS_MAX)
			return serve(argv[1], (unsigned)ports);
	}
	if (argc >= 4 && !strcmp(argv[2], "tell"))
		return tell(argv[1], argc - 3, argv + 3);
	fprintf(stderr, "usage: lab-switch DIR serve PORTS | lab-switch DIR tell COMMAND...\n");
	return 2;
}
