/* Taking the place of a unix socket that a process left behind. */
#ifndef FALLOW_CORE_UNIX_SOCKET_H
#define FALLOW_CORE_UNIX_SOCKET_H

#include <sys/un.h>

/*
 * Removes the socket file that sa names when nobody listens on it. Any thread; does not block.
 *
 * 0: there is none any more; -EEXIST a file that is no socket; -EADDRINUSE somebody listens on it;
 * or errno of lstat, socket, unlink.
 */
int unix_socket_stale_remove(const struct sockaddr_un *sa);

#endif
