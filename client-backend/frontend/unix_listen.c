/* A listening unix socket at a path of the file system, in place of one that nobody answers on. */
#include "client-backend/frontend/unix_listen.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int path_address(const char *path, struct sockaddr_un *sa)
{
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	if (!path[0] || strlen(path) >= sizeof(sa->sun_path))
		return -ENAMETOOLONG;
	strcpy(sa->sun_path, path);
	return 0;
}

/* Removes a socket file that nobody listens on any more. */
static int stale_remove(const char *path, const struct sockaddr_un *sa)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	int err = connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0 ? errno : 0;
	close(fd);
	if (err != ECONNREFUSED)
		return -EADDRINUSE; /* also EAGAIN: somebody's queue is full */
	return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

int unix_listen_open(const char *path, mode_t mode)
{
	struct sockaddr_un sa;
	int err = path_address(path, &sa);
	if (!err)
		err = stale_remove(path, &sa);
	if (err)
		return err;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* Nobody can connect between bind and chmod: it does not listen yet. */
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	if (chmod(path, mode) < 0 || listen(fd, 64) < 0) {
		err = -errno;
		unlink(path);
		close(fd);
		return err;
	}
	return fd;
}

const char *unix_listen_error(int status)
{
	return status == -EADDRINUSE ? "another process answers there"
	       : status == -EEXIST   ? "there is a file that is no socket"
				     : strerror(-status);
}
