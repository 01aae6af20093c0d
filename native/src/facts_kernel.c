#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "look.h"

static void release(struct cm_look *look) {
  static const char path[] = "/proc/sys/kernel/osrelease";
  struct cm_content content = cm_read_text(look->machine, path);
  if (content.status != CM_TEXT_OK) {
    (void)cm_say_no_file(look, CM_KERNEL_RELEASE, path, &content);
    return;
  }
  struct cm_fact *fact = cm_say(look->report, CM_KERNEL_RELEASE, CM_PRESENT, "%s", path);
  cm_text(fact, "%.100s", content.text);
}

/* "none [integrity] confidentiality": the one in brackets is in force. */
static void lockdown(struct cm_look *look) {
  static const char path[] = "/sys/kernel/security/lockdown";
  struct cm_content content = cm_read_text(look->machine, path);
  if (content.status != CM_TEXT_OK) {
    struct cm_fact *fact = cm_say_no_file(look, CM_KERNEL_LOCKDOWN, path, &content);
    if (cm_is_missing(&content)) cm_reason(fact, "no %s: securityfs not mounted, or a kernel without lockdown", path);
    return;
  }
  static const char *const modes[] = {"[none]", "[integrity]", "[confidentiality]"};
  for (int i = 0; i < 3; i++) {
    if (!cm_has_word(content.text, modes[i])) continue;
    struct cm_fact *fact = cm_say(look->report, CM_KERNEL_LOCKDOWN, i == 0 ? CM_ABSENT : CM_PRESENT, "%s: %.60s", path, content.text);
    cm_text(fact, "%.*s", (int)strlen(modes[i]) - 2, modes[i] + 1);
    return;
  }
  struct cm_fact *fact = cm_say(look->report, CM_KERNEL_LOCKDOWN, CM_UNKNOWN, "%s: %.60s", path, content.text);
  cm_reason(fact, "none of the modes is in brackets");
}

#define VULNERABILITIES "/sys/devices/system/cpu/vulnerabilities"

/* ABI testing/sysfs-devices-system-cpu: "Not affected", "Vulnerable…", "Mitigation: …", each perhaps after
 * "KVM: "; a mitigation can leave SMT siblings open: "…; SMT vulnerable". */
static enum cm_state verdict(const char *text, const char **why) {
  *why = NULL;
  if (strncmp(text, "KVM: ", 5) == 0) text += 5;
  if (strncmp(text, "Not affected", 12) == 0) return CM_ABSENT;
  if (strncmp(text, "Vulnerable", 10) == 0 || strncmp(text, "Processor vulnerable", 20) == 0) return CM_PRESENT;
  if (strncmp(text, "Mitigation", 10) == 0) {
    if (strstr(text, "SMT vulnerable") != NULL) {
      *why = "mitigated, but not between SMT siblings";
      return CM_PRESENT;
    }
    if (strstr(text, "SMT Host state unknown") != NULL) {
      *why = "mitigated; whether the host shares a core with others is not known";
      return CM_UNKNOWN;
    }
    *why = "mitigated";
    return CM_ABSENT;
  }
  *why = "the kernel does not know";
  return CM_UNKNOWN;
}

static void vulnerabilities(struct cm_look *look) {
  struct cm_names names;
  static const char prefix[] = "kernel.vulnerability.";
  cm_list(look->machine, VULNERABILITIES, &names);
  int inside = names.status == CM_TEXT_OK ? cm_enter(look->machine, VULNERABILITIES) : -ENODATA;
  bool listed[CM_NAMES_MAX] = {false};
  struct cm_content directory = {names.status, names.error, 0, NULL};
  size_t vulnerable = 0;
  size_t unknown = 0;
  char found[224] = "";
  size_t used = 0;
  for (int i = 0; i < (int)CM_FACT_COUNT + (int)names.held; i++) {
    char file[64];
    int name = -1;
    if (i < (int)CM_FACT_COUNT) {
      const char *id = cm_fact_definitions[i].id;
      if (strncmp(id, prefix, sizeof prefix - 1) != 0) continue;
      name = i;
      cm_copy(file, sizeof file, cm_span_of(id + sizeof prefix - 1));
      for (char *c = file; *c != '\0'; c++) *c = *c == '-' ? '_' : *c;
      bool there = false;
      for (size_t j = 0; j < names.held; j++) {
        if (strcmp(names.names[j], file) == 0) there = listed[j] = true;
      }
      if (!there) {
        struct cm_fact *fact = cm_say(look->report, (enum cm_fact_name)name, CM_UNKNOWN, VULNERABILITIES "/%s: %s", file,
                                      names.status == CM_TEXT_OK ? "ENOENT" : cm_content_problem(&directory));
        cm_reason(fact, names.status == CM_TEXT_OK ? "this kernel does not report it" : "%s", cm_content_problem(&directory));
        fact->hint = NULL;
        continue;
      }
    } else {
      size_t extra = (size_t)(i - (int)CM_FACT_COUNT);
      if (listed[extra]) continue;
      cm_copy(file, sizeof file, cm_span_of(names.names[extra]));
    }
    char path[160];
    (void)snprintf(path, sizeof path, VULNERABILITIES "/%s", file);
    struct cm_content content = cm_read_text_in(look->machine, inside, path);
    const char *why = NULL;
    enum cm_state state = content.status == CM_TEXT_OK ? verdict(content.text, &why) : CM_UNKNOWN;
    if (name >= 0) {
      if (content.status == CM_TEXT_OK) {
        struct cm_fact *fact = cm_say(look->report, (enum cm_fact_name)name, state, "%s: %.180s", path, content.text);
        cm_text(fact, "%.180s", content.text);
        if (why != NULL) cm_reason(fact, "%s", why);
      } else {
        (void)cm_say_no_file(look, (enum cm_fact_name)name, path, &content);
      }
    }
    if (state == CM_UNKNOWN) unknown++;
    if (state != CM_PRESENT) continue;
    vulnerable++;
    int count = snprintf(found + used, sizeof found - used, "%s%s", used > 0 ? " " : "", file);
    if (count > 0 && (size_t)count < sizeof found - used) used += (size_t)count;
  }
  cm_leave(inside);
  if (names.status != CM_TEXT_OK || names.count == 0) {
    if (names.status == CM_TEXT_OK) directory.status = CM_TEXT_EMPTY;
    (void)cm_say_no_file(look, CM_KERNEL_VULNERABILITIES, VULNERABILITIES, &directory);
    return;
  }
  enum cm_state state = vulnerable > 0 ? CM_PRESENT : unknown > 0 ? CM_UNKNOWN : CM_ABSENT;
  struct cm_fact *fact = cm_say(look->report, CM_KERNEL_VULNERABILITIES, state, VULNERABILITIES ": %zu entries, %zu vulnerable, %zu not known",
                                names.count, vulnerable, unknown);
  if (vulnerable > 0) cm_text(fact, "%s", found);
  if (state == CM_UNKNOWN) cm_reason(fact, "the kernel does not know about %zu of them", unknown);
}

static void dumps(struct cm_look *look) {
  static const char pattern_path[] = "/proc/sys/kernel/core_pattern";
  static const char limits_path[] = "/proc/self/limits";
  static const char suid_path[] = "/proc/sys/fs/suid_dumpable";
  static const char kdump_path[] = "/sys/kernel/kexec_crash_loaded";
  struct cm_content content = cm_read_text(look->machine, pattern_path);
  bool piped = false;
  bool pattern_known = content.status == CM_TEXT_OK;
  bool pattern_empty = pattern_known && content.size == 0;
  struct cm_fact *fact;
  if (pattern_known) {
    piped = content.text[0] == '|';
    fact = cm_say(look->report, CM_DUMP_CORE_PATTERN, pattern_empty ? CM_ABSENT : CM_PRESENT, "%s: %.120s", pattern_path, content.text);
    if (!pattern_empty) cm_text(fact, "%.200s", content.text);
  } else {
    (void)cm_say_no_file(look, CM_DUMP_CORE_PATTERN, pattern_path, &content);
  }

  /* "Max core file size        0                    unlimited            bytes": soft limit, hard limit. A pipe is
   * fed whatever the limit is (core(5)). */
  content = cm_read_text(look->machine, limits_path);
  struct cm_span soft = {NULL, 0};
  if (content.status == CM_TEXT_OK) {
    struct cm_span rest = {content.text, content.size};
    struct cm_span line;
    while (cm_next_line(&rest, &line)) {
      static const char name[] = "Max core file size";
      if (!cm_span_starts(line, name)) continue;
      struct cm_span values = {line.at + sizeof name - 1, line.size - (sizeof name - 1)};
      if (!cm_next_word(&values, &soft)) soft.at = NULL;
    }
  }
  if (!pattern_known) {
    (void)cm_say_follows(look, CM_DUMP_CORE_ENABLED, CM_UNKNOWN, CM_DUMP_CORE_PATTERN);
  } else if (piped || pattern_empty) {
    (void)cm_say_follows(look, CM_DUMP_CORE_ENABLED, piped ? CM_PRESENT : CM_ABSENT, CM_DUMP_CORE_PATTERN);
    cm_reason(&look->report->facts[CM_DUMP_CORE_ENABLED], piped ? "piped to a program, whatever the limit is" : "no pattern");
  } else if (soft.at == NULL) {
    fact = cm_say_no_file(look, CM_DUMP_CORE_ENABLED, limits_path, &content);
    if (content.status == CM_TEXT_OK) cm_reason(fact, "%s has no line for core files", limits_path);
  } else {
    bool none = cm_span_is(soft, "0");
    (void)cm_say(look->report, CM_DUMP_CORE_ENABLED, none ? CM_ABSENT : CM_PRESENT, "%s: soft limit of core files %.*s", limits_path,
                 (int)(soft.size < 24 ? soft.size : 24), soft.at);
  }

  content = cm_read_text(look->machine, suid_path);
  uint64_t value;
  if (content.status == CM_TEXT_OK && cm_decimal(cm_span_of(content.text), 2, &value)) {
    fact = cm_say(look->report, CM_DUMP_SUID, value == 0 ? CM_ABSENT : CM_PRESENT, "%s: %s", suid_path, content.text);
    cm_number(fact, value);
  } else {
    fact = cm_say_no_file(look, CM_DUMP_SUID, suid_path, &content);
    if (content.status == CM_TEXT_OK) cm_reason(fact, "%s is not 0, 1 or 2", suid_path);
  }
  content = cm_read_text(look->machine, kdump_path);
  if (content.status == CM_TEXT_OK && cm_decimal(cm_span_of(content.text), 1, &value)) {
    (void)cm_say(look->report, CM_DUMP_KDUMP, value == 0 ? CM_ABSENT : CM_PRESENT, "%s: %s", kdump_path, content.text);
  } else {
    fact = cm_say_no_file(look, CM_DUMP_KDUMP, kdump_path, &content);
    if (content.status == CM_TEXT_OK) cm_reason(fact, "%s is neither 0 nor 1", kdump_path);
    if (cm_is_missing(&content)) cm_reason(fact, "no %s: a kernel without kexec, or sysfs is not there", kdump_path);
  }
}

/* Hibernation is there when /sys/power/state offers "disk" and /sys/power/disk does not say [disabled]. */
static void hibernation(struct cm_look *look) {
  static const char state_path[] = "/sys/power/state";
  static const char disk_path[] = "/sys/power/disk";
  struct cm_content content = cm_read_text(look->machine, state_path);
  if (content.status == CM_TEXT_EMPTY) {
    /* The kernel writes nothing when it has no sleep state (kernel/power/main.c state_show), and then has no
     * /sys/power/disk, either; an emptied file beside one is not believed. */
    struct cm_content disk = cm_read_text(look->machine, disk_path);
    if (cm_is_missing(&disk)) {
      (void)cm_say(look->report, CM_MEM_HIBERNATION, CM_ABSENT, "%s: empty; no %s", state_path, disk_path);
      return;
    }
  }
  if (content.status != CM_TEXT_OK) {
    (void)cm_say_no_file(look, CM_MEM_HIBERNATION, state_path, &content);
    return;
  }
  char states[64];
  cm_copy(states, sizeof states, cm_span_of(content.text));
  if (!cm_has_word(states, "disk")) {
    (void)cm_say(look->report, CM_MEM_HIBERNATION, CM_ABSENT, "%s: \"%s\"", state_path, states);
    return;
  }
  content = cm_read_text(look->machine, disk_path);
  if (content.status != CM_TEXT_OK) {
    (void)cm_say_no_file(look, CM_MEM_HIBERNATION, disk_path, &content);
    return;
  }
  bool disabled = cm_has_word(content.text, "[disabled]");
  (void)cm_say(look->report, CM_MEM_HIBERNATION, disabled ? CM_ABSENT : CM_PRESENT, "%s: \"%s\"; %s: %.80s", state_path, states, disk_path, content.text);
}

void cm_facts_kernel(struct cm_look *look) {
  release(look);
  lockdown(look);
  vulnerabilities(look);
  dumps(look);
  hibernation(look);
}
