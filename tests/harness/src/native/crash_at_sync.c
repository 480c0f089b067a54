/*
 * Preloaded into a daemon under test. While the file that BACKSTAY_CRASH_AT names exists, the process is killed right
 * after it has synced as many files or folders as the file says, counted over all its threads from the moment the file
 * is there. The file is gone then, so that the next process lives.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_long syncs;

static int after(long result)
{
	const int error = errno;
	const char *path = getenv("BACKSTAY_CRASH_AT");
	const int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	if (file >= 0) {
		char text[24] = {0};
		const ssize_t len = read(file, text, sizeof(text) - 1);

		close(file);
		if (len > 0 && atomic_fetch_add(&syncs, 1) + 1 >= atol(text)) {
			unlink(path);
			kill(getpid(), SIGKILL);
		}
	} else {
		atomic_store(&syncs, 0);
	}
	errno = error;
	return (int)result;
}

int fsync(int file)
{
	return after(syscall(SYS_fsync, file));
}

int fdatasync(int file)
{
	return after(syscall(SYS_fdatasync, file));
}
