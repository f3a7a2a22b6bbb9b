/* Memory of another process mapped here: shared files that their owner may cut short under us. */
#include "client-backend/frontend/vhost_mapping.h"

#include <errno.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PAGE_BYTES 4096u

/* Written by the control thread, read in the signal handler of any thread. A row counts while start
 * is set; that is the last thing set and the first one cleared. */
struct vhost_mapping_guard {
	_Atomic(uint8_t *) start;
	_Atomic uint64_t bytes;
	_Atomic(struct vhost_mapping *) mapping;
};

static struct vhost_mapping_guard guards[VHOST_MAX_MAPPINGS];
static _Atomic unsigned guards_top; /* rows ever used */
static struct sigaction before;

static bool guard_catch(const uint8_t *at)
{
	unsigned top = atomic_load(&guards_top);

	for (unsigned i = 0; i < top; i++) {
		uint8_t *start = atomic_load(&guards[i].start);
		uint64_t bytes = atomic_load(&guards[i].bytes);

		/* The second look: the row was not given to another mapping between the two. */
		if (!start || start != atomic_load(&guards[i].start) || at < start ||
			(uint64_t)(at - start) >= bytes)
			continue;
		/* Whoever faults here has the mapping in use, so the row does not change. */
		if (mmap(start, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
			    0) == MAP_FAILED)
			return false;
		atomic_store(&atomic_load(&guards[i].mapping)->broken, true);
		return true;
	}
	return false;
}

static void on_sigbus(int signo, siginfo_t *info, void *context)
{
	int saved = errno;
	bool caught = info->si_code > 0 && guard_catch(info->si_addr);

	errno = saved;
	if (caught)
		return;
	if (before.sa_flags & SA_SIGINFO)
		before.sa_sigaction(signo, info, context);
	else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
		before.sa_handler(signo);
	else
		sigaction(SIGBUS, &before, NULL); /* the access is repeated, and ends us */
}

/* Again, should somebody else have taken the signal since. */
static int guard_install(void)
{
	struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};
	struct sigaction now;

	if (sigaction(SIGBUS, NULL, &now) < 0)
		return -errno;
	if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_sigbus)
		return 0;
	before = now;
	return sigaction(SIGBUS, &sa, NULL) < 0 ? -errno : 0;
}

static int guard_add(struct vhost_mapping *m)
{
	unsigned i = 0, top = atomic_load(&guards_top);
	int r = guard_install();

	if (r < 0)
		return r;
	while (i < top && atomic_load(&guards[i].start))
		i++;
	if (i == VHOST_MAX_MAPPINGS)
		return -ENOSPC;
	m->guard = &guards[i];
	atomic_store(&m->guard->bytes, m->map_bytes);
	atomic_store(&m->guard->mapping, m);
	atomic_store(&m->guard->start, m->map_base);
	if (i == top)
		atomic_store(&guards_top, top + 1);
	return 0;
}

/* The file's page size; -EMEDIUMTYPE a file that is no memory, -EINVAL it ends too early. */
static int64_t file_page_bytes(int fd, uint64_t end)
{
	struct stat st;
	struct statfs fs;

	if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || (fs.f_type != TMPFS_MAGIC && fs.f_type != HUGETLBFS_MAGIC))
		return -EMEDIUMTYPE;
	if ((uint64_t)st.st_size < end)
		return -EINVAL;
	return fs.f_type == HUGETLBFS_MAGIC ? (int64_t)fs.f_bsize : PAGE_BYTES;
}

int vhost_mapping_new(int fd, uint64_t offset, uint64_t len_bytes, struct vhost_mapping **out)
{
	if (!len_bytes || offset > INT64_MAX || len_bytes > INT64_MAX - offset)
		return -EINVAL;
	int64_t page = file_page_bytes(fd, offset + len_bytes);
	if (page < 0)
		return (int)page;
	struct vhost_mapping *m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	uint64_t skip = offset % (uint64_t)page;
	m->map_bytes = (skip + len_bytes + (uint64_t)page - 1) / (uint64_t)page * (uint64_t)page;
	m->map_base = mmap(NULL, m->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
		fd, (off_t)(offset - skip));
	if (m->map_base == MAP_FAILED) {
		int err = -errno;
		free(m);
		return err;
	}
	/* Should all our memory be locked: the guest's is not ours to keep from being swapped. */
	munlock(m->map_base, m->map_bytes);
	m->base = (uint8_t *)m->map_base + skip;
	m->len_bytes = len_bytes;
	m->users = 1;
	int r = guard_add(m);
	if (r < 0) {
		munmap(m->map_base, m->map_bytes);
		free(m);
		return r;
	}
	*out = m;
	return 0;
}

int vhost_mapping_pin(struct vhost_mapping *m, const struct vhost_pinner *who)
{
	if (m->pin)
		return 0;
	int r = vhost_pin_new(who, m->map_base, m->map_bytes, &m->pin);
	if (!r)
		m->row = (uint32_t)(m->guard - guards) + 1;
	return r;
}

const struct transport_memory *vhost_mapping_memory(uint32_t row)
{
	/* Whoever has it in use keeps the row as it is. */
	return vhost_pin_memory(atomic_load(&guards[row - 1].mapping)->pin);
}

struct vhost_mapping *vhost_mapping_get(struct vhost_mapping *m)
{
	m->users++;
	return m;
}

void vhost_mapping_put(struct vhost_mapping *m)
{
	if (!m || --m->users)
		return;
	vhost_pin_delete(m->pin);
	atomic_store(&m->guard->start, NULL);
	munmap(m->map_base, m->map_bytes);
	free(m);
}
