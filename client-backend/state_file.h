/* Small files in state_dir: written whole or not at all. */
#ifndef FALLOW_BACKEND_STATE_FILE_H
#define FALLOW_BACKEND_STATE_FILE_H

#include <stddef.h>
#include <sys/types.h>

/* Both block and are for the control thread; a negative errno when they fail. */
/* Afterwards, and after a crash at any time, DIR/NAME holds the old text or the new one. Durable on
 * return (fsync). */
int state_file_replace(const char *dir, const char *name, const char *text);
/* The length read, at most bytes - 1. text is NUL-terminated. */
ssize_t state_file_read(const char *dir, const char *name, char *text, size_t bytes);

#endif
