#include "casemate/block_io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void *cm_block_buffer(size_t size) {
  void *memory = NULL;
  if (posix_memalign(&memory, CM_BLOCK_ALIGNMENT, size) != 0) return NULL;
  memset(memory, 0, size);
  return memory;
}

int cm_next_data(int fd, int64_t from, int64_t *at) {
  off_t found = lseek(fd, (off_t)from, SEEK_DATA);
  *at = found;
  if (found >= 0) return 0;
  if (errno == ENXIO) return 0; /* nothing but a hole up to the end */
  *at = from;
  return errno == EINVAL ? 0 : errno; /* an old file system, or a device: everything is data */
}
