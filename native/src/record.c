/*
 * --record: what the probe reads, written so that --root reads it back to the same facts, without what would
 * name a machine or a person: serial numbers, instance ids, UUIDs, volume and mapping names, paths of swap files,
 * the kernel command line, APIC ids. Everything is opt-in: a file is written because it is in a table here.
 */
#include "casemate/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "casemate/msr_list.h"
#include "casemate/recording.h"
#include "look.h"

struct recorder {
  struct cm_machine *machine;
  const struct cm_report *report;
  struct cm_error *error;
  int directory;
  int unreadable; /* opened when the first file could not be read */
};

static bool fail(struct recorder *recorder, const char *what, int error) {
  (void)snprintf(recorder->error->message, sizeof recorder->error->message, "recording %.200s: %s", what, cm_errno_name(error));
  return false;
}

static bool write_all(struct recorder *recorder, int fd, const char *what, const char *bytes, size_t size) {
  while (size > 0) {
    ssize_t count = seam_write(fd, bytes, size);
    if (count < 0) return fail(recorder, what, (int)-count);
    bytes += count;
    size -= (size_t)count;
  }
  return true;
}

/* Makes every directory above `path` ("/a/b/c": a, a/b). */
static bool make_parents(struct recorder *recorder, const char *path) {
  char part[320];
  for (size_t i = 1; path[i] != '\0' && i < sizeof part; i++) {
    if (path[i] != '/') continue;
    memcpy(part, path + 1, i - 1);
    part[i - 1] = '\0';
    if (mkdirat(recorder->directory, part, 0755) != 0 && errno != EEXIST) return fail(recorder, path, errno);
  }
  return true;
}

static int create(struct recorder *recorder, const char *path) {
  if (!make_parents(recorder, path)) return -1;
  int fd = openat(recorder->directory, path + 1, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (fd < 0) (void)fail(recorder, path, errno);
  return fd;
}

static bool put(struct recorder *recorder, const char *path, const char *bytes, size_t size) {
  int fd = create(recorder, path);
  if (fd < 0) return false;
  bool good = write_all(recorder, fd, path, bytes, size);
  if (close(fd) != 0 && good) return fail(recorder, path, errno);
  return good;
}

static bool put_line(struct recorder *recorder, const char *path, const char *pattern, ...) __attribute__((format(printf, 3, 4)));

static bool put_line(struct recorder *recorder, const char *path, const char *pattern, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, pattern);
  int count = vsnprintf(text, sizeof text - 1, pattern, arguments);
  va_end(arguments);
  if (count < 0 || (size_t)count >= sizeof text - 1) return fail(recorder, path, EFBIG);
  text[count] = '\n';
  return put(recorder, path, text, (size_t)count + 1);
}

/* A file that is there and cannot be read: the error is what the recording keeps. Missing ones stay missing. */
static bool note(struct recorder *recorder, const char *path, const struct cm_content *content) {
  if (content->status != CM_TEXT_ERROR || cm_is_missing(content)) return true;
  if (recorder->unreadable < 0) recorder->unreadable = create(recorder, "/unreadable.txt");
  if (recorder->unreadable < 0) return false;
  char line[400];
  int count = snprintf(line, sizeof line, "%s %s\n", cm_errno_name(content->error), path);
  return write_all(recorder, recorder->unreadable, path, line, count > 0 ? (size_t)count : 0);
}

/* --------------------------------------------------------------------------------------------- files */

enum treatment {
  AS_IT_IS,
  KEEP_KNOWN_CPUINFO, /* only the lines that facts are made of, of the first processor */
  KEEP_KNOWN_WORDS,   /* of the kernel command line */
  KEEP_CORE_LIMIT,
  ZERO_DIGITS,        /* every hexadecimal digit is 0; "i-" and "ec2" stay */
};

static const struct {
  const char *path;
  enum treatment treatment;
} files[] = {
    {"/proc/cpuinfo", KEEP_KNOWN_CPUINFO},
    {"/proc/cmdline", KEEP_KNOWN_WORDS},
    {"/proc/self/limits", KEEP_CORE_LIMIT},
    {"/proc/sys/kernel/osrelease", AS_IT_IS},
    {"/proc/sys/kernel/core_pattern", AS_IT_IS},
    {"/proc/sys/fs/suid_dumpable", AS_IT_IS},
    {"/sys/class/dmi/id/sys_vendor", AS_IT_IS},
    {"/sys/class/dmi/id/bios_vendor", AS_IT_IS},
    {"/sys/class/dmi/id/product_name", AS_IT_IS},
    {"/sys/class/dmi/id/board_asset_tag", ZERO_DIGITS},
    {"/sys/class/dmi/id/product_uuid", ZERO_DIGITS},
    {"/sys/hypervisor/uuid", ZERO_DIGITS},
    {"/sys/class/tpm/tpm0/tpm_version_major", AS_IT_IS},
    {"/sys/devices/faux/tdx_host/version", AS_IT_IS},
    {"/sys/devices/system/cpu/smt/active", AS_IT_IS},
    {"/sys/devices/system/cpu/smt/control", AS_IT_IS},
    {"/sys/fs/cgroup/misc.capacity", AS_IT_IS},
    {"/sys/kernel/kexec_crash_loaded", AS_IT_IS},
    {"/sys/kernel/security/lockdown", AS_IT_IS},
    {"/sys/module/kvm_amd/parameters/nested", AS_IT_IS},
    {"/sys/module/kvm_amd/parameters/sev", AS_IT_IS},
    {"/sys/module/kvm_amd/parameters/sev_es", AS_IT_IS},
    {"/sys/module/kvm_amd/parameters/sev_snp", AS_IT_IS},
    {"/sys/module/kvm_intel/parameters/nested", AS_IT_IS},
    {"/sys/module/kvm_intel/parameters/tdx", AS_IT_IS},
    {"/sys/power/disk", AS_IT_IS},
    {"/sys/power/state", AS_IT_IS},
};

static size_t keep_cpuinfo(const char *text, char *out, size_t size) {
  static const char *const names[] = {"processor", "vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags",
                                      "address sizes", "Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision"};
  size_t used = 0;
  struct cm_span rest = cm_span_of(text);
  struct cm_span line;
  while (cm_next_line(&rest, &line) && cm_trim(line).size > 0) {
    const char *colon = memchr(line.at, ':', line.size);
    struct cm_span name = cm_trim((struct cm_span){line.at, colon == NULL ? 0 : (size_t)(colon - line.at)});
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
      if (!cm_span_is(name, names[i]) || used + line.size + 2 >= size) continue;
      memcpy(out + used, line.at, line.size);
      used += line.size;
      out[used++] = '\n';
    }
  }
  out[used++] = '\n';
  return used;
}

static size_t keep_words(const char *text, char *out, size_t size) {
  static const char *const prefixes[] = {"kvm-arm.mode=", "nohibernate", "mitigations=", "lockdown=", "intel_iommu=", "amd_iommu=", "mem_encrypt="};
  size_t used = 0;
  struct cm_span rest = cm_span_of(text);
  struct cm_span word;
  while (cm_next_word(&rest, &word)) {
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
      if (!cm_span_starts(word, prefixes[i]) || used + word.size + 2 >= size) continue;
      if (used > 0) out[used++] = ' ';
      memcpy(out + used, word.at, word.size);
      used += word.size;
    }
  }
  out[used++] = '\n';
  return used;
}

static size_t keep_core_limit(const char *text, char *out, size_t size) {
  size_t used = 0;
  struct cm_span rest = cm_span_of(text);
  struct cm_span line;
  while (cm_next_line(&rest, &line)) {
    if (!cm_span_starts(line, "Max core file size") || used + line.size + 1 >= size) continue;
    memcpy(out + used, line.at, line.size);
    used += line.size;
    out[used++] = '\n';
  }
  return used;
}

static size_t zero_digits(const char *text, char *out, size_t size) {
  size_t used = 0;
  bool ec2 = (text[0] == 'e' || text[0] == 'E') && (text[1] == 'c' || text[1] == 'C') && text[2] == '2';
  for (size_t i = 0; text[i] != '\0' && used + 2 < size; i++) {
    char c = text[i];
    bool alphanumeric = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    bool kept = (ec2 && i < 3) || (i == 0 && c == 'i' && text[1] == '-');
    out[used++] = alphanumeric && !kept ? '0' : c;
  }
  out[used++] = '\n';
  return used;
}

static bool record_file(struct recorder *recorder, const char *path, enum treatment treatment) {
  struct cm_content content = treatment == KEEP_KNOWN_CPUINFO ? cm_read_head(recorder->machine, path) : cm_read_text(recorder->machine, path);
  if (content.status == CM_TEXT_EMPTY) return put(recorder, path, "", 0);
  if (content.status != CM_TEXT_OK) return note(recorder, path, &content);
  static char out[CM_TEXT_MAX + 2];
  size_t size = 0;
  switch (treatment) {
    case AS_IT_IS: return put_line(recorder, path, "%s", content.text);
    case KEEP_KNOWN_CPUINFO: size = keep_cpuinfo(content.text, out, sizeof out); break;
    case KEEP_KNOWN_WORDS: size = keep_words(content.text, out, sizeof out); break;
    case KEEP_CORE_LIMIT: size = keep_core_limit(content.text, out, sizeof out); break;
    case ZERO_DIGITS: size = zero_digits(content.text, out, sizeof out); break;
  }
  return put(recorder, path, out, size);
}

/* --------------------------------------------------------------------------------------- directories */

static bool make_directory(struct recorder *recorder, const char *path) {
  char keep[360];
  (void)snprintf(keep, sizeof keep, "%.300s/.empty", path);
  return put(recorder, keep, "", 0);
}

/* Names stand for entries: an empty file each, unless there is something under it already. */
static bool record_names(struct recorder *recorder, const char *path, const char *prefix) {
  struct cm_names names;
  cm_list(recorder->machine, path, &names);
  if (names.status != CM_TEXT_OK) {
    struct cm_content content = {names.status, names.error, 0, NULL};
    return note(recorder, path, &content);
  }
  bool any = false;
  for (size_t i = 0; i < names.held; i++) {
    if (strncmp(names.names[i], prefix, strlen(prefix)) != 0) continue;
    char entry[360];
    struct stat status;
    (void)snprintf(entry, sizeof entry, "%.280s/%.63s", path, names.names[i]);
    any = true;
    if (fstatat(recorder->directory, entry + 1, &status, AT_SYMLINK_NOFOLLOW) == 0) continue;
    if (!put(recorder, entry, "", 0)) return false;
  }
  return any || make_directory(recorder, path);
}

static bool record_vulnerabilities(struct recorder *recorder) {
  static const char directory[] = "/sys/devices/system/cpu/vulnerabilities";
  struct cm_names names;
  cm_list(recorder->machine, directory, &names);
  for (size_t i = 0; i < names.held; i++) {
    char path[160];
    (void)snprintf(path, sizeof path, "%s/%.63s", directory, names.names[i]);
    if (!record_file(recorder, path, AS_IT_IS)) return false;
  }
  return true;
}

static bool record_efi(struct recorder *recorder) {
  static const char *const paths[] = {"/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
                                      "/sys/firmware/efi/efivars/SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c"};
  for (size_t i = 0; i < 2; i++) {
    char bytes[16];
    struct cm_content content = cm_read_bytes(recorder->machine, paths[i], bytes, sizeof bytes);
    bool good = content.status == CM_TEXT_OK ? put(recorder, paths[i], bytes, content.size) : note(recorder, paths[i], &content);
    if (!good) return false;
  }
  return true;
}

/* ------------------------------------------------------------------------------------------- devices */

static bool record_devices(struct recorder *recorder) {
  static const char *const paths[] = {"/dev/kvm", "/dev/sev", "/dev/sev-guest", "/dev/tdx_guest", "/dev/sgx_enclave"};
  for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
    int fd;
    bool recorded;
    int error = cm_open_device(recorder->machine, paths[i], O_RDWR, &fd, &recorded);
    if (fd >= 0) seam_close(fd);
    struct cm_content content = {CM_TEXT_ERROR, error, 0, NULL};
    if (error != 0) {
      if (!note(recorder, paths[i], &content)) return false;
      continue;
    }
    const struct cm_fact *kvm = &recorder->report->facts[CM_VIRT_KVM_USABLE];
    bool is_kvm = i == 0 && kvm->value_kind == CM_VALUE_NUMBER;
    bool good = is_kvm ? put_line(recorder, paths[i], "KVM_GET_API_VERSION %llu", (unsigned long long)kvm->number) : put(recorder, paths[i], "", 0);
    if (!good) return false;
  }
  if (recorder->report->facts[CM_TPM_PRESENT].state != CM_PRESENT) return true;
  unsigned char answer[64];
  size_t size = 0;
  int error = cm_tpm_ask(recorder->machine, answer, sizeof answer, &size);
  if (error != 0) {
    struct cm_content content = {CM_TEXT_ERROR, error, 0, NULL};
    return note(recorder, "/dev/tpmrm0", &content);
  }
  char hexadecimal[2 * sizeof answer + 1] = "";
  for (size_t i = 0; i < size && i < sizeof answer; i++) (void)snprintf(hexadecimal + 2 * i, 3, "%02x", answer[i]);
  return put_line(recorder, "/dev/tpmrm0", "%s", hexadecimal);
}

static bool record_tsm(struct recorder *recorder) {
  static const char directory[] = "/sys/kernel/config/tsm/report";
  const struct cm_fact *fact = &recorder->report->facts[CM_ATTEST_TSM];
  if (fact->state == CM_PRESENT) return put_line(recorder, "/sys/kernel/config/tsm/report/recorded/provider", "%s", fact->text);
  struct cm_names names;
  cm_list(recorder->machine, directory, &names);
  return names.status != CM_TEXT_OK || make_directory(recorder, directory);
}

/* ---------------------------------------------------------------------------------------------- swap */

/* "mapping-3" for dm-3, whatever its name. */
static bool mapping_of(struct recorder *recorder, const char *name, char *out, size_t size) {
  struct cm_names devices;
  cm_list(recorder->machine, "/sys/class/block", &devices);
  for (size_t i = 0; i < devices.held; i++) {
    char path[160];
    if (strncmp(devices.names[i], "dm-", 3) != 0) continue;
    (void)snprintf(path, sizeof path, "/sys/class/block/%.48s/dm/name", devices.names[i]);
    struct cm_content content = cm_read_text(recorder->machine, path);
    if (content.status != CM_TEXT_OK || strcmp(content.text, name) != 0) continue;
    (void)snprintf(out, size, "mapping-%.32s", devices.names[i] + 3);
    return true;
  }
  return false;
}

static bool record_block_device(struct recorder *recorder, const char *name) {
  char path[200];
  (void)snprintf(path, sizeof path, "/sys/class/block/%.48s/dm/uuid", name);
  struct cm_content content = cm_read_text(recorder->machine, path);
  if (content.status == CM_TEXT_OK) {
    /* "CRYPT-LUKS2-<uuid>-<name>", "LVM-<ids>": the type stays. */
    bool crypt = strncmp(content.text, "CRYPT-", 6) == 0;
    const char *end = strchr(content.text + (crypt ? 6 : 0), '-');
    int length = end == NULL ? 0 : (int)(end - content.text);
    char type[32];
    (void)snprintf(type, sizeof type, "%.*s", length < 24 ? length : 24, content.text);
    if (!put_line(recorder, path, "%s-00000000000000000000000000000000-removed", type)) return false;
    (void)snprintf(path, sizeof path, "/sys/class/block/%.48s/dm/name", name);
    if (!put_line(recorder, path, "mapping-%.32s", name + 3)) return false;
  } else if (!note(recorder, path, &content)) {
    return false;
  }
  if (strncmp(name, "zram", 4) == 0) {
    (void)snprintf(path, sizeof path, "/sys/class/block/%.48s/backing_dev", name);
    content = cm_read_text(recorder->machine, path);
    if (content.status == CM_TEXT_OK && !put_line(recorder, path, "%s", strcmp(content.text, "none") == 0 ? "none" : "/dev/removed")) return false;
  }
  (void)snprintf(path, sizeof path, "/sys/class/block/%.48s/slaves", name);
  struct cm_names below;
  cm_list(recorder->machine, path, &below);
  if (below.status == CM_TEXT_OK && below.count > 0) return record_names(recorder, path, "");
  (void)snprintf(path, sizeof path, "/sys/class/block/%.48s", name);
  return make_directory(recorder, path);
}

static bool record_swap(struct recorder *recorder) {
  struct cm_content content = cm_read_text(recorder->machine, "/proc/swaps");
  if (content.status != CM_TEXT_OK) return note(recorder, "/proc/swaps", &content);
  char text[4096];
  if (content.size >= sizeof text) return true; /* the probe does not believe it, either */
  memcpy(text, content.text, content.size);
  char swaps[4096];
  char mounts[4096] = "";
  size_t swaps_used = 0;
  size_t mounts_used = 0;
  unsigned areas = 0;
  struct cm_span rest = {text, content.size};
  struct cm_span line;
  if (!cm_next_line(&rest, &line)) return true;
  int count = snprintf(swaps, sizeof swaps, "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
  swaps_used = count > 0 ? (size_t)count : 0;
  while (cm_next_line(&rest, &line)) {
    struct cm_span name;
    struct cm_span type;
    char path[256];
    if (!cm_next_word(&line, &name) || !cm_next_word(&line, &type) || !cm_unescape(name, path, sizeof path)) continue;
    areas++;
    if (cm_span_is(type, "file")) {
      struct cm_mount mount;
      struct cm_content problem;
      if (!cm_mount_of(recorder->machine, path, &mount, &problem)) mount.source[0] = '\0';
      char source[64] = "removed";
      if (strncmp(mount.source, "/dev/mapper/", 12) == 0) {
        char mapping[48];
        if (mapping_of(recorder, mount.source + 12, mapping, sizeof mapping)) (void)snprintf(source, sizeof source, "/dev/mapper/%s", mapping);
      } else if (strncmp(mount.source, "/dev/", 5) == 0 && strchr(mount.source + 5, '/') == NULL) {
        (void)snprintf(source, sizeof source, "%.60s", mount.source);
      }
      (void)snprintf(path, sizeof path, "/mnt/%u/swapfile", areas);
      count = snprintf(mounts + mounts_used, sizeof mounts - mounts_used, "%u 1 0:0 / /mnt/%u rw - removed %s rw\n", areas + 1, areas, source);
      if (count > 0 && (size_t)count < sizeof mounts - mounts_used) mounts_used += (size_t)count;
    } else if (strncmp(path, "/dev/mapper/", 12) == 0) {
      char mapping[48];
      bool named = mapping_of(recorder, path + 12, mapping, sizeof mapping);
      if (named) (void)snprintf(path, sizeof path, "/dev/mapper/%s", mapping);
      else (void)snprintf(path, sizeof path, "/dev/removed");
    } else if (strncmp(path, "/dev/", 5) != 0 || strchr(path + 5, '/') != NULL) {
      (void)snprintf(path, sizeof path, "/dev/removed");
    }
    count = snprintf(swaps + swaps_used, sizeof swaps - swaps_used, "%s\t%.*s\t0\t0\t-2\n", path, (int)(type.size < 16 ? type.size : 16), type.at);
    if (count > 0 && (size_t)count < sizeof swaps - swaps_used) swaps_used += (size_t)count;
  }
  if (!put(recorder, "/proc/swaps", swaps, swaps_used)) return false;
  if (mounts_used > 0 && !put(recorder, "/proc/self/mountinfo", mounts, mounts_used)) return false;
  if (areas == 0) return true;
  struct cm_names devices;
  cm_list(recorder->machine, "/sys/class/block", &devices);
  for (size_t i = 0; i < devices.held; i++) {
    if (!record_block_device(recorder, devices.names[i])) return false;
  }
  return true;
}

/* --------------------------------------------------------------------------------------------- cpuid */

/* APIC ids name a processor among others, leaf 3 was a serial number, EPC bases are addresses: removed. */
static struct cm_regs without_ids(uint32_t leaf, uint32_t subleaf, struct cm_regs regs) {
  switch (leaf) {
    case 0x1: regs.ebx &= 0x00ffffffu; break;
    case 0x3: regs = (struct cm_regs){0, 0, 0, 0}; break;
    case 0xb:
    case 0x1f: regs.edx = 0; break;
    case 0x12:
      if (subleaf >= 2) {
        regs.eax &= 0xfu;
        regs.ebx = 0;
      }
      break;
    case 0x8000001eu: regs.eax = 0; break;
    default: break;
  }
  return regs;
}

static bool put_leaf(struct recorder *recorder, int fd, uint32_t leaf, uint32_t subleaf, struct cm_regs regs) {
  char line[128];
  regs = without_ids(leaf, subleaf, regs);
  int count = snprintf(line, sizeof line, "   0x%08x 0x%02x: eax=0x%08x ebx=0x%08x ecx=0x%08x edx=0x%08x\n", leaf, subleaf, regs.eax, regs.ebx, regs.ecx, regs.edx);
  return write_all(recorder, fd, "cpuid.txt", line, count > 0 ? (size_t)count : 0);
}

/* Whether the subleaf after this one is worth asking for; SDM 2A CPUID, APM 3 appendix E. */
static bool more_subleaves(uint32_t leaf, uint32_t subleaf, const struct cm_regs *first, const struct cm_regs *regs) {
  if (!cm_has_subleaves(leaf) || subleaf >= 63) return false;
  switch (leaf) {
    case 0x4:
    case 0x8000001du: return (regs->eax & 0x1f) != 0;
    case 0xb:
    case 0x1f: return (regs->ecx & 0xff00) != 0;
    case 0x12: return subleaf < 2 || (regs->eax & 0xf) != 0;
    case 0xd: return true;
    case 0xf:
    case 0x10: return subleaf < 3;
    default: return subleaf < first->eax;
  }
}

static bool put_range(struct recorder *recorder, int fd, uint32_t first, uint32_t limit) {
  uint32_t highest = cm_highest_leaf(recorder->machine, first);
  struct cm_regs regs;
  if (highest < first) highest = first; /* the leaf that says so is recorded, too */
  if (highest - first > limit) highest = first + limit;
  for (uint32_t leaf = first; leaf <= highest; leaf++) {
    struct cm_regs zero = {0, 0, 0, 0};
    for (uint32_t subleaf = 0;; subleaf++) {
      if (cm_cpuid_raw(recorder->machine, leaf, subleaf, &regs) != CM_LEAF_OK) break;
      if (subleaf == 0) zero = regs;
      bool empty = (regs.eax | regs.ebx | regs.ecx | regs.edx) == 0;
      bool gap = leaf == 0xd && subleaf > 1 && empty; /* components that are not there */
      if (!gap && !put_leaf(recorder, fd, leaf, subleaf, regs)) return false;
      if (!more_subleaves(leaf, subleaf, &zero, &regs)) break;
    }
  }
  return true;
}

static bool record_cpuid(struct recorder *recorder) {
  struct cm_machine *machine = recorder->machine;
  int fd = create(recorder, "/cpuid.txt");
  if (fd < 0) return false;
  char text[96];
  int count = snprintf(text, sizeof text, "casemate-recording 1\narchitecture %s\n%s", cm_architecture(machine), cm_is_x86(machine) ? "CPU 0:\n" : "");
  bool good = write_all(recorder, fd, "cpuid.txt", text, count > 0 ? (size_t)count : 0);
  if (good && cm_is_x86(machine) && machine->recorded_leaves) {
    for (size_t i = 0; good && i < machine->processor.leaf_count; i++) {
      const struct cm_leaf *leaf = &machine->processor.leaves[i];
      good = put_leaf(recorder, fd, leaf->leaf, leaf->subleaf, leaf->regs);
    }
  } else if (good && cm_is_x86(machine)) {
    good = put_range(recorder, fd, 0, 0x40) && put_range(recorder, fd, 0x40000000u, 0x20) && put_range(recorder, fd, 0x40000100u, 0x20) &&
           put_range(recorder, fd, 0x80000000u, 0x40);
    /* What an emulator answers beyond its maximum is worth keeping: contradiction.sev-leaf. */
    struct cm_regs regs;
    if (good && cm_highest_leaf(machine, 0x80000000u) < 0x8000001fu && cm_cpuid_raw(machine, 0x8000001fu, 0, &regs) == CM_LEAF_OK) {
      good = put_leaf(recorder, fd, 0x8000001fu, 0, regs);
    }
  }
  static const uint32_t indices[] = {
#define M(number, name, source) number,
      CM_MSR_LIST(M)
#undef M
  };
  for (size_t i = 0; good && cm_is_x86(machine) && i < sizeof indices / sizeof indices[0]; i++) {
    uint64_t value;
    int error = cm_msr(machine, indices[i], &value);
    if (error == ENODATA) continue;
    if (error == 0) count = snprintf(text, sizeof text, "MSR 0x%08x: 0x%016llx\n", indices[i], (unsigned long long)value);
    else count = snprintf(text, sizeof text, "MSR 0x%08x: %s\n", indices[i], cm_errno_name(error));
    good = write_all(recorder, fd, "cpuid.txt", text, count > 0 ? (size_t)count : 0);
  }
  if (close(fd) != 0 && good) return fail(recorder, "cpuid.txt", errno);
  return good;
}

/* -------------------------------------------------------------------------------------------- begin */

static bool is_empty_directory(int directory) {
  char buffer[1024];
  ssize_t count;
  size_t entries = 0;
  int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return false;
  while ((count = seam_directory(fd, buffer, sizeof buffer)) > 0) {
    for (ssize_t at = 0; at < count;) {
      uint16_t record;
      memcpy(&record, buffer + at + 16, sizeof record);
      entries++;
      at += record;
    }
  }
  (void)close(fd);
  return count == 0 && entries <= 2; /* . and .. */
}

bool cm_record(struct cm_machine *machine, struct cm_report *report, const char *directory, struct cm_error *error) {
  struct recorder recorder = {machine, report, error, -1, -1};
  if (mkdir(directory, 0755) != 0 && errno != EEXIST) return fail(&recorder, directory, errno);
  recorder.directory = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (recorder.directory < 0) return fail(&recorder, directory, errno);
  if (!is_empty_directory(recorder.directory)) {
    (void)close(recorder.directory);
    (void)snprintf(error->message, sizeof error->message, "recording %.200s: not an empty directory", directory);
    return false;
  }
  cm_probe(machine, report);
  bool good = record_cpuid(&recorder);
  for (size_t i = 0; good && i < sizeof files / sizeof files[0]; i++) good = record_file(&recorder, files[i].path, files[i].treatment);
  char compatible[64];
  static const char device_tree[] = "/proc/device-tree/hypervisor/compatible";
  struct cm_content content = cm_read_bytes(machine, device_tree, compatible, sizeof compatible);
  if (good && content.status == CM_TEXT_OK) good = put(&recorder, device_tree, compatible, content.size);
  good = good && record_vulnerabilities(&recorder) && record_efi(&recorder) && record_devices(&recorder) && record_tsm(&recorder) && record_swap(&recorder);
  /* Names last: what is a directory by now stays one. */
  static const struct {
    const char *path;
    const char *prefix;
  } listings[] = {{"/sys/class/iommu", ""},
                  {"/sys/kernel/iommu_groups", ""},
                  {"/sys/class/tpm", "tpm"},
                  {"/sys/firmware/acpi/tables", "CCEL"},
                  {"/sys/firmware", ""},
                  {"/sys/devices/platform/arm-cca-dev", ""},
                  {"/sys/module/kvm_amd/parameters", "nested"},
                  {"/sys/module/kvm_intel/parameters", "nested"}};
  for (size_t i = 0; good && i < sizeof listings / sizeof listings[0]; i++) good = record_names(&recorder, listings[i].path, listings[i].prefix);
  if (recorder.unreadable >= 0 && close(recorder.unreadable) != 0 && good) good = fail(&recorder, "unreadable.txt", errno);
  (void)close(recorder.directory);
  return good;
}
