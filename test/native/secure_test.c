/* What JavaScript cannot do: fork, touch guard pages. One line a test. Linked with and without memfd_secret. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "casemate/secure_memory.h"

static int failures;

static void result(bool good, const char *name) {
  printf("%s %s\n", good ? "ok" : "not ok", name);
  (void)fflush(stdout);
  if (!good) failures++;
}

/* How a child ends that reads one byte: its exit status, or minus the signal. */
static int child_reads(const volatile unsigned char *at) {
  (void)fflush(stdout);
  pid_t child = fork();
  if (child == 0) _exit(*at == 0 ? 0 : 1);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

int main(void) {
  const struct rlimit no_core = {0, 0}; /* the children that meet guard pages leave nothing behind */
  struct cm_secure memory;
  if (setrlimit(RLIMIT_CORE, &no_core) != 0 || cm_secure_allocate(&memory, 4097) != 0) return 2;
  bool secret = memory.backing == CM_BACKING_MEMFD_SECRET;
  printf("backing %s\n", secret ? "memfd_secret" : "locked");
  size_t zero = 0;
  for (size_t i = 0; i < memory.size; i++) zero += memory.bytes[i] == 0;
  result(zero == memory.size, "fresh memory is zero");
  memset(memory.bytes, 0xa5, memory.size);
  int seen = child_reads(memory.bytes);
  result(seen == 0 || seen == -SIGSEGV, "a forked child finds zeros or nothing, not the key");
  result(memory.bytes[0] == 0xa5, "and the parent keeps it");
  /* In a child that allocates its own, so that the mapping is there: only the guard page can be the reason. */
  (void)fflush(stdout);
  for (int side = 0; side < 2; side++) {
    pid_t child = fork();
    if (child == 0) {
      struct cm_secure own;
      if (cm_secure_allocate(&own, 4096) != 0) _exit(3);
      volatile unsigned char *at = side == 0 ? own.bytes - 1 : own.bytes + own.size;
      own.bytes[0] = own.bytes[own.size - 1] = 1;
      *at = 1;
      _exit(0);
    }
    int status = 0;
    (void)waitpid(child, &status, 0);
    result(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, side == 0 ? "one byte before the memory is a guard page" : "one byte after the memory is a guard page");
  }
  unsigned char *where = memory.bytes;
  struct cm_secure other;
  result(cm_secure_allocate(&other, 32) == 0, "a second one can be had");
  memset(other.bytes, 1, 32);
  cm_secure_release(&memory);
  result(memory.bytes == NULL && child_reads(where) == -SIGSEGV, "released memory is unmapped");
  cm_secure_release(&memory);
  cm_secure_wipe_all();
  unsigned char sum = 0;
  for (size_t i = 0; i < other.size; i++) sum = (unsigned char)(sum | other.bytes[i]);
  result(sum == 0, "wiping all leaves zeros");
  result(cm_secure_allocate(&memory, 0) == EINVAL && cm_secure_allocate(&memory, CM_SECURE_MAX + 1) == EINVAL, "sizes of none and too many are refused");
  unsigned char left[3] = {1, 2, 3};
  unsigned char right[3] = {1, 2, 3};
  bool same = cm_secure_equal(left, right, 3);
  right[2] = 4;
  result(same && !cm_secure_equal(left, right, 3) && cm_secure_equal(left, right, 2) && cm_secure_equal(left, right, 0), "comparison finds a difference in the last byte");

  int ends[2];
  if (pipe(ends) != 0) return 2;
  memset(other.bytes, 7, other.size);
  bool written = cm_secure_write(&other, ends[1], 100) == 0;
  (void)close(ends[1]);
  struct cm_secure small;
  struct cm_secure exact;
  size_t size = 99;
  if (cm_secure_allocate(&small, 31) != 0 || cm_secure_allocate(&exact, 32) != 0) return 2;
  result(written && cm_secure_read(&small, ends[0], 100, &size) == EFBIG && size == 0 && small.bytes[0] == 0, "more than fits is refused and wiped");
  result(cm_secure_write(&other, ends[0], 100) == EBADF, "a descriptor that cannot be written is an error");
  (void)close(ends[0]);
  return failures == 0 ? 0 : 1;
}
