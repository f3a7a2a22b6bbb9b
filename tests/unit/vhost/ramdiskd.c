/* The RAM disk as a program, for a real QEMU: ramdiskd SOCKET FILE [defer]; FILE keeps the
 * contents, so that it can be killed and started again. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/vhost/backend.h"

int main(int argc, char **argv)
{
	static struct backend b;
	static struct ramdisk disk;
	size_t bytes = (size_t)RAMDISK_SECTOR * RAMDISK_SECTORS;
	sigset_t set;
	int signo;

	if (argc < 3) {
		fprintf(stderr, "Usage: ramdiskd SOCKET FILE [defer]\n");
		return 2;
	}
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	ramdisk_init(&disk, 2, 4);
	disk.defer = argc > 3 && strcmp(argv[3], "defer") == 0;
	int fd = open(argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0 ||
		mmap(disk.data, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
			MAP_FAILED) {
		perror(argv[2]);
		return 1;
	}
	backend_start(&b, argv[1], &disk, 0);
	sigwait(&set, &signo);
	const struct vhost_server_stats *s = vhost_server_stats(b.server);
	printf("messages %llu requests %llu again %llu\n",
		(unsigned long long)stat_get(&s->messages),
		(unsigned long long)BACKEND_LANE_STAT(&b, requests),
		(unsigned long long)BACKEND_LANE_STAT(&b, redone));
	for (unsigned i = 0; i < VHOST_VIOLATIONS; i++)
		if (stat_get(&s->violations[i]))
			printf("violation %s %llu\n", vhost_violation_name(i),
				(unsigned long long)stat_get(&s->violations[i]));
	for (unsigned i = 0; i < VRING_FAULTS; i++)
		if (stat_get(&s->faults[i]))
			printf("fault %s %llu\n", vring_fault_name(i),
				(unsigned long long)stat_get(&s->faults[i]));
	backend_stop(&b);
	ramdisk_fini(&disk);
	return 0;
}
