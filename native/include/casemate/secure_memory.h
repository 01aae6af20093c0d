/*
 * Memory for keys: not in core dumps, not in swap, not in a forked child, between guard pages, wiped on release
 * and on exit. On memfd_secret(2) (Linux 5.14) the kernel itself cannot reach it by its direct map.
 */
#ifndef CASEMATE_SECURE_MEMORY_H
#define CASEMATE_SECURE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cm_secure_backing { CM_BACKING_MEMFD_SECRET, CM_BACKING_LOCKED };

struct cm_secure {
  unsigned char *bytes; /* NULL once released; ends at the upper guard page */
  size_t size;
  enum cm_secure_backing backing;
  unsigned char *mapping; /* guard page, data pages, guard page */
  size_t mapping_size;
};

#define CM_SECURE_MAX ((size_t)1 << 20)
#define CM_SECURE_LIVE_MAX 256

/* 0 or a positive errno. EINVAL: size is 0 or above CM_SECURE_MAX; ENOMEM, EPERM, EAGAIN: cannot be locked, see
 * RLIMIT_MEMLOCK, or CM_SECURE_LIVE_MAX are in use. The memory is zero. */
int cm_secure_allocate(struct cm_secure *out, size_t size);

/* Wipes and unmaps; again is harmless. */
void cm_secure_release(struct cm_secure *memory);

/* Wipes all that is allocated in the process: at exit, by the library's own handler. */
void cm_secure_wipe_all(void);

/* Compares in a time that depends on the size alone. */
bool cm_secure_equal(const unsigned char *left, const unsigned char *right, size_t size);

/* Random bytes from the kernel, straight into place; 0 or a positive errno. */
int cm_secure_randomize(struct cm_secure *memory);

/* Writes all of it; waits up to timeout_ms for a descriptor that does not block. 0 or a positive errno. */
int cm_secure_write(const struct cm_secure *memory, int fd, int timeout_ms);

/* A new pipe that holds all of it and is closed for writing: its reading end, closed on exec, in *fd. EFBIG: more than
 * a pipe takes without a reader. 0 or a positive errno. */
int cm_secure_pipe(const struct cm_secure *memory, int *fd);

/* Reads until full or end of file; the count in *size. More than fits is EFBIG. 0 or a positive errno. */
int cm_secure_read(struct cm_secure *memory, int fd, int timeout_ms, size_t *size);

/* A wipe that the compiler keeps. */
void cm_secure_wipe(unsigned char *bytes, size_t size);

/* The seam: a new memfd_secret descriptor, or a negative errno. */
int seam_memfd_secret(void);

#endif
