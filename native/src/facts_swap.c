/*
 * Where swapped memory goes. A swap area is one of: zram (stays in memory, unless it has a backing device), a
 * block device, a file on a file system on a block device. Under a block device, device-mapper shows what it is
 * made of: every way down must pass a dm-crypt mapping for it to count as encrypted. Whether that mapping's
 * cipher is a null cipher is not in sysfs; no tool in use makes swap with one.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "look.h"

enum kind { KIND_ZRAM, KIND_ENCRYPTED, KIND_PLAIN, KIND_UNKNOWN };

struct verdict {
  enum kind kind;
  char why[160];
};

bool cm_unescape(struct cm_span span, char *out, size_t size) {
  size_t used = 0;
  for (size_t i = 0; i < span.size; i++) {
    char c = span.at[i];
    if (c == '\\' && i + 3 < span.size) {
      unsigned value = 0;
      bool octal = true;
      for (size_t j = 1; j <= 3; j++) {
        octal = octal && span.at[i + j] >= '0' && span.at[i + j] <= '7';
        value = value * 8 + (unsigned)(span.at[i + j] - '0');
      }
      if (octal && value < 256) {
        c = (char)value;
        i += 3;
      }
    }
    if (used + 1 >= size) return false;
    out[used++] = c;
  }
  out[used] = '\0';
  return true;
}

static bool is_device_name(const char *name) {
  return name[0] != '\0' && strlen(name) < 48 && strchr(name, '/') == NULL && strcmp(name, "..") != 0 && strcmp(name, ".") != 0;
}

/* Follows one block device down; `depth` bounds a hostile or looping tree. */
static void classify_device(struct cm_look *look, const char *name, unsigned depth, struct verdict *out) {
  char path[160];
  /* The budget bounds a tree that is wide at every level: found by fuzzing. */
  if (!is_device_name(name) || depth > 8 || look->devices_left == 0) {
    out->kind = KIND_UNKNOWN;
    (void)snprintf(out->why, sizeof out->why, "%.40s: not a device name, stacked too deep, or too many", name);
    return;
  }
  look->devices_left--;
  if (strncmp(name, "zram", 4) == 0) {
    (void)snprintf(path, sizeof path, "/sys/class/block/%s/backing_dev", name);
    struct cm_content content = cm_read_text(look->machine, path);
    bool none = content.status == CM_TEXT_OK ? strcmp(content.text, "none") == 0 : cm_is_missing(&content);
    out->kind = none ? KIND_ZRAM : content.status == CM_TEXT_OK ? KIND_PLAIN : KIND_UNKNOWN;
    (void)snprintf(out->why, sizeof out->why, "%s: %s", name, none ? "compressed in memory" : content.status == CM_TEXT_OK ? "zram that writes back to a device" : cm_content_problem(&content));
    return;
  }
  (void)snprintf(path, sizeof path, "/sys/class/block/%s/dm/uuid", name);
  struct cm_content content = cm_read_text(look->machine, path);
  if (content.status == CM_TEXT_OK && strncmp(content.text, "CRYPT-", 6) == 0) {
    out->kind = KIND_ENCRYPTED;
    /* The type alone: what follows is the volume's own UUID and name. */
    const char *end = strchr(content.text + 6, '-');
    (void)snprintf(out->why, sizeof out->why, "%s: dm-crypt (%.*s)", name, end == NULL ? 24 : (int)(end - content.text < 24 ? end - content.text : 24), content.text);
    return;
  }
  bool mapper = content.status == CM_TEXT_OK;
  if (!mapper && !cm_is_missing(&content)) {
    out->kind = KIND_UNKNOWN;
    (void)snprintf(out->why, sizeof out->why, "%.100s: %s", path, cm_content_problem(&content));
    return;
  }
  struct cm_names below;
  (void)snprintf(path, sizeof path, "/sys/class/block/%s/slaves", name);
  cm_list(look->machine, path, &below);
  if (below.status == CM_TEXT_OK && below.count > below.held) {
    out->kind = KIND_UNKNOWN;
    (void)snprintf(out->why, sizeof out->why, "%s: %zu devices below it", name, below.count);
    return;
  }
  if (below.status != CM_TEXT_OK || below.count == 0) {
    /* Nothing below: a disk or a partition. It must be one that sysfs knows, or nothing is known about it. */
    (void)snprintf(path, sizeof path, "/sys/class/block/%s", name);
    struct cm_names self;
    cm_list(look->machine, path, &self);
    bool known = self.status == CM_TEXT_OK;
    out->kind = known && !mapper ? KIND_PLAIN : KIND_UNKNOWN;
    (void)snprintf(out->why, sizeof out->why, "%s: %s", name, known ? (mapper ? "a mapping with nothing below it" : "no encryption under it") : "not in /sys/class/block");
    return;
  }
  out->kind = KIND_ENCRYPTED;
  for (size_t i = 0; i < below.held; i++) {
    struct verdict one;
    classify_device(look, below.names[i], depth + 1, &one);
    if (one.kind == KIND_ENCRYPTED && out->kind != KIND_ENCRYPTED) continue;
    *out = one;
    if (one.kind == KIND_PLAIN) return;
  }
}

bool cm_mount_of(struct cm_machine *machine, const char *file, struct cm_mount *out, struct cm_content *content) {
  out->point[0] = out->source[0] = '\0';
  *content = cm_read_text(machine, "/proc/self/mountinfo");
  if (content->status != CM_TEXT_OK) return false;
  size_t best = 0;
  struct cm_span rest = {content->text, content->size};
  struct cm_span line;
  while (cm_next_line(&rest, &line)) {
    /* proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, options, …, -, type, source, options */
    struct cm_span word;
    struct cm_span mount = {NULL, 0};
    size_t field = 0;
    size_t dash = 0;
    struct cm_span device = {NULL, 0};
    while (cm_next_word(&line, &word)) {
      field++;
      if (field == 5) mount = word;
      if (dash == 0 && field > 6 && cm_span_is(word, "-")) dash = field;
      if (dash > 0 && field == dash + 2) device = word;
    }
    char point[sizeof out->point];
    if (mount.at == NULL || device.at == NULL || !cm_unescape(mount, point, sizeof point)) continue;
    size_t length = strlen(point);
    bool above = strcmp(point, "/") == 0 || (strncmp(file, point, length) == 0 && file[length] == '/');
    if (!above || length < best) continue; /* of equals, the later is mounted over the earlier */
    best = length;
    memcpy(out->point, point, sizeof point);
    if (!cm_unescape(device, out->source, sizeof out->source)) out->source[0] = '\0';
  }
  return out->source[0] != '\0';
}

#define MAPPER "/dev/mapper/"

/* A mapping by the name in its path; sysfs has it under dm-N. False where sysfs has no such name. */
static bool classify_mapping(struct cm_look *look, const char *path, struct verdict *out) {
  struct cm_names devices;
  char wanted[128];
  (void)snprintf(wanted, sizeof wanted, "%.115s", path + sizeof MAPPER - 1);
  cm_list(look->machine, "/sys/class/block", &devices);
  for (size_t i = 0; i < devices.held; i++) {
    char file[160];
    if (strncmp(devices.names[i], "dm-", 3) != 0) continue;
    (void)snprintf(file, sizeof file, "/sys/class/block/%.48s/dm/name", devices.names[i]);
    struct cm_content name = cm_read_text(look->machine, file);
    if (name.status != CM_TEXT_OK || strcmp(name.text, wanted) != 0) continue;
    classify_device(look, devices.names[i], 0, out);
    return true;
  }
  return false;
}

/* The block device under the file system that holds a swap file: the longest mount point above it. */
static void classify_file(struct cm_look *look, const char *file, struct verdict *out) {
  struct cm_mount mount;
  struct cm_content content;
  out->kind = KIND_UNKNOWN;
  bool found = cm_mount_of(look->machine, file, &mount, &content);
  const char *source = mount.source;
  if (content.status != CM_TEXT_OK) {
    (void)snprintf(out->why, sizeof out->why, "/proc/self/mountinfo: %s", cm_content_problem(&content));
    return;
  }
  if (strncmp(source, MAPPER, sizeof MAPPER - 1) == 0) {
    if (!classify_mapping(look, source, out)) (void)snprintf(out->why, sizeof out->why, "a file on %.60s, which sysfs does not name", source);
    return;
  }
  if (strncmp(source, "/dev/", 5) == 0 && strchr(source + 5, '/') == NULL) {
    classify_device(look, source + 5, 0, out);
    return;
  }
  (void)snprintf(out->why, sizeof out->why, "a file whose file system's device is not known (%.40s)", found ? source : "no mount found");
}

static bool classify_line(struct cm_look *look, struct cm_span line, struct verdict *out) {
  struct cm_span name;
  struct cm_span type;
  char path[256];
  if (!cm_next_word(&line, &name) || !cm_next_word(&line, &type) || !cm_unescape(name, path, sizeof path) || path[0] != '/') return false;
  if (cm_span_is(type, "partition")) {
    if (strncmp(path, "/dev/", 5) != 0) return false;
    /* udev makes /dev/mapper/NAME a link to ../dm-N, and the kernel then shows that; without udev it is a node. */
    if (strncmp(path, MAPPER, sizeof MAPPER - 1) != 0) classify_device(look, path + 5, 0, out);
    else if (!classify_mapping(look, path, out)) (void)snprintf(out->why, sizeof out->why, "a mapping that sysfs does not name");
    return true;
  }
  if (!cm_span_is(type, "file")) return false;
  classify_file(look, path, out);
  return true;
}

static void say(struct cm_look *look, enum cm_state plain, const char *value, const char *evidence, const char *reason) {
  struct cm_fact *fact = cm_say(look->report, CM_MEM_SWAP, CM_PRESENT, "%s", evidence);
  cm_text(fact, "%s", value);
  if (reason[0] != '\0') cm_reason(fact, "%s", reason);
  fact = cm_say(look->report, CM_MEM_SWAP_PLAIN, plain, "%s", evidence);
  if (reason[0] != '\0') cm_reason(fact, "%s", reason);
}

void cm_facts_swap(struct cm_look *look) {
  look->devices_left = 64;
  static const char path[] = "/proc/swaps";
  struct cm_content content = cm_read_text(look->machine, path);
  if (content.status != CM_TEXT_OK) {
    (void)cm_say_no_file(look, CM_MEM_SWAP, path, &content);
    (void)cm_say_no_file(look, CM_MEM_SWAP_PLAIN, path, &content);
    return;
  }
  /* Reading further files reuses the scratch buffer, so the lines are kept. 32 areas at most (swapon(2):
   * MAX_SWAPFILES). */
  char text[4096];
  if (content.size >= sizeof text) {
    content.status = CM_TEXT_TOO_LARGE;
    (void)cm_say_no_file(look, CM_MEM_SWAP, path, &content);
    (void)cm_say_no_file(look, CM_MEM_SWAP_PLAIN, path, &content);
    return;
  }
  memcpy(text, content.text, content.size);
  struct cm_span rest = {text, content.size};
  struct cm_span line;
  struct verdict worst = {KIND_ZRAM, ""};
  size_t areas = 0;
  bool heading = cm_next_line(&rest, &line) && cm_span_starts(line, "Filename");
  bool understood = heading;
  while (understood && cm_next_line(&rest, &line)) {
    struct verdict one = {KIND_UNKNOWN, ""};
    understood = classify_line(look, line, &one);
    if (!understood) break;
    areas++;
    /* Plain is worse than not known, which is worse than encrypted. */
    static const int badness[] = {[KIND_ZRAM] = 0, [KIND_ENCRYPTED] = 1, [KIND_UNKNOWN] = 2, [KIND_PLAIN] = 3};
    if (areas == 1 || badness[one.kind] > badness[worst.kind]) worst = one;
  }
  if (!understood) {
    static const enum cm_fact_name names[] = {CM_MEM_SWAP, CM_MEM_SWAP_PLAIN};
    for (size_t i = 0; i < 2; i++) {
      struct cm_fact *fact = cm_say(look->report, names[i], CM_UNKNOWN, "%s", path);
      cm_reason(fact, heading ? "%s: area %zu is not one" : "%s: no heading", path, areas + 1);
    }
    return;
  }
  if (areas == 0) {
    struct cm_fact *fact = cm_say(look->report, CM_MEM_SWAP, CM_ABSENT, "%s: no area", path);
    cm_text(fact, "none");
    (void)cm_say(look->report, CM_MEM_SWAP_PLAIN, CM_ABSENT, "%s: no area", path);
    return;
  }
  char evidence[256];
  (void)snprintf(evidence, sizeof evidence, "%s: %zu %s; %s", path, areas, areas == 1 ? "area" : "areas", worst.why);
  switch (worst.kind) {
    case KIND_ZRAM: say(look, CM_ABSENT, "zram", evidence, "stays in memory, compressed"); break;
    case KIND_ENCRYPTED: say(look, CM_ABSENT, "encrypted", evidence, ""); break;
    case KIND_PLAIN: say(look, CM_PRESENT, "plain", evidence, "memory is written to disk in the clear"); break;
    case KIND_UNKNOWN: say(look, CM_UNKNOWN, "unknown", evidence, worst.why); break;
  }
}
