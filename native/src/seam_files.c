#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "casemate/seams.h"

#define RETRY(result, call)                             \
  do {                                                  \
    (result) = (call);                                  \
  } while ((result) < 0 && errno == EINTR)

int seam_open_root(const char *directory) {
  int fd;
  RETRY(fd, open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return fd < 0 ? -errno : fd;
}

int seam_open_plain(const char *path) {
  int fd;
  RETRY(fd, open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY));
  return fd < 0 ? -errno : fd;
}

/* openat2(2), Linux 5.6: struct open_how. Declared here because musl and older glibc have no header. */
struct open_how_v0 {
  uint64_t flags, mode, resolve;
};
#define RESOLVE_IN_ROOT_FLAG 0x10u
#ifndef SYS_openat2
#define SYS_openat2 437
#endif

static int open_below(int root, const char *path, int flags) {
  const struct open_how_v0 how = {.flags = (uint64_t)(unsigned)flags, .mode = 0, .resolve = RESOLVE_IN_ROOT_FLAG};
  long fd;
  RETRY(fd, syscall(SYS_openat2, root, path, &how, sizeof how));
  if (fd >= 0) return (int)fd;
  if (errno != ENOSYS && errno != EPERM) return -errno;
  /* No openat2 (old kernel, qemu-user, a seccomp filter that answers EPERM): relative links still resolve
   * as they should, absolute ones would leave the root, so none is followed at the end of the path. */
  while (*path == '/') path++;
  int plain;
  struct stat root_status;
  struct stat real_root;
  bool is_real_root = fstat(root, &root_status) == 0 && stat("/", &real_root) == 0 &&
                      root_status.st_dev == real_root.st_dev && root_status.st_ino == real_root.st_ino;
  RETRY(plain, openat(root, *path == '\0' ? "." : path, flags | (is_real_root ? 0 : O_NOFOLLOW)));
  return plain < 0 ? -errno : plain;
}

/* Says what sort of file fd is; closes it and says the errno when it cannot. */
static int with_kind(int fd, enum cm_file_kind *kind) {
  if (fd < 0 || kind == NULL) return fd;
  struct stat status;
  if (fstat(fd, &status) != 0) {
    int error = errno;
    (void)close(fd);
    return -error;
  }
  *kind = S_ISREG(status.st_mode)   ? CM_KIND_REGULAR
          : S_ISDIR(status.st_mode) ? CM_KIND_DIRECTORY
          : S_ISCHR(status.st_mode) ? CM_KIND_CHARACTER
                                    : CM_KIND_OTHER;
  return fd;
}

int seam_open(int root, const char *path, int flags, enum cm_file_kind *kind) {
  /* O_NONBLOCK: a FIFO in a recorded root must not hold us up. */
  return with_kind(open_below(root, path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), kind);
}

int seam_open_in(int directory, const char *name, enum cm_file_kind *kind) {
  int fd;
  RETRY(fd, openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW));
  return with_kind(fd < 0 ? -errno : fd, kind);
}

ssize_t seam_read(int fd, void *buffer, size_t size) {
  ssize_t count;
  RETRY(count, read(fd, buffer, size));
  return count < 0 ? -errno : count;
}

ssize_t seam_pread(int fd, void *buffer, size_t size, uint64_t offset) {
  ssize_t count;
  RETRY(count, pread(fd, buffer, size, (off_t)offset));
  return count < 0 ? -errno : count;
}

ssize_t seam_write(int fd, const void *buffer, size_t size) {
  ssize_t count;
  RETRY(count, write(fd, buffer, size));
  return count < 0 ? -errno : count;
}

/* Not retried: Linux has released the descriptor even when close says EINTR (close(2)). */
void seam_close(int fd) { (void)close(fd); }

ssize_t seam_directory(int fd, void *buffer, size_t size) {
  long count;
  RETRY(count, syscall(SYS_getdents64, fd, buffer, size));
  return count < 0 ? -errno : (ssize_t)count;
}

int seam_wait_readable(int fd, int timeout_ms) {
  struct pollfd wait = {.fd = fd, .events = POLLIN, .revents = 0};
  int ready;
  RETRY(ready, poll(&wait, 1, timeout_ms));
  return ready < 0 ? -errno : ready;
}

int seam_kvm_api_version(int fd) {
  /* KVM_GET_API_VERSION = _IO(0xAE, 0x00): Linux include/uapi/linux/kvm.h. */
  int version;
  RETRY(version, ioctl(fd, _IO(0xAE, 0x00), 0));
  return version < 0 ? -errno : version;
}

int seam_make_directory(int root, const char *path) {
  while (*path == '/') path++;
  return mkdirat(root, path, 0700) != 0 ? -errno : 0;
}

int seam_remove_directory(int root, const char *path) {
  while (*path == '/') path++;
  return unlinkat(root, path, AT_REMOVEDIR) != 0 ? -errno : 0;
}
