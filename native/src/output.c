#include "casemate/output.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "casemate/text.h"

static void put(struct cm_sink *sink, const char *bytes, size_t size) {
  if (sink->overflow || size > sink->size - sink->used) {
    sink->overflow = true;
    return;
  }
  memcpy(sink->buffer + sink->used, bytes, size);
  sink->used += size;
}

static void puts_to(struct cm_sink *sink, const char *text) { put(sink, text, strlen(text)); }

static void putf(struct cm_sink *sink, const char *pattern, ...) __attribute__((format(printf, 2, 3)));

static void putf(struct cm_sink *sink, const char *pattern, ...) {
  char text[160];
  va_list arguments;
  va_start(arguments, pattern);
  int count = vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  if (count < 0 || (size_t)count >= sizeof text) {
    sink->overflow = true;
    return;
  }
  put(sink, text, (size_t)count);
}

/* Length of the UTF-8 sequence at text, 0 when it is not one (RFC 3629). */
static size_t utf8(const unsigned char *text) {
  unsigned char c = text[0];
  size_t size = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
  for (size_t i = 1; i < size; i++) {
    if ((text[i] & 0xc0) != 0x80) return 0;
  }
  if (size == 3 && ((c == 0xe0 && text[1] < 0xa0) || (c == 0xed && text[1] > 0x9f))) return 0;
  if (size == 4 && ((c == 0xf0 && text[1] < 0x90) || (c == 0xf4 && text[1] > 0x8f))) return 0;
  return size;
}

/* Printable ASCII but for the quote and the backslash: what nearly all of the text is. */
static bool is_simple(unsigned char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; }

static void put_string(struct cm_sink *sink, const char *text) {
  put(sink, "\"", 1);
  const char *run = text;
  for (const char *at = text;;) {
    while (is_simple((unsigned char)*at)) at++;
    unsigned char c = (unsigned char)*at;
    size_t size = c == '\0' ? 0 : utf8((const unsigned char *)at);
    if (size > 1) {
      at += size;
      continue;
    }
    put(sink, run, (size_t)(at - run));
    if (c == '\0') break;
    if (size == 0) puts_to(sink, "\\ufffd");
    else if (c == '"' || c == '\\') putf(sink, "\\%c", c);
    else putf(sink, "\\u%04x", c);
    run = ++at;
  }
  put(sink, "\"", 1);
}

static void put_member(struct cm_sink *sink, const char *name, const char *text) {
  puts_to(sink, ",");
  put_string(sink, name);
  puts_to(sink, ":");
  put_string(sink, text);
}

static void put_fact_text_or_null(struct cm_sink *sink, const char *name, const struct cm_fact *fact) {
  puts_to(sink, ",");
  put_string(sink, name);
  puts_to(sink, ":");
  if (fact->state == CM_PRESENT && fact->value_kind == CM_VALUE_TEXT) put_string(sink, fact->text);
  else if (fact->state == CM_PRESENT && fact->value_kind == CM_VALUE_NUMBER) putf(sink, "%llu", (unsigned long long)fact->number);
  else puts_to(sink, "null");
}

static void put_machine(struct cm_sink *sink, struct cm_machine *machine, const struct cm_report *report) {
  puts_to(sink, "\"machine\":{\"architecture\":");
  put_string(sink, cm_architecture(machine));
  put_member(sink, "cpuid", machine->recorded_leaves ? "recording" : cm_is_x86(machine) ? "processor" : "none");
  put_member(sink, "files", machine->root < 0 ? "none" : machine->recorded_root ? "recording" : "system");
  static const struct {
    const char *name;
    enum cm_fact_name fact;
  } members[] = {
      {"vendor", CM_CPU_VENDOR}, {"brand", CM_CPU_BRAND},           {"signature", CM_CPU_SIGNATURE}, {"family", CM_CPU_FAMILY},
      {"model", CM_CPU_MODEL},   {"stepping", CM_CPU_STEPPING},     {"maxLeaf", CM_CPU_MAX_LEAF},    {"maxExtendedLeaf", CM_CPU_MAX_EXTENDED_LEAF},
      {"hypervisor", CM_VIRT_HYPERVISOR}, {"kernel", CM_KERNEL_RELEASE},
  };
  for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
    put_fact_text_or_null(sink, members[i].name, &report->facts[members[i].fact]);
  }
  puts_to(sink, "}");
}

void cm_write_json(struct cm_sink *sink, struct cm_machine *machine, const struct cm_report *report, const bool *wanted) {
  puts_to(sink, "{\"schema\":");
  put_string(sink, CM_SCHEMA);
  puts_to(sink, ",");
  put_machine(sink, machine, report);
  puts_to(sink, ",\"facts\":[");
  bool first = true;
  for (size_t i = 0; i < CM_FACT_COUNT; i++) {
    if (wanted != NULL && !wanted[i]) continue;
    const struct cm_fact *fact = &report->facts[i];
    puts_to(sink, first ? "{\"id\":" : ",{\"id\":");
    first = false;
    put_string(sink, cm_fact_definitions[i].id);
    put_member(sink, "state", cm_state_word(fact->state));
    if (fact->value_kind == CM_VALUE_TEXT) put_member(sink, "value", fact->text);
    if (fact->value_kind == CM_VALUE_NUMBER) putf(sink, ",\"value\":%llu", (unsigned long long)fact->number);
    if (fact->reason[0] != '\0') put_member(sink, "reason", fact->reason);
    put_member(sink, "evidence", fact->evidence);
    if (fact->hint != NULL) put_member(sink, "hint", fact->hint);
    puts_to(sink, "}");
  }
  puts_to(sink, "]}");
}

/* ---------------------------------------------------------------------------------------------- text */

/* Groups by the first part of the id. */
static const struct {
  const char *prefix;
  const char *title;
} groups[] = {
    {"cpu.", "Processor"},
    {"virt.", "Virtualization"},
    {"ec2.", "Amazon EC2 (as claimed by DMI)"},
    {"mem.", "Memory protection"},
    {"attest.", "Attestation"},
    {"arm.", "Arm"},
    {"tpm.", "TPM"},
    {"boot.", "Boot"},
    {"kernel.", "Kernel"},
    {"dump.", "Dumps"},
    {"contradiction.", "Contradictions"},
};

struct style {
  const char *bold, *dim, *good, *bad, *unsure, *off;
};
static const struct style colours = {"\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[0m"};
static const struct style plain = {"", "", "", "", "", ""};

/* Text for a terminal: nothing that a file or processor said may steer it. */
static void put_safe(struct cm_sink *sink, const char *text) {
  const char *run = text;
  for (const char *at = text; *at != '\0';) {
    unsigned char c = (unsigned char)*at;
    size_t size = utf8((const unsigned char *)at);
    bool control = c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)at[1] < 0xa0); /* C0, DEL, C1 */
    if (size > 0 && !control) {
      at += size;
      continue;
    }
    put(sink, run, (size_t)(at - run));
    putf(sink, "\\x%02x", c);
    run = ++at;
  }
  puts_to(sink, run);
}

static void put_fact(struct cm_sink *sink, const struct style *style, size_t index, const struct cm_fact *fact) {
  const struct cm_fact_definition *definition = &cm_fact_definitions[index];
  enum cm_wanted wanted = definition->wanted;
  bool good = (wanted == CM_WANT_PRESENT && fact->state == CM_PRESENT) || (wanted == CM_WANT_ABSENT && fact->state == CM_ABSENT);
  bool bad = wanted != CM_WANT_ANY && !good && fact->state != CM_UNKNOWN;
  const char *colour = fact->state == CM_UNKNOWN ? style->unsure : good ? style->good : bad ? style->bad : fact->state == CM_ABSENT ? style->dim : "";
  putf(sink, "  %-42s %s%-8s%s", definition->id, colour, cm_state_word(fact->state), colour[0] != '\0' ? style->off : "");
  if (fact->value_kind == CM_VALUE_TEXT) {
    puts_to(sink, " ");
    put_safe(sink, fact->text);
  } else if (fact->value_kind == CM_VALUE_NUMBER) {
    putf(sink, " %llu", (unsigned long long)fact->number);
  }
  puts_to(sink, "\n");
  puts_to(sink, style->dim);
  puts_to(sink, "      ");
  if (fact->reason[0] != '\0') {
    put_safe(sink, fact->reason);
    puts_to(sink, "; ");
  }
  put_safe(sink, fact->evidence);
  puts_to(sink, style->off);
  puts_to(sink, "\n");
  if (fact->hint != NULL) {
    puts_to(sink, "      hint: ");
    puts_to(sink, fact->hint);
    puts_to(sink, "\n");
  }
}

void cm_write_text(struct cm_sink *sink, struct cm_machine *machine, const struct cm_report *report, const bool *wanted,
                   bool colour) {
  const struct style *style = colour ? &colours : &plain;
  bool first = true;
  for (size_t group = 0; group < sizeof groups / sizeof groups[0]; group++) {
    bool headed = false;
    for (size_t i = 0; i < CM_FACT_COUNT; i++) {
      if (strncmp(cm_fact_definitions[i].id, groups[group].prefix, strlen(groups[group].prefix)) != 0) continue;
      if (wanted != NULL && !wanted[i]) continue;
      if (!headed) putf(sink, "%s%s%s%s\n", first ? "" : "\n", style->bold, groups[group].title, style->off);
      headed = true;
      first = false;
      put_fact(sink, style, i, &report->facts[i]);
    }
  }
  if (machine->recorded_leaves || machine->recorded_root) {
    putf(sink, "\nFrom a recording: leaves %s, files %s.\n", machine->recorded_leaves ? "recorded" : "of this processor",
         machine->root < 0 ? "none" : machine->recorded_root ? "recorded" : "of this system");
  }
}

void cm_write_list(struct cm_sink *sink, bool json) {
  static const char *const wanted[] = {"any", "absent", "present"};
  if (json) {
    puts_to(sink, "[");
    for (size_t i = 0; i < CM_FACT_COUNT; i++) {
      const struct cm_fact_definition *definition = &cm_fact_definitions[i];
      puts_to(sink, i == 0 ? "{\"id\":" : ",{\"id\":");
      put_string(sink, definition->id);
      put_member(sink, "title", definition->title);
      put_member(sink, "wanted", wanted[definition->wanted]);
      put_member(sink, "source", definition->source);
      if (definition->hint[0] != '\0') put_member(sink, "hint", definition->hint);
      puts_to(sink, "}");
    }
    puts_to(sink, "]");
    return;
  }
  for (size_t i = 0; i < CM_FACT_COUNT; i++) {
    putf(sink, "%-42s ", cm_fact_definitions[i].id);
    puts_to(sink, cm_fact_definitions[i].title);
    puts_to(sink, "\n");
  }
}
