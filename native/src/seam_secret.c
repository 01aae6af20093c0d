#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "casemate/secure_memory.h"

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447 /* Linux 5.14, the same on x86-64 and aarch64; glibc 2.36 has no wrapper */
#endif

int seam_memfd_secret(void) {
  long fd = syscall(SYS_memfd_secret, O_CLOEXEC);
  return fd < 0 ? -errno : (int)fd;
}
