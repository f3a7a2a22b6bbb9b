/* fallowd: the backend daemon of one host. Arguments, and what must happen before the first thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "client-backend/daemon.h"
#include "lib/core/log.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

static struct daemon the_daemon;

/* Takes our own option out of argv, which then is as program_start() knows it. */
static int discard_option_take(int argc, char **argv, bool *discard)
{
	int kept = 0;

	for (int i = 0; i < argc; i++) {
		if (i > 0 && !strcmp(argv[i], "--discard-arenas"))
			*discard = true;
		else
			argv[kept++] = argv[i];
	}
	argv[kept] = NULL;
	return kept;
}

int main(int argc, char **argv)
{
	static const struct program program = {
		.name = "fallowd",
		.summary = "The backend of one host: keeps pages of guests and local clients, and "
			   "spills "
			   "them to memory servers.\nWith --discard-arenas it throws away every "
			   "stored "
			   "page before it starts.",
		.schema = &fallowd_config_schema,
	};
	struct daemon *d = &the_daemon;
	/* Before any thread, so that all inherit it: our own allocations must not wait for pages
	 * that only we can take. */
	int flusher = prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0 ? errno : 0;

	argc = discard_option_take(argc, argv, &d->discard_arenas);
	int code = program_start(&program, argc, argv, &d->cfg);
	if (code != PROGRAM_RUN)
		return code;
	d->config_file = program_config_file();
	program_log_start(&d->cfg.log);
	if (flusher)
		log_warn("main",
			"cannot become an I/O flusher (%s): under memory pressure puts may wait "
			"for reclaim; give CAP_SYS_RESOURCE",
			strerror(flusher));
	int r = daemon_run(d);
	if (d->stuck)
		_exit(PROGRAM_FAILED);
	return r < 0 ? PROGRAM_FAILED : PROGRAM_OK;
}
