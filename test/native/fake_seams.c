#include "fake_seams.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct fake_machine fake;
int fake_open_count, fake_directories, fake_cpuid_count;

enum { DESCRIPTORS = 64, ROOT = 1000, FIRST = 2000 };
static struct {
  const struct fake_file *file;
  size_t offset;
  bool used;
} open_files[DESCRIPTORS];

void fake_reset(void) {
  memset(&fake, 0, sizeof fake);
  memset(open_files, 0, sizeof open_files);
  fake_open_count = fake_directories = fake_cpuid_count = 0;
}

const char *seam_architecture(void) { return fake.architecture != NULL ? fake.architecture : "x86_64"; }

bool seam_cpuid(uint32_t leaf, uint32_t subleaf, struct cm_regs *out) {
  fake_cpuid_count++;
  uint32_t highest = 0;
  const struct fake_leaf *answer = NULL;
  for (const struct fake_leaf *l = fake.leaves; l != NULL && (l->leaf | l->subleaf | l->regs.eax | l->regs.ebx) != 0; l++) {
    if (l->leaf == 0) highest = l->regs.eax;
    if (l->leaf == leaf && l->subleaf == subleaf) answer = l;
  }
  for (const struct fake_leaf *l = fake.leaves; answer == NULL && l != NULL && (l->leaf | l->subleaf | l->regs.eax | l->regs.ebx) != 0; l++) {
    if (leaf > highest && l->leaf == highest && l->subleaf == 0) answer = l;
  }
  *out = answer != NULL ? answer->regs : (struct cm_regs){0, 0, 0, 0};
  return true;
}

int seam_open_root(const char *directory) { return strcmp(directory, "/") == 0 || strcmp(directory, "/recorded") == 0 ? ROOT : -ENOENT; }

static int opened(const struct fake_file *file, enum cm_file_kind *kind) {
  if (file->open_error != 0) return -file->open_error;
  for (int i = 0; i < DESCRIPTORS; i++) {
    if (open_files[i].used) continue;
    open_files[i].used = true;
    open_files[i].file = file;
    open_files[i].offset = 0;
    if (kind != NULL) *kind = file->kind;
    fake_open_count++;
    return FIRST + i;
  }
  return -EMFILE;
}

int seam_open(int root, const char *path, int flags, enum cm_file_kind *kind) {
  (void)flags;
  (void)root;
  for (const struct fake_file *file = fake.files; file != NULL && file->path != NULL; file++) {
    if (strcmp(file->path, path) == 0) return opened(file, kind);
  }
  return -ENOENT;
}

int seam_open_plain(const char *path) { return seam_open(ROOT, path, 0, NULL); }

int seam_open_in(int directory, const char *name, enum cm_file_kind *kind) {
  char path[256];
  (void)snprintf(path, sizeof path, "%s/%s", open_files[directory - FIRST].file->path, name);
  return seam_open(ROOT, path, 0, kind);
}

ssize_t seam_read(int fd, void *buffer, size_t size) {
  (void)fd;
  if (fake.tpm_answer == NULL) return 0;
  size_t count = size < fake.tpm_answer_size ? size : fake.tpm_answer_size;
  memcpy(buffer, fake.tpm_answer, count);
  return (ssize_t)count;
}

static ssize_t read_msr(void *buffer, size_t size, uint64_t index) {
  for (const struct fake_msr *msr = fake.msrs; msr != NULL && msr->index != 0; msr++) {
    if (msr->index != index) continue;
    if (msr->error != 0) return -msr->error;
    memcpy(buffer, &msr->value, size < sizeof msr->value ? size : sizeof msr->value);
    return (ssize_t)size;
  }
  return -EIO;
}

ssize_t seam_pread(int fd, void *buffer, size_t size, uint64_t offset) {
  const struct fake_file *file = open_files[fd - FIRST].file;
  if (strcmp(file->path, "/dev/cpu/0/msr") == 0) return read_msr(buffer, size, offset);
  if (file->kind == CM_KIND_DIRECTORY) return -EISDIR;
  const char *content = file->content != NULL ? file->content : "";
  size_t left = offset < strlen(content) ? strlen(content) - offset : 0;
  if (file->read_error != 0 && left == 0) return -file->read_error; /* after what there is: a read cut short */
  size_t count = size < left ? size : left;
  if (count > 7) count = 7; /* short reads, always */
  memcpy(buffer, content + offset, count);
  return (ssize_t)count;
}

ssize_t seam_write(int fd, const void *buffer, size_t size) {
  (void)fd;
  (void)buffer;
  return (ssize_t)size;
}

void seam_close(int fd) {
  if (fd == ROOT) return;
  fake_open_count--;
  open_files[fd - FIRST].used = false;
}

ssize_t seam_directory(int fd, void *buffer, size_t size) {
  const struct fake_file *file = open_files[fd - FIRST].file;
  if (file->read_error != 0) return -file->read_error;
  const char *rest = file->content != NULL ? file->content + open_files[fd - FIRST].offset : "";
  while (*rest == ' ') rest++;
  size_t length = strcspn(rest, " ");
  if (length == 0) return 0;
  size_t record = (19 + length + 1 + 7) / 8 * 8;
  if (record > size) return -EINVAL;
  memset(buffer, 0, record);
  uint16_t size16 = (uint16_t)record;
  memcpy((char *)buffer + 16, &size16, sizeof size16);
  memcpy((char *)buffer + 19, rest, length);
  open_files[fd - FIRST].offset = (size_t)(rest - file->content) + length;
  return (ssize_t)record;
}

int seam_wait_readable(int fd, int timeout_ms) {
  (void)fd;
  (void)timeout_ms;
  return fake.tpm_silent ? 0 : 1;
}

int seam_kvm_api_version(int fd) {
  (void)fd;
  return fake.kvm_api_version;
}

int seam_make_directory(int root, const char *path) {
  (void)root;
  (void)path;
  if (fake.mkdir_error != 0) return -fake.mkdir_error;
  fake_directories++;
  return 0;
}

int seam_remove_directory(int root, const char *path) {
  (void)root;
  (void)path;
  fake_directories--;
  return 0;
}
