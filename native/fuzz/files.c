/*
 * Every file and directory of /proc and /sys: a whole look at a machine whose files all have the same content, the
 * input, and whose directories all list its words. With seams of its own.
 */
#include <errno.h>

#include "fuzz.h"

static const uint8_t *content;
static size_t content_size, offsets[64];
static bool used[64];

const char *seam_architecture(void) { return "x86_64"; }

bool seam_cpuid(uint32_t leaf, uint32_t subleaf, struct cm_regs *out) {
  (void)subleaf;
  /* An SEV guest with everything set: the most code. Not Hyper-V, behind which 256 places are searched. */
  if (leaf == 0) *out = (struct cm_regs){0x21, 0x68747541, 0x444d4163, 0x69746e65};
  else if (leaf == 0x40000000u) *out = (struct cm_regs){0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d};
  else if (leaf == 0x80000000u) *out = (struct cm_regs){0x80000023u, 0, 0, 0};
  else *out = (struct cm_regs){0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu};
  return true;
}

static int open_one(enum cm_file_kind *kind, enum cm_file_kind which) {
  for (int i = 0; i < 64; i++) {
    if (used[i]) continue;
    used[i] = true;
    offsets[i] = 0;
    if (kind != NULL) *kind = which;
    return i;
  }
  abort(); /* a descriptor leak */
}

int seam_open_root(const char *directory) {
  (void)directory;
  return open_one(NULL, CM_KIND_DIRECTORY);
}
int seam_open_plain(const char *path) {
  (void)path;
  return -ENOENT;
}
int seam_open(int root, const char *path, int flags, enum cm_file_kind *kind) {
  (void)root;
  (void)flags;
  return open_one(kind, strncmp(path, "/dev/", 5) == 0 ? CM_KIND_CHARACTER : CM_KIND_REGULAR);
}
int seam_open_in(int directory, const char *name, enum cm_file_kind *kind) {
  (void)directory;
  (void)name;
  return open_one(kind, CM_KIND_REGULAR);
}

ssize_t seam_read(int fd, void *buffer, size_t size) {
  (void)fd;
  size_t count = size < content_size ? size : content_size;
  memcpy(buffer, content, count);
  return (ssize_t)count;
}
ssize_t seam_pread(int fd, void *buffer, size_t size, uint64_t offset) {
  (void)fd;
  size_t left = offset < content_size ? content_size - offset : 0;
  size_t count = size < left ? size : left;
  memcpy(buffer, content + content_size - left, count);
  return (ssize_t)count;
}
ssize_t seam_write(int fd, const void *buffer, size_t size) {
  (void)fd;
  (void)buffer;
  return (ssize_t)size;
}
void seam_close(int fd) { used[fd] = false; }

ssize_t seam_directory(int fd, void *buffer, size_t size) {
  size_t at = offsets[fd];
  while (at < content_size && (content[at] == ' ' || content[at] == '\n')) at++;
  size_t length = 0;
  while (at + length < content_size && content[at + length] != ' ' && content[at + length] != '\n' && length < 255) length++;
  if (length == 0) return 0;
  size_t record = (19 + length + 1 + 7) / 8 * 8;
  if (record > size) return -EINVAL;
  memset(buffer, 0, record);
  uint16_t size16 = (uint16_t)record;
  memcpy((char *)buffer + 16, &size16, sizeof size16);
  memcpy((char *)buffer + 19, content + at, length);
  offsets[fd] = at + length;
  return (ssize_t)record;
}
int seam_wait_readable(int fd, int timeout_ms) {
  (void)fd;
  (void)timeout_ms;
  return 1;
}
int seam_kvm_api_version(int fd) {
  (void)fd;
  return content_size > 0 ? content[0] : -ENOTTY;
}
int seam_make_directory(int root, const char *path) {
  (void)root;
  (void)path;
  return 0;
}
int seam_remove_directory(int root, const char *path) {
  (void)root;
  (void)path;
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct cm_machine machine;
  const struct cm_options options = {0};
  struct cm_error error;
  content = data;
  content_size = size;
  if (!cm_machine_open(&machine, &options, &error)) abort();
  fuzz_probe(&machine);
  cm_machine_close(&machine);
  for (int i = 0; i < 64; i++) {
    if (used[i]) abort();
  }
  return 0;
}
