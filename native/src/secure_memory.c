#include "casemate/secure_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

/* Linux uapi/asm-generic/mman-common.h; musl's headers may lack the newer ones. */
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* What is to be wiped at exit: kept here, for the callers' own records may be gone by then. */
static struct {
  unsigned char *bytes;
  size_t size;
} live[CM_SECURE_LIVE_MAX];
static bool registered;

void cm_secure_wipe(unsigned char *bytes, size_t size) {
  /* explicit_bzero is in glibc 2.25 and musl 1.1.20; the barrier says that the bytes are read. */
  memset(bytes, 0, size);
  __asm__ volatile("" : : "r"(bytes) : "memory");
}

void cm_secure_wipe_all(void) {
  (void)pthread_mutex_lock(&lock);
  for (size_t i = 0; i < CM_SECURE_LIVE_MAX; i++) {
    if (live[i].bytes != NULL) cm_secure_wipe(live[i].bytes, live[i].size);
  }
  (void)pthread_mutex_unlock(&lock);
}

/* Both map guard pages and data in one piece and then give each its rights, so that no address is ever free for
 * another thread in between. */

static unsigned char *map_secret(size_t size, size_t page, int *error) {
  int fd = seam_memfd_secret();
  *error = -fd;
  if (fd < 0) return NULL;
  unsigned char *at = MAP_FAILED;
  if (ftruncate(fd, (off_t)size) == 0) at = mmap(NULL, size, PROT_NONE, MAP_SHARED, fd, 0);
  *error = at == MAP_FAILED ? errno : 0;
  (void)close(fd);
  if (at == MAP_FAILED) return NULL;
  /* The mapping is shared, so that a child would have the key itself: it does not get the mapping. The kernel
   * locks these pages and leaves them out of dumps by itself (mm/secretmem.c: VM_LOCKED | VM_DONTDUMP). */
  if (madvise(at, size, MADV_DONTFORK) == 0 && mprotect(at + page, size - 2 * page, PROT_READ | PROT_WRITE) == 0) return at;
  *error = errno;
  (void)munmap(at, size);
  return NULL;
}

static unsigned char *map_locked(size_t size, size_t page, int *error) {
  unsigned char *at = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  *error = at == MAP_FAILED ? errno : 0;
  if (at == MAP_FAILED) return NULL;
  unsigned char *data = at + page;
  size_t data_size = size - 2 * page;
  /* Without wiping on fork (Linux 4.14) the child must not have the pages at all. */
  if (mprotect(data, data_size, PROT_READ | PROT_WRITE) == 0 && mlock(data, data_size) == 0 &&
      (madvise(data, data_size, MADV_WIPEONFORK) == 0 || madvise(data, data_size, MADV_DONTFORK) == 0) &&
      madvise(data, data_size, MADV_DONTDUMP) == 0) {
    return at;
  }
  *error = errno;
  (void)munmap(at, size);
  return NULL;
}

static int remember(unsigned char *bytes, size_t size) {
  int error = ENOMEM;
  (void)pthread_mutex_lock(&lock);
  /* exit(3) runs the handler, also after an uncaught JavaScript error; a signal leaves nothing to read, for the
   * kernel clears pages before it gives them to anyone. */
  if (!registered) registered = atexit(cm_secure_wipe_all) == 0;
  for (size_t i = 0; registered && i < CM_SECURE_LIVE_MAX; i++) {
    if (live[i].bytes != NULL) continue;
    live[i].bytes = bytes;
    live[i].size = size;
    error = 0;
    break;
  }
  (void)pthread_mutex_unlock(&lock);
  return error;
}

int cm_secure_allocate(struct cm_secure *out, size_t size) {
  memset(out, 0, sizeof *out);
  if (size == 0 || size > CM_SECURE_MAX) return EINVAL;
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t data = (size + page - 1) / page * page;
  int error;
  out->backing = CM_BACKING_MEMFD_SECRET;
  unsigned char *mapping = map_secret(data + 2 * page, page, &error);
  if (mapping == NULL) {
    /* No such call (old kernel, secretmem.enable=0, a seccomp filter), or no room to lock: the other way says. */
    out->backing = CM_BACKING_LOCKED;
    mapping = map_locked(data + 2 * page, page, &error);
  }
  if (mapping == NULL) return error;
  out->mapping = mapping;
  out->mapping_size = data + 2 * page;
  out->size = size;
  out->bytes = mapping + page + data - size; /* an overrun by one byte meets the guard page */
  error = remember(out->bytes, size);
  if (error != 0) {
    (void)munmap(out->mapping, out->mapping_size);
    out->bytes = NULL;
  }
  return error;
}

void cm_secure_release(struct cm_secure *memory) {
  if (memory->bytes == NULL) return;
  (void)pthread_mutex_lock(&lock);
  cm_secure_wipe(memory->bytes, memory->size);
  for (size_t i = 0; i < CM_SECURE_LIVE_MAX; i++) {
    if (live[i].bytes == memory->bytes) live[i].bytes = NULL;
  }
  memory->bytes = NULL;
  (void)pthread_mutex_unlock(&lock);
  (void)munmap(memory->mapping, memory->mapping_size);
}

bool cm_secure_equal(const unsigned char *left, const unsigned char *right, size_t size) {
  volatile unsigned char difference = 0;
  for (size_t i = 0; i < size; i++) difference = (unsigned char)(difference | (left[i] ^ right[i]));
  return difference == 0;
}

int cm_secure_randomize(struct cm_secure *memory) {
  size_t done = 0;
  while (done < memory->size) {
    ssize_t count = getrandom(memory->bytes + done, memory->size - done, 0);
    if (count < 0 && errno != EINTR) return errno;
    if (count > 0) done += (size_t)count;
  }
  return 0;
}

static int wait_for(int fd, short events, int timeout_ms) {
  struct pollfd wait = {.fd = fd, .events = events, .revents = 0};
  int ready;
  do {
    ready = poll(&wait, 1, timeout_ms);
  } while (ready < 0 && errno == EINTR);
  return ready < 0 ? errno : ready == 0 ? ETIMEDOUT : 0;
}

int cm_secure_write(const struct cm_secure *memory, int fd, int timeout_ms) {
  size_t done = 0;
  while (done < memory->size) {
    ssize_t count = write(fd, memory->bytes + done, memory->size - done);
    if (count > 0) {
      done += (size_t)count;
    } else if (count == 0) {
      return EIO;
    } else if (errno == EAGAIN) {
      int error = wait_for(fd, POLLOUT, timeout_ms);
      if (error != 0) return error;
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

int cm_secure_pipe(const struct cm_secure *memory, int *fd) {
  int ends[2];
  /* pipe(7): a new pipe has at least one page, whatever pipe-user-pages-soft says. */
  if (memory->size > 4096) return EFBIG;
  if (pipe2(ends, O_CLOEXEC) != 0) return errno;
  int error = cm_secure_write(memory, ends[1], 0);
  (void)close(ends[1]);
  if (error == 0) {
    *fd = ends[0];
  } else {
    (void)close(ends[0]);
  }
  return error;
}

int cm_secure_read(struct cm_secure *memory, int fd, int timeout_ms, size_t *size) {
  *size = 0;
  for (;;) {
    unsigned char extra;
    bool full = *size == memory->size;
    ssize_t count = read(fd, full ? &extra : memory->bytes + *size, full ? 1 : memory->size - *size);
    if (count == 0) return 0;
    if (count > 0 && full) {
      cm_secure_wipe(&extra, 1);
      cm_secure_wipe(memory->bytes, memory->size);
      *size = 0;
      return EFBIG;
    }
    if (count > 0) {
      *size += (size_t)count;
    } else if (errno == EAGAIN) {
      int error = wait_for(fd, POLLIN, timeout_ms);
      if (error != 0) return error;
    } else if (errno != EINTR) {
      return errno;
    }
  }
}
