#include "casemate/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "casemate/fact.h"
#include "casemate/probe.h"
#include "casemate/recording.h"
#include "casemate/text.h"

enum { HYPERVISOR_BASE = 0x40000000, EXTENDED_BASE = 0x80000000 };

/* ------------------------------------------------------------------------------------------- CPUID */

const struct cm_leaf *cm_processor_find(const struct cm_processor *processor, uint32_t leaf, uint32_t subleaf) {
  for (size_t i = 0; i < processor->leaf_count; i++) {
    const struct cm_leaf *entry = &processor->leaves[i];
    if (entry->leaf == leaf && entry->subleaf == subleaf) return entry;
  }
  return NULL;
}

enum cm_add_status cm_processor_add_leaf(struct cm_processor *processor, uint32_t leaf, uint32_t subleaf,
                                         const struct cm_regs *regs) {
  if (cm_processor_find(processor, leaf, subleaf) != NULL) return CM_ADD_DUPLICATE;
  if (processor->leaf_count == CM_LEAVES_MAX) return CM_ADD_FULL;
  processor->leaves[processor->leaf_count++] = (struct cm_leaf){leaf, subleaf, *regs};
  return CM_ADDED;
}

enum cm_add_status cm_processor_add_msr(struct cm_processor *processor, uint32_t index, int error, uint64_t value) {
  for (size_t i = 0; i < processor->msr_count; i++) {
    if (processor->msrs[i].index == index) return CM_ADD_DUPLICATE;
  }
  if (processor->msr_count == CM_MSRS_MAX) return CM_ADD_FULL;
  processor->msrs[processor->msr_count++] = (struct cm_msr){index, error, value};
  return CM_ADDED;
}

const char *cm_architecture(const struct cm_machine *machine) {
  return machine->processor.architecture[0] != '\0' ? machine->processor.architecture : seam_architecture();
}

bool cm_is_x86(const struct cm_machine *machine) {
  const char *architecture = cm_architecture(machine);
  return strcmp(architecture, "x86_64") == 0 || strcmp(architecture, "i386") == 0;
}

enum cm_leaf_status cm_cpuid_raw(struct cm_machine *machine, uint32_t leaf, uint32_t subleaf, struct cm_regs *out) {
  *out = (struct cm_regs){0, 0, 0, 0};
  if (!cm_is_x86(machine)) return CM_LEAF_NO_CPUID;
  const struct cm_leaf *known = cm_processor_find(&machine->processor, leaf, subleaf);
  if (known != NULL) {
    *out = known->regs;
    return CM_LEAF_OK;
  }
  if (machine->recorded_leaves) return CM_LEAF_NOT_RECORDED;
  if (!seam_cpuid(leaf, subleaf, out)) return CM_LEAF_NO_CPUID;
  /* Kept because each CPUID is a VM exit in a guest: 5 µs measured on a nested KVM. */
  (void)cm_processor_add_leaf(&machine->processor, leaf, subleaf, out);
  return CM_LEAF_OK;
}

uint32_t cm_highest_leaf(struct cm_machine *machine, uint32_t leaf) {
  struct cm_regs regs;
  uint32_t base = leaf >= EXTENDED_BASE ? EXTENDED_BASE : leaf >= HYPERVISOR_BASE ? leaf & 0xffffff00u : 0;
  if (cm_cpuid_raw(machine, base, 0, &regs) != CM_LEAF_OK) return 0;
  if (base == 0) return regs.eax;
  /* A processor without the range answers with something else: Linux compares the upper half, too. */
  if ((regs.eax & 0xffff0000u) != (base & 0xffff0000u)) {
    /* Old KVM says 0 and means its only leaf, 0x40000001: Linux Documentation/virt/kvm/x86/cpuid.rst. */
    return base != EXTENDED_BASE && regs.eax == 0 && regs.ebx != 0 ? base + 1 : 0;
  }
  return regs.eax;
}

enum cm_leaf_status cm_cpuid(struct cm_machine *machine, uint32_t leaf, uint32_t subleaf, struct cm_regs *out) {
  *out = (struct cm_regs){0, 0, 0, 0};
  if (!cm_is_x86(machine)) return CM_LEAF_NO_CPUID;
  struct cm_regs base;
  uint32_t first = leaf >= EXTENDED_BASE ? EXTENDED_BASE : leaf >= HYPERVISOR_BASE ? leaf & 0xffffff00u : 0;
  enum cm_leaf_status status = cm_cpuid_raw(machine, first, 0, &base);
  if (status != CM_LEAF_OK) return status;
  if (leaf > cm_highest_leaf(machine, leaf)) return CM_LEAF_ABOVE_MAXIMUM;
  return cm_cpuid_raw(machine, leaf, subleaf, out);
}

/* --------------------------------------------------------------------------------------------- MSRs */

int cm_msr(struct cm_machine *machine, uint32_t index, uint64_t *value) {
  *value = 0;
  for (size_t i = 0; i < machine->processor.msr_count; i++) {
    const struct cm_msr *known = &machine->processor.msrs[i];
    if (known->index != index) continue;
    *value = known->value;
    return known->error;
  }
  if (machine->root < 0) return ENODATA;
  /* Linux arch/x86/kernel/msr.c: the offset is the MSR number; EIO is #GP, the MSR is not there. */
  static const char path[] = "/dev/cpu/0/msr";
  enum cm_file_kind kind;
  int fd = seam_open(machine->root, path, O_RDONLY, &kind);
  int error = 0;
  if (fd < 0) {
    error = -fd;
  } else {
    uint64_t raw = 0;
    ssize_t count = kind == CM_KIND_REGULAR || kind == CM_KIND_CHARACTER ? seam_pread(fd, &raw, sizeof raw, index)
                                                                       : -EINVAL;
    seam_close(fd);
    if (count < 0) {
      error = (int)-count;
    } else if (count != (ssize_t)sizeof raw) {
      error = ENODATA;
    } else {
      *value = raw;
    }
  }
  (void)cm_processor_add_msr(&machine->processor, index, error, *value);
  return error;
}

/* -------------------------------------------------------------------------------------------- files */

/* A recording says which files could not be read: "EACCES /sys/…", a line each. */
static int recorded_error(const struct cm_machine *machine, const char *path) {
  struct cm_span rest = {machine->unreadable, machine->unreadable_size};
  struct cm_span line;
  while (cm_next_line(&rest, &line)) {
    struct cm_span name;
    if (!cm_next_word(&line, &name) || !cm_span_is(cm_trim(line), path)) continue;
    char text[32];
    cm_copy(text, sizeof text, name);
    int error = cm_errno_number(text);
    return error != 0 ? error : EIO;
  }
  return 0;
}

static int open_file(struct cm_machine *machine, const char *path, int flags, enum cm_file_kind *kind) {
  int fd = seam_open(machine->root, path, flags, kind);
  if (fd == -ENOENT && machine->unreadable_size > 0) {
    int error = recorded_error(machine, path);
    if (error != 0) return -error;
  }
  return fd;
}

/* How a file is read: the count, or a negative errno. From its start, by offset, for it may have been read before. */
typedef ssize_t reader(int fd, char *buffer, size_t size);

static ssize_t read_all(int fd, char *buffer, size_t size) {
  size_t used = 0;
  while (used < size) {
    ssize_t count = seam_pread(fd, buffer + used, size - used, used);
    if (count < 0) return count;
    if (count == 0) break;
    used += (size_t)count;
  }
  return (ssize_t)used;
}

/* Up to the blank line that ends the first processor of /proc/cpuinfo: the kernel makes each further processor's
 * lines when they are read, 10 µs each, on a host of hundreds. */
static ssize_t read_first_block(int fd, char *buffer, size_t size) {
  enum { STEP = 2048 };
  size_t used = 0;
  while (used < size) {
    ssize_t count = seam_pread(fd, buffer + used, size - used < STEP ? size - used : STEP, used);
    if (count < 0) return count;
    if (count == 0) break;
    size_t from = used > 0 ? used - 1 : 0;
    used += (size_t)count;
    for (size_t i = from; i + 1 < used; i++) {
      if (buffer[i] == '\n' && buffer[i + 1] == '\n') return (ssize_t)(i + 2);
    }
  }
  return (ssize_t)used;
}

static void forget(struct cm_machine *machine, size_t index) {
  seam_close(machine->kept[index].fd);
  machine->kept[index] = machine->kept[--machine->kept_count];
}

/* Reads a file that was kept open; false when there is none, or it went away and must be looked up again. */
static bool read_kept(struct cm_machine *machine, const char *path, char *buffer, size_t size, reader *read, ssize_t *count) {
  for (size_t i = 0; i < machine->kept_count; i++) {
    if (strcmp(machine->kept[i].path, path) != 0) continue;
    *count = read(machine->kept[i].fd, buffer, size);
    if (*count >= 0) return true;
    forget(machine, i); /* ENODEV: a module was unloaded */
    return false;
  }
  return false;
}

static void keep_or_close(struct cm_machine *machine, const char *path, int fd, bool good) {
  size_t length = strlen(path);
  if (!good || !machine->keep_files || machine->kept_count == CM_KEPT_MAX || length >= sizeof machine->kept[0].path) {
    seam_close(fd);
    return;
  }
  struct cm_kept *kept = &machine->kept[machine->kept_count++];
  kept->fd = fd;
  memcpy(kept->path, path, length + 1);
}

/* `directory`: an open directory that the file is in, or -1 to look the whole path up. */
static struct cm_content read_file(struct cm_machine *machine, int directory, const char *path, char *buffer, size_t size, reader *read) {
  struct cm_content content = {CM_TEXT_OK, 0, 0, buffer};
  if (machine->root < 0) {
    content.status = CM_TEXT_NO_ROOT;
    return content;
  }
  ssize_t count;
  if (!machine->keep_files || !read_kept(machine, path, buffer, size, read, &count)) {
    /* What sort of file it is matters in a recorded root, which anybody may have made; below / a directory says
     * EISDIR when it is read. The fstat would cost a fifth of the time that a sysfs file takes. */
    enum cm_file_kind kind = CM_KIND_REGULAR;
    enum cm_file_kind *wanted = machine->recorded_root ? &kind : NULL;
    int fd = directory >= 0 ? seam_open_in(directory, strrchr(path, '/') + 1, wanted) : open_file(machine, path, O_RDONLY, wanted);
    count = fd < 0 ? fd : kind != CM_KIND_REGULAR ? -EISDIR : read(fd, buffer, size);
    if (fd >= 0) keep_or_close(machine, path, fd, count >= 0);
  }
  if (count < 0) {
    content.status = count == -EISDIR ? CM_TEXT_NOT_REGULAR : CM_TEXT_ERROR;
    content.error = (int)-count;
    return content;
  }
  content.size = (size_t)count;
  if (count == 0) content.status = CM_TEXT_EMPTY;
  return content;
}

static void check_text(struct cm_content *content) {
  if (content->status != CM_TEXT_OK) return;
  if (memchr(content->text, '\0', content->size) != NULL) {
    content->status = CM_TEXT_NOT_TEXT;
  } else if (content->text[content->size - 1] != '\n') {
    content->status = CM_TEXT_NO_NEWLINE;
  } else {
    content->text[--content->size] = '\0';
  }
}

struct cm_content cm_read_text(struct cm_machine *machine, const char *path) { return cm_read_text_in(machine, -1, path); }

int cm_enter(struct cm_machine *machine, const char *directory) {
  return machine->root < 0 ? -ENODATA : open_file(machine, directory, O_RDONLY | O_DIRECTORY, NULL);
}

struct cm_content cm_read_text_in(struct cm_machine *machine, int directory, const char *path) {
  struct cm_content content = read_file(machine, directory, path, machine->scratch, CM_TEXT_MAX, read_all);
  if (content.status == CM_TEXT_OK && content.size == CM_TEXT_MAX) content.status = CM_TEXT_TOO_LARGE;
  check_text(&content);
  return content;
}

void cm_leave(int directory) {
  if (directory >= 0) seam_close(directory);
}

struct cm_content cm_read_head(struct cm_machine *machine, const char *path) {
  struct cm_content content = read_file(machine, -1, path, machine->scratch, CM_TEXT_MAX, read_first_block);
  if (content.status == CM_TEXT_OK && content.size == CM_TEXT_MAX) {
    while (content.size > 0 && content.text[content.size - 1] != '\n') content.size--;
    if (content.size == 0) content.status = CM_TEXT_TOO_LARGE; /* one line of more than 16 KiB */
  }
  check_text(&content);
  return content;
}

struct cm_content cm_read_bytes(struct cm_machine *machine, const char *path, void *buffer, size_t size) {
  struct cm_content content = read_file(machine, -1, path, machine->scratch, CM_TEXT_MAX, read_all);
  if (content.status == CM_TEXT_OK && content.size > size) content.status = CM_TEXT_TOO_LARGE;
  if (content.status == CM_TEXT_OK) memcpy(buffer, content.text, content.size);
  content.text = buffer;
  return content;
}

const char *cm_content_problem(const struct cm_content *content) {
  switch (content->status) {
    case CM_TEXT_OK: return "read";
    case CM_TEXT_ERROR: return cm_errno_name(content->error);
    case CM_TEXT_EMPTY: return "empty";
    case CM_TEXT_TOO_LARGE: return "larger than it can be";
    case CM_TEXT_NO_NEWLINE: return "does not end with a newline: cut off, or not the kernel's";
    case CM_TEXT_NOT_TEXT: return "has NUL bytes: not text";
    case CM_TEXT_NOT_REGULAR: return "not a regular file";
    case CM_TEXT_NO_ROOT: break;
  }
  return "the recording has no files (give --root)";
}

bool cm_is_missing(const struct cm_content *content) {
  return content->status == CM_TEXT_ERROR && (content->error == ENOENT || content->error == ENOTDIR);
}

/* struct linux_dirent64 of getdents64(2): ino 8, off 8, reclen 2, type 1, name. */
enum { DIRENT_RECLEN = 16, DIRENT_NAME = 19 };

static void add_name(struct cm_names *out, const char *name, size_t limit) {
  size_t length = strnlen(name, limit);
  if (length == 0 || name[0] == '.') return;
  out->count++;
  char copy[sizeof out->names[0]];
  cm_copy(copy, sizeof copy, (struct cm_span){name, length});
  size_t place = out->held;
  while (place > 0 && strcmp(out->names[place - 1], copy) > 0) place--;
  if (place == CM_NAMES_MAX) return;
  size_t moved = out->held < CM_NAMES_MAX ? out->held : CM_NAMES_MAX - 1;
  if (moved > place) memmove(out->names[place + 1], out->names[place], (moved - place) * sizeof out->names[0]);
  memcpy(out->names[place], copy, sizeof copy);
  if (out->held < CM_NAMES_MAX) out->held++;
}

void cm_list(struct cm_machine *machine, const char *path, struct cm_names *out) {
  out->status = CM_TEXT_OK;
  out->error = 0;
  out->count = 0;
  out->held = 0;
  if (machine->root < 0) {
    out->status = CM_TEXT_NO_ROOT;
    return;
  }
  enum cm_file_kind kind;
  int fd = open_file(machine, path, O_RDONLY | O_DIRECTORY, &kind);
  if (fd < 0) {
    out->status = CM_TEXT_ERROR;
    out->error = -fd;
    return;
  }
  for (;;) {
    ssize_t count = seam_directory(fd, machine->scratch, CM_TEXT_MAX);
    if (count < 0) {
      out->status = CM_TEXT_ERROR;
      out->error = (int)-count;
    }
    if (count <= 0) break;
    for (size_t at = 0; at + DIRENT_NAME < (size_t)count;) {
      uint16_t record;
      memcpy(&record, machine->scratch + at + DIRENT_RECLEN, sizeof record);
      if (record <= DIRENT_NAME || at + record > (size_t)count) break;
      add_name(out, machine->scratch + at + DIRENT_NAME, (size_t)record - DIRENT_NAME);
      at += record;
    }
  }
  seam_close(fd);
}

int cm_open_device(struct cm_machine *machine, const char *path, int flags, int *fd, bool *recorded) {
  *fd = -1;
  *recorded = false;
  if (machine->root < 0) return ENODATA;
  enum cm_file_kind kind;
  int opened = open_file(machine, path, flags, &kind);
  if (opened < 0) return -opened;
  if (kind == CM_KIND_CHARACTER) {
    *fd = opened;
    return 0;
  }
  seam_close(opened);
  if (kind == CM_KIND_REGULAR && machine->recorded_root) {
    *recorded = true;
    return 0;
  }
  return ENODEV;
}

/* ---------------------------------------------------------------------------------------- beginning */

/* Reads what may be a pipe. */
static ssize_t read_stream(int fd, char *buffer, size_t size) {
  size_t used = 0;
  while (used < size) {
    ssize_t count = seam_read(fd, buffer + used, size - used);
    if (count < 0) return count;
    if (count == 0) break;
    used += (size_t)count;
  }
  return (ssize_t)used;
}

static bool read_recording(struct cm_machine *machine, int fd, const char *shown, struct cm_error *error) {
  /* Static, for a recording can have megabytes (every logical processor of a large host) and nothing here
   * allocates. One recording is read at a time: binding.c holds a lock. */
  static char data[CM_RECORDING_MAX + 1];
  if (fd < 0) {
    (void)snprintf(error->message, sizeof error->message, "%.200s: %s", shown, cm_errno_name(-fd));
    return false;
  }
  ssize_t size = read_stream(fd, data, sizeof data);
  seam_close(fd);
  if (size < 0) {
    (void)snprintf(error->message, sizeof error->message, "%.200s: %s", shown, cm_errno_name((int)-size));
    return false;
  }
  if ((size_t)size > CM_RECORDING_MAX) {
    (void)snprintf(error->message, sizeof error->message, "%.200s: larger than %zu MiB", shown, CM_RECORDING_MAX >> 20);
    return false;
  }
  struct cm_recording_error problem;
  machine->recorded_leaves = true;
  if (!cm_recording_parse(data, (size_t)size, &machine->processor, &problem)) {
    if (problem.line > 0) {
      (void)snprintf(error->message, sizeof error->message, "%.140s:%lu: %s", shown, problem.line, problem.message);
    } else {
      (void)snprintf(error->message, sizeof error->message, "%.140s: %s", shown, problem.message);
    }
    return false;
  }
  /* Only x86 processors have leaves to record; another one's recording says which it is. */
  if (machine->processor.architecture[0] == '\0') memcpy(machine->processor.architecture, "x86_64", sizeof "x86_64");
  return true;
}

static bool is_there(int root, const char *path) {
  int fd = seam_open(root, path, O_RDONLY, NULL);
  if (fd >= 0) seam_close(fd);
  return fd != -ENOENT && fd != -ENOTDIR;
}

bool cm_machine_open(struct cm_machine *machine, const struct cm_options *options, struct cm_error *error) {
  machine->recorded_root = false;
  machine->keep_files = false;
  machine->root = -1;
  machine->unreadable_size = 0;
  machine->processor.msr_count = 0;
  machine->processor.architecture[0] = '\0';
  if (!options->keep || machine->recorded_leaves) machine->processor.leaf_count = 0;
  machine->recorded_leaves = false;

  /* The files of this host say nothing about a recorded processor: none are read unless --root says so. */
  const char *root = options->root != NULL ? options->root : options->cpuid_file == NULL ? "/" : NULL;
  if (root != NULL) {
    int fd = seam_open_root(root);
    if (fd < 0) {
      (void)snprintf(error->message, sizeof error->message, "%.200s: %s", root, cm_errno_name(-fd));
      return false;
    }
    machine->root = fd;
    machine->recorded_root = strcmp(root, "/") != 0;
    machine->keep_files = options->keep && !machine->recorded_root;
  }
  if (machine->recorded_root) {
    struct cm_content content = cm_read_bytes(machine, "/unreadable.txt", machine->unreadable, sizeof machine->unreadable);
    machine->unreadable_size = content.status == CM_TEXT_OK ? content.size : 0;
  }

  if (options->cpuid_file != NULL) {
    bool good = read_recording(machine, seam_open_plain(options->cpuid_file), options->cpuid_file, error);
    if (!good) cm_machine_close(machine);
    return good;
  }
  if (machine->recorded_root && is_there(machine->root, "/cpuid.txt")) {
    char shown[256];
    (void)snprintf(shown, sizeof shown, "%.230s/cpuid.txt", root);
    if (!read_recording(machine, seam_open(machine->root, "/cpuid.txt", O_RDONLY, NULL), shown, error)) {
      cm_machine_close(machine);
      return false;
    }
  }
  return true;
}

void cm_machine_close(struct cm_machine *machine) {
  if (machine->root >= 0) seam_close(machine->root);
  machine->root = -1;
}
