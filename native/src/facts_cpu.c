#include <string.h>

#include "look.h"

static void copy_line(char *out, size_t size, struct cm_span span) {
  size_t length = span.size < size - 1 ? span.size : size - 1;
  memcpy(out, span.at, length);
  out[length] = '\0';
}

/* "vendor_id\t: AuthenticAMD"; the first blank line ends the first processor. */
void cm_cpuinfo_parse(const char *text, struct cm_cpuinfo *out) {
  struct cm_span rest = cm_span_of(text);
  struct cm_span line;
  while (cm_next_line(&rest, &line) && cm_trim(line).size > 0) {
    const char *colon = memchr(line.at, ':', line.size);
    if (colon == NULL) continue;
    struct cm_span name = cm_trim((struct cm_span){line.at, (size_t)(colon - line.at)});
    struct cm_span value = cm_trim((struct cm_span){colon + 1, line.size - (size_t)(colon - line.at) - 1});
    if (cm_span_is(name, "vendor_id")) copy_line(out->vendor, sizeof out->vendor, value);
    if (cm_span_is(name, "microcode")) copy_line(out->microcode, sizeof out->microcode, value);
    if (cm_span_is(name, "CPU implementer")) copy_line(out->implementer, sizeof out->implementer, value);
    if (cm_span_is(name, "flags") || cm_span_is(name, "Features")) copy_line(out->flags, sizeof out->flags, value);
  }
}

static void read_cpuinfo(struct cm_look *look) {
  struct cm_cpuinfo *info = &look->cpuinfo;
  info->vendor[0] = info->microcode[0] = info->implementer[0] = info->flags[0] = '\0';
  info->content = cm_read_head(look->machine, "/proc/cpuinfo");
  if (info->content.status == CM_TEXT_OK) cm_cpuinfo_parse(info->content.text, info);
  info->content.text = NULL;
}

static void put_word(char *out, uint32_t value) {
  for (unsigned i = 0; i < 4; i++) out[i] = (char)(value >> (8 * i) & 0xff);
}

/* Vendors by signature: SDM 2A table 3-8, APM 3 Fn0000_0000, Linux arch/x86/kernel/cpu/hygon.c. */
static void identify(struct cm_look *look) {
  struct cm_regs regs;
  struct cm_machine *machine = look->machine;
  struct cm_report *report = look->report;
  enum cm_leaf_status status = cm_cpuid(machine, 0, 0, &regs);
  look->vendor[0] = '\0';
  if (status != CM_LEAF_OK) {
    static const enum cm_fact_name names[] = {CM_CPU_SIGNATURE, CM_CPU_FAMILY,   CM_CPU_MODEL,
                                              CM_CPU_STEPPING,  CM_CPU_MAX_LEAF, CM_CPU_MAX_EXTENDED_LEAF};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) (void)cm_say_no_leaf(look, names[i], status, 0, 0);
    if (look->cpuinfo.implementer[0] != '\0') {
      /* Arm: the implementer code of MIDR_EL1, as the kernel shows it. */
      struct cm_fact *fact = cm_say(report, CM_CPU_VENDOR, CM_PRESENT, "/proc/cpuinfo CPU implementer %s", look->cpuinfo.implementer);
      cm_text(fact, "%s", strcmp(look->cpuinfo.implementer, "0x41") == 0 ? "Arm" : look->cpuinfo.implementer);
    } else {
      (void)cm_say_no_file(look, CM_CPU_VENDOR, "/proc/cpuinfo", &look->cpuinfo.content);
    }
    return;
  }
  put_word(look->vendor, regs.ebx);
  put_word(look->vendor + 4, regs.edx);
  put_word(look->vendor + 8, regs.ecx);
  look->vendor[12] = '\0';
  look->intel = strcmp(look->vendor, "GenuineIntel") == 0;
  look->amd = strcmp(look->vendor, "AuthenticAMD") == 0 || strcmp(look->vendor, "HygonGenuine") == 0;
  struct cm_fact *fact = cm_say(report, CM_CPU_VENDOR, CM_PRESENT, "CPUID 0x00000000.0x0 EBX=0x%08x EDX=0x%08x ECX=0x%08x",
                                regs.ebx, regs.edx, regs.ecx);
  cm_text(fact, "%s", look->vendor);
  fact = cm_say(report, CM_CPU_MAX_LEAF, CM_PRESENT, "CPUID 0x00000000.0x0 EAX=0x%08x", regs.eax);
  cm_text(fact, "0x%x", regs.eax);

  status = cm_cpuid_raw(machine, 0x80000000u, 0, &regs);
  if (status != CM_LEAF_OK) {
    (void)cm_say_no_leaf(look, CM_CPU_MAX_EXTENDED_LEAF, status, 0x80000000u, 0);
  } else {
    bool there = (regs.eax & 0xffff0000u) == 0x80000000u;
    fact = cm_say(report, CM_CPU_MAX_EXTENDED_LEAF, there ? CM_PRESENT : CM_ABSENT, "CPUID 0x80000000.0x0 EAX=0x%08x", regs.eax);
    if (there) cm_text(fact, "0x%x", regs.eax);
  }

  status = cm_cpuid(machine, 1, 0, &regs);
  if (status != CM_LEAF_OK) {
    static const enum cm_fact_name names[] = {CM_CPU_SIGNATURE, CM_CPU_FAMILY, CM_CPU_MODEL, CM_CPU_STEPPING};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) (void)cm_say_no_leaf(look, names[i], status, 1, 0);
    return;
  }
  uint32_t family = regs.eax >> 8 & 0xf;
  uint32_t model = regs.eax >> 4 & 0xf;
  if (family == 0x6 || family == 0xf) model |= regs.eax >> 12 & 0xf0;
  if (family == 0xf) family += regs.eax >> 20 & 0xff;
  fact = cm_say(report, CM_CPU_SIGNATURE, CM_PRESENT, "CPUID 0x00000001.0x0 EAX=0x%08x", regs.eax);
  cm_text(fact, "0x%x", regs.eax);
  fact = cm_say(report, CM_CPU_FAMILY, CM_PRESENT, "CPUID 0x00000001.0x0 EAX=0x%08x bits 11:8, 27:20", regs.eax);
  cm_number(fact, family);
  fact = cm_say(report, CM_CPU_MODEL, CM_PRESENT, "CPUID 0x00000001.0x0 EAX=0x%08x bits 7:4, 19:16", regs.eax);
  cm_number(fact, model);
  fact = cm_say(report, CM_CPU_STEPPING, CM_PRESENT, "CPUID 0x00000001.0x0 EAX=0x%08x bits 3:0", regs.eax);
  cm_number(fact, regs.eax & 0xf);
}

static void brand(struct cm_look *look) {
  char text[49] = {0};
  for (uint32_t i = 0; i < 3; i++) {
    struct cm_regs regs;
    uint32_t leaf = 0x80000002u + i;
    enum cm_leaf_status status = cm_cpuid(look->machine, leaf, 0, &regs);
    if (status != CM_LEAF_OK) {
      (void)cm_say_no_leaf(look, CM_CPU_BRAND, status, leaf, 0);
      return;
    }
    for (int reg = 0; reg < 4; reg++) put_word(text + 16 * i + 4 * (unsigned)reg, cm_register(&regs, reg));
  }
  struct cm_span shown = cm_trim(cm_span_of(text));
  struct cm_fact *fact = cm_say(look->report, CM_CPU_BRAND, shown.size > 0 ? CM_PRESENT : CM_ABSENT,
                                "CPUID 0x80000002-0x80000004 (a hypervisor chooses it)");
  if (shown.size > 0) cm_text(fact, "%.*s", (int)shown.size, shown.at);
}

static void smt(struct cm_look *look) {
  static const char path[] = "/sys/devices/system/cpu/smt/active";
  struct cm_content content = cm_read_text(look->machine, path);
  bool readable = content.status == CM_TEXT_OK && (strcmp(content.text, "0") == 0 || strcmp(content.text, "1") == 0);
  if (!readable) {
    struct cm_fact *fact = cm_say_no_file(look, CM_CPU_SMT, path, &content);
    if (content.status == CM_TEXT_OK) cm_reason(fact, "%s says neither 0 nor 1", path);
    return;
  }
  bool active = content.text[0] == '1';
  char control[32] = "not readable";
  content = cm_read_text(look->machine, "/sys/devices/system/cpu/smt/control");
  if (content.status == CM_TEXT_OK) cm_copy(control, sizeof control, cm_span_of(content.text));
  struct cm_fact *fact = cm_say(look->report, CM_CPU_SMT, active ? CM_PRESENT : CM_ABSENT, "%s: %d; smt/control: %s", path, active, control);
  if (content.status == CM_TEXT_OK) cm_text(fact, "%s", control);
}

void cm_facts_cpu(struct cm_look *look) {
  read_cpuinfo(look);
  identify(look);
  brand(look);
  (void)cm_say_field(look, CM_CPU_PHYSICAL_ADDRESS_BITS, 0x80000008u, 0, CM_EAX, 0, 8);
  if (look->cpuinfo.microcode[0] != '\0') {
    struct cm_fact *fact = cm_say(look->report, CM_CPU_MICROCODE, CM_PRESENT, "/proc/cpuinfo microcode");
    cm_text(fact, "%s", look->cpuinfo.microcode);
  } else if (look->cpuinfo.content.status == CM_TEXT_OK) {
    (void)cm_say(look->report, CM_CPU_MICROCODE, CM_ABSENT, "/proc/cpuinfo has no microcode line");
  } else {
    (void)cm_say_no_file(look, CM_CPU_MICROCODE, "/proc/cpuinfo", &look->cpuinfo.content);
  }
  smt(look);
}
