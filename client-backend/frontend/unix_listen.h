/* A listening unix socket at a path of the file system, in place of one that nobody answers on. */
#ifndef FALLOW_UNIX_LISTEN_H
#define FALLOW_UNIX_LISTEN_H

#include <sys/types.h>

/*
 * The descriptor, nonblocking. A socket file that nobody answers on is replaced; one that somebody
 * does: -EADDRINUSE; a file that is no socket: -EEXIST; a path longer than 107 bytes:
 * -ENAMETOOLONG; or errno of socket, bind, chmod, listen. mode: of the file, e.g. 0660.
 */
int unix_listen_open(const char *path, mode_t mode);
/* What went wrong, in words. */
const char *unix_listen_error(int status);

#endif
