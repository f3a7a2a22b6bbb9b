/* Arguments, exit codes and systemd notifications that the daemons share. */
#include "lib/core/program.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "lib/core/log.h"

const struct config_choice program_log_levels[] = {
	{"error", LOG_LEVEL_ERROR},
	{"warn", LOG_LEVEL_WARN},
	{"info", LOG_LEVEL_INFO},
	{"debug", LOG_LEVEL_DEBUG},
	{NULL, 0},
};

const struct config_field program_log_fields[] = {
	CONFIG_WORD(program_log, "level", level, program_log_levels, "info",
		"Least important lines that are written."),
	CONFIG_VALUE(program_log, "datapath", datapath, CONFIG_BOOL, "false", 0, 0,
		"At level debug, write lines of the data path too; costs speed."),
	CONFIG_END,
};

static unsigned verbose;
static const char *config_file;

enum { OPTION_CHECK = 256, OPTION_DUMP, OPTION_HELP_CONFIG, OPTION_MAN, OPTION_VERSION };

static const struct option options[] = {
	{"config", required_argument, NULL, 'c'},
	{"check", no_argument, NULL, OPTION_CHECK},
	{"dump-config", no_argument, NULL, OPTION_DUMP},
	{"help", no_argument, NULL, 'h'},
	{"help-config", no_argument, NULL, OPTION_HELP_CONFIG},
	{"man", no_argument, NULL, OPTION_MAN},
	{"verbose", no_argument, NULL, 'v'},
	{"version", no_argument, NULL, OPTION_VERSION},
	{NULL, 0, NULL, 0},
};

/* Option, argument, meaning: for --help and for the manual page. */
static const char *const option_help[][2] = {
	{"-c, --config FILE",
		"read the settings from this YAML file; without it all have defaults"},
	{"--check", "check the configuration, say what is wrong, and exit"},
	{"--dump-config", "print every setting as YAML that can be read again, and exit"},
	{"-h, --help", "print this, and exit"},
	{"--help-config", "print what every setting means, and exit"},
	{"--man", "print the manual page (man(7) source), and exit"},
	{"-v, --verbose", "log debug lines; twice: those of the data path too"},
	{"--version", "print the version, and exit"},
};

#define OPTIONS_HELPED (sizeof(option_help) / sizeof(option_help[0]))

static void print_help(const struct program *p)
{
	printf("Usage: %s [--config FILE] [OPTION...]\n%s\n\n", p->name, p->summary);
	for (size_t i = 0; i < OPTIONS_HELPED; i++)
		printf("  %-18s %s\n", option_help[i][0], option_help[i][1]);
	printf("\nSettings of the file (--help-config tells each one's meaning, bounds and "
	       "default):\n");
	for (const struct config_field *f = p->schema->fields; f->name; f++)
		printf("  %-18s %s\n", f->name, f->help);
	printf("\nExit codes: 0 done, 1 failed, 2 wrong arguments, 78 wrong configuration.\n");
}

static void print_man(const struct program *p)
{
	printf(".TH %s 8 \"\" \"fallow " FALLOW_VERSION "\"\n.SH NAME\n%s \\- %s\n", p->name,
		p->name, p->summary);
	printf(".SH SYNOPSIS\n.B %s\n[\\-\\-config FILE] [OPTION...]\n.SH OPTIONS\n", p->name);
	for (size_t i = 0; i < OPTIONS_HELPED; i++)
		printf(".TP\n.B %s\n%s\n", option_help[i][0], option_help[i][1]);
	printf(".SH CONFIGURATION\nThe file is YAML. Unknown keys, values out of bounds and keys "
	       "given twice are errors.\n");
	config_man(p->schema, stdout);
	printf(".SH EXIT STATUS\n0 done, 1 failed, 2 wrong arguments, 78 wrong configuration.\n");
}

static int load(const struct program *p, const char *file, void *cfg)
{
	char err[1024];

	if (!file) {
		config_defaults(p->schema, cfg);
		return 0;
	}
	if (!config_load_file(p->schema, file, cfg, err, sizeof(err)))
		return 0;
	fprintf(stderr, "%s\n", err);
	return -EINVAL;
}

/* Output that could not be written (a full disk, a closed pipe) is a failure too. */
static int flushed(void)
{
	return fflush(stdout) || ferror(stdout) ? PROGRAM_FAILED : PROGRAM_OK;
}

static int usage(const struct program *p)
{
	fprintf(stderr, "Try '%s --help'.\n", p->name);
	return PROGRAM_USAGE;
}

int program_start(const struct program *p, int argc, char **argv, void *cfg)
{
	const char *file = NULL;
	bool check = false, dump = false;
	int option;

	optind = 1;
	verbose = 0;
	while ((option = getopt_long(argc, argv, "c:hv", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			file = optarg;
			break;
		case OPTION_CHECK:
			check = true;
			break;
		case OPTION_DUMP:
			dump = true;
			break;
		case 'h':
			print_help(p);
			return flushed();
		case OPTION_HELP_CONFIG:
			config_help(p->schema, stdout);
			return flushed();
		case OPTION_MAN:
			print_man(p);
			return flushed();
		case 'v':
			verbose++;
			break;
		case OPTION_VERSION:
			printf("%s " FALLOW_VERSION "\n", p->name);
			return flushed();
		default:
			return usage(p);
		}
	}
	if (optind < argc) {
		fprintf(stderr, "%s: unexpected argument '%s'\n", p->name, argv[optind]);
		return usage(p);
	}
	config_file = file;
	if (load(p, file, cfg))
		return PROGRAM_CONFIG;
	if (dump)
		config_dump(p->schema, cfg, stdout);
	return check || dump ? flushed() : PROGRAM_RUN;
}

const char *program_config_file(void)
{
	return config_file;
}

unsigned program_verbose(void)
{
	return verbose;
}

void program_log_start(const struct program_log *log)
{
	bool datapath = log->datapath || verbose > 1;

	log_init();
	log_set_level(verbose ? LOG_LEVEL_DEBUG : (enum log_level)log->level,
		LOG_DEBUG_CONTROL | (datapath ? LOG_DEBUG_DATAPATH : 0));
}

void program_notify_ready(void)
{
	sd_notify(0, "READY=1");
}

void program_notify_stopping(void)
{
	sd_notify(0, "STOPPING=1");
}

void program_notify_status(const char *format, ...)
{
	char text[512] = "STATUS=";
	size_t prefix = strlen(text);
	va_list args;

	va_start(args, format);
	vsnprintf(text + prefix, sizeof(text) - prefix, format, args);
	va_end(args);
	for (char *c = text; *c; c++) {
		if (*c == '\n')
			*c = ' '; /* a newline would start another variable */
	}
	sd_notify(0, text);
}

void program_notify_watchdog(void)
{
	sd_notify(0, "WATCHDOG=1");
}

uint64_t program_watchdog_interval_ns(void)
{
	uint64_t limit_us = 0;

	if (sd_watchdog_enabled(0, &limit_us) <= 0)
		return 0;
	return limit_us * 1000 / 2;
}
