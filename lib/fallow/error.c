/* What libfallow's results mean, in words. */
#include <errno.h>

#include "fallow/fallow.h"

const char *fallow_version(void)
{
	return FALLOW_VERSION;
}

const char *fallow_strerror(int error)
{
	switch (error < 0 ? -error : error) {
	case 0:
		return "success";
	case ENOENT:
		return "not found";
	case ENOSPC:
		return "the backend has no room";
	case EIO:
		return "the page is lost";
	case ETIMEDOUT:
		return "no answer in time";
	case ESHUTDOWN:
		return "the backend is gone";
	case ECONNREFUSED:
		return "no backend answers on the socket";
	case EACCES:
		return "permission denied, or wrong secret";
	case EPERM:
		return "this user may not do that with the pool";
	case EEXIST:
		return "the pool exists with other properties";
	case EDQUOT:
		return "too many pools of this user";
	case EUSERS:
		return "too many sessions";
	case ENODEV:
		return "the backend has no disk tier";
	case ENODATA:
		return "connected again, but a pool came back empty";
	case EPROTONOSUPPORT:
		return "the backend speaks another version of the protocol";
	case EPROTO:
		return "the backend's answer makes no sense";
	case EBUSY:
		return "requests are still under way";
	case EAGAIN:
		return "no room for another request now";
	case EINVAL:
		return "invalid argument";
	case E2BIG:
		return "options of a newer version of the library";
	case ENAMETOOLONG:
		return "the socket's path is too long";
	case ENOMEM:
		return "out of memory";
	case EMFILE:
	case ENFILE:
		return "too many open files";
	default:
		return "unexpected error";
	}
}
