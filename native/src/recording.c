#include "casemate/recording.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "casemate/fact.h"
#include "casemate/msr_list.h"
#include "casemate/text.h"

enum { LINE_MAX_BYTES = 1024 };

enum format { FORMAT_UNDECIDED, FORMAT_CPUID_R, FORMAT_INSTLATX64 };

struct parser {
  struct cm_processor *first; /* the processor that is kept */
  struct cm_processor *other; /* the one being read now, when it is not the first: only checked */
  struct cm_recording_error *error;
  unsigned long line;
  enum format format;
  bool ours;              /* began with "casemate-recording 1" */
  unsigned long headings; /* processor headings met */
  unsigned long processors;
  struct cm_processor *current;
  uint32_t previous_leaf, previous_subleaf;
  bool previous_was_leaf;
};

static bool fail(struct parser *parser, const char *message, ...) __attribute__((format(printf, 2, 3)));

static bool fail(struct parser *parser, const char *message, ...) {
  va_list arguments;
  va_start(arguments, message);
  if (vsnprintf(parser->error->message, sizeof parser->error->message, message, arguments) < 0) {
    parser->error->message[0] = '\0';
  }
  va_end(arguments);
  parser->error->line = parser->line;
  return false;
}

static void begin_processor(struct parser *parser) {
  parser->processors++;
  parser->previous_was_leaf = false;
  if (parser->processors == 1) {
    parser->current = parser->first;
    return;
  }
  parser->other->leaf_count = 0;
  parser->other->msr_count = 0;
  parser->current = parser->other;
}

/* A processor that says it has leaf 1 and was cut off before it is no recording of anything. */
static bool finish_processor(struct parser *parser) {
  if (parser->processors == 0) return true;
  const struct cm_processor *processor = parser->current;
  const struct cm_leaf *zero = cm_processor_find(processor, 0, 0);
  if (zero == NULL) {
    if (processor->leaf_count == 0 && parser->ours) return true; /* not an x86 processor; judged at the end */
    return fail(parser, "processor %lu has no leaf 0x00000000", parser->processors - 1);
  }
  if (zero->regs.eax >= 1 && cm_processor_find(processor, 1, 0) == NULL) {
    return fail(parser, "processor %lu ends before leaf 0x00000001", parser->processors - 1);
  }
  return true;
}

static bool decide(struct parser *parser, enum format format) {
  if (parser->format == FORMAT_UNDECIDED) parser->format = format;
  return parser->format == format || fail(parser, "two recording formats in one file");
}

/* Leaves whose answer depends on ECX: SDM 2A CPUID, APM 3 appendix E. */
bool cm_has_subleaves(uint32_t leaf) {
  static const uint32_t leaves[] = {0x4,  0x7,  0xb,  0xd,  0xf,  0x10, 0x12, 0x14, 0x17, 0x18,
                                    0x1b, 0x1d, 0x1e, 0x1f, 0x20, 0x23, 0x24, 0x8000001d, 0x80000020, 0x80000026};
  for (size_t i = 0; i < sizeof leaves / sizeof leaves[0]; i++) {
    if (leaves[i] == leaf) return true;
  }
  return false;
}

/* Old AIDA64 versions wrote subleaves one after the other without a number. Leaf 7 had one in their days. */
static bool repeats_unnumbered(uint32_t leaf) { return leaf != 0x7 && cm_has_subleaves(leaf); }

static bool add_leaf(struct parser *parser, uint32_t leaf, bool numbered, uint32_t subleaf, const struct cm_regs *regs) {
  if (parser->processors == 0) begin_processor(parser);
  if (!numbered && parser->previous_was_leaf && parser->previous_leaf == leaf && repeats_unnumbered(leaf)) {
    subleaf = parser->previous_subleaf + 1;
  }
  if (leaf == 0 && subleaf == 0 && parser->format == FORMAT_INSTLATX64 &&
      cm_processor_find(parser->current, 1, 0) != NULL) {
    /* Dumps without headings: the next processor begins at leaf 0 again. */
    const struct cm_leaf *zero = cm_processor_find(parser->current, 0, 0);
    if (zero != NULL && memcmp(&zero->regs, regs, sizeof *regs) == 0) {
      if (!finish_processor(parser)) return false;
      begin_processor(parser);
    }
  }
  switch (cm_processor_add_leaf(parser->current, leaf, subleaf, regs)) {
    case CM_ADDED: break;
    case CM_ADD_DUPLICATE: return fail(parser, "leaf 0x%08x subleaf 0x%x a second time", leaf, subleaf);
    case CM_ADD_FULL: return fail(parser, "more than %d leaves for one processor", CM_LEAVES_MAX);
  }
  parser->previous_leaf = leaf;
  parser->previous_subleaf = subleaf;
  parser->previous_was_leaf = true;
  return true;
}

static bool add_msr(struct parser *parser, uint32_t index, int error, uint64_t value) {
  if (parser->processors == 0) return fail(parser, "an MSR before the first processor");
  /* MSRs follow the leaves of the last processor in InstLatx64 dumps and belong to the machine; a dump that has
   * them for every processor may repeat them. */
  if (cm_processor_add_msr(parser->first, index, error, value) == CM_ADDED) return true;
  for (size_t i = 0; i < parser->first->msr_count; i++) {
    const struct cm_msr *known = &parser->first->msrs[i];
    if (known->index == index && known->error == error && known->value == value) return true;
  }
  return fail(parser, "MSR 0x%08x a second time, with another value", index);
}

bool cm_is_wanted_msr(uint64_t index) {
  static const uint32_t wanted[] = {
#define M(number, name, source) number,
      CM_MSR_LIST(M)
#undef M
  };
  for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
    if (wanted[i] == index) return true;
  }
  return false;
}

/* ---------------------------------------------------------------------------- cpuid -r and our own */

static bool register_value(struct cm_span word, const char *name, uint32_t *out) {
  uint64_t value;
  if (!cm_span_starts(word, name) || word.size < 5 || word.at[3] != '=') return false;
  if (!cm_hex_0x((struct cm_span){word.at + 4, word.size - 4}, 8, &value)) return false;
  *out = (uint32_t)value;
  return true;
}

/* "0x00000007 0x01: eax=0x00000020 ebx=0x00000000 ecx=0x00000000 edx=0x00000000"; versions of cpuid before
 * 2008 have no subleaf. */
static bool cpuid_r_leaf(struct parser *parser, struct cm_span line) {
  struct cm_span word;
  uint64_t leaf = 0;
  uint64_t subleaf = 0;
  bool numbered = false;
  struct cm_span rest = line;
  if (!cm_next_word(&rest, &word)) return fail(parser, "empty leaf line");
  bool colon = word.size > 0 && word.at[word.size - 1] == ':';
  if (colon) word.size--;
  if (!cm_hex_0x(word, 8, &leaf)) return fail(parser, "leaf number is not 0x and up to 8 hexadecimal digits");
  if (!colon) {
    if (!cm_next_word(&rest, &word) || word.at[word.size - 1] != ':') return fail(parser, "no ':' after the subleaf");
    word.size--;
    if (!cm_hex_0x(word, 8, &subleaf)) return fail(parser, "subleaf is not 0x and hexadecimal digits");
    numbered = true;
  }
  struct cm_regs regs;
  if (!cm_next_word(&rest, &word) || !register_value(word, "eax", &regs.eax) || !cm_next_word(&rest, &word) ||
      !register_value(word, "ebx", &regs.ebx) || !cm_next_word(&rest, &word) || !register_value(word, "ecx", &regs.ecx) ||
      !cm_next_word(&rest, &word) || !register_value(word, "edx", &regs.edx)) {
    return fail(parser, "not eax=0x… ebx=0x… ecx=0x… edx=0x…");
  }
  if (cm_trim(rest).size != 0) return fail(parser, "something after edx");
  return add_leaf(parser, (uint32_t)leaf, numbered, (uint32_t)subleaf, &regs);
}

/* "CPU:" (cpuid -1) or "CPU 12:". */
static bool cpuid_r_heading(struct cm_span line) {
  if (cm_span_is(line, "CPU:")) return true;
  uint64_t number;
  return cm_span_starts(line, "CPU ") && line.at[line.size - 1] == ':' &&
         cm_decimal((struct cm_span){line.at + 4, line.size - 5}, 1u << 20, &number);
}

/* "MSR 0x0000003a: 0x0000000000000005" or "MSR 0x00000982: EIO". */
static bool own_msr(struct parser *parser, struct cm_span line) {
  struct cm_span rest = {line.at + 4, line.size - 4};
  struct cm_span word;
  uint64_t index = 0;
  uint64_t value = 0;
  if (!cm_next_word(&rest, &word) || word.at[word.size - 1] != ':' ||
      !cm_hex_0x((struct cm_span){word.at, word.size - 1}, 8, &index)) {
    return fail(parser, "not MSR 0x…: 0x…");
  }
  if (!cm_next_word(&rest, &word) || cm_trim(rest).size != 0) return fail(parser, "not one value after the MSR");
  int error = 0;
  if (!cm_hex_0x(word, 16, &value)) {
    char name[32];
    cm_copy(name, sizeof name, word);
    error = cm_errno_number(name);
    if (error == 0) return fail(parser, "MSR value is neither 0x and hexadecimal digits nor an errno name");
  }
  return !cm_is_wanted_msr(index) || add_msr(parser, (uint32_t)index, error, value);
}

static bool own_architecture(struct parser *parser, struct cm_span line) {
  struct cm_span value = cm_trim((struct cm_span){line.at + 13, line.size - 13});
  static const char *const known[] = {"x86_64", "i386", "aarch64", "other"};
  if (parser->first->architecture[0] != '\0') return fail(parser, "architecture a second time");
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    if (!cm_span_is(value, known[i])) continue;
    cm_copy(parser->first->architecture, sizeof parser->first->architecture, value);
    return true;
  }
  return fail(parser, "architecture is not x86_64, i386, aarch64 or other");
}

static bool cpuid_r_line(struct parser *parser, struct cm_span line) {
  if (cpuid_r_heading(line)) {
    if (!finish_processor(parser)) return false;
    parser->headings++;
    begin_processor(parser);
    return true;
  }
  if (cm_span_starts(line, "0x")) return cpuid_r_leaf(parser, line);
  if (cm_span_starts(line, "MSR ")) return own_msr(parser, line);
  if (parser->ours && cm_span_starts(line, "architecture ")) return own_architecture(parser, line);
  return fail(parser, "not a line of cpuid -r");
}

/* ------------------------------------------------------------------------------ InstLatx64 / AIDA64 */

/* "00000010-68747541-444D4163-69746E65", then perhaps notes in brackets, of which [SL 01] is the subleaf.
 * Some versions put blanks for the dashes. */
static bool instlatx64_registers(struct parser *parser, struct cm_span rest, struct cm_regs *regs, bool *numbered,
                                 uint32_t *subleaf) {
  uint32_t *const out[] = {&regs->eax, &regs->ebx, &regs->ecx, &regs->edx};
  rest = cm_trim(rest);
  for (size_t i = 0; i < 4; i++) {
    uint64_t value;
    if (rest.size < 8 || !cm_hex((struct cm_span){rest.at, 8}, 8, &value)) {
      return fail(parser, "register %zu is not 8 hexadecimal digits", i + 1);
    }
    *out[i] = (uint32_t)value;
    rest.at += 8;
    rest.size -= 8;
    if (i == 3) break;
    if (rest.size == 0 || (rest.at[0] != '-' && rest.at[0] != ' ')) return fail(parser, "cut off after register %zu", i + 1);
    rest.at++;
    rest.size--;
  }
  if (rest.size > 0 && rest.at[0] != ' ' && rest.at[0] != '\t') return fail(parser, "more than 8 digits in register 4");
  rest = cm_trim(rest); /* notes for people, but for the first in brackets */
  if (!cm_span_starts(rest, "[SL ")) return true;
  const char *end = memchr(rest.at, ']', rest.size);
  uint64_t number;
  if (end == NULL || !cm_hex((struct cm_span){rest.at + 4, (size_t)(end - rest.at) - 4}, 8, &number)) {
    return fail(parser, "subleaf is not [SL and hexadecimal digits]");
  }
  *numbered = true;
  *subleaf = (uint32_t)number;
  return true;
}

/* "CPUID 8000001F: …" or, in AIDA64 reports, "CPUID 8000001F          …". Reports also have lines such as
 * "CPUID Manufacturer", which are prose. */
static bool instlatx64_leaf(struct parser *parser, struct cm_span line, bool *is_leaf) {
  struct cm_span rest = cm_trim((struct cm_span){line.at + 6, line.size - 6});
  size_t digits = 0;
  while (digits < rest.size && rest.at[digits] != ':' && rest.at[digits] != ' ' && rest.at[digits] != '\t') digits++;
  uint64_t leaf;
  bool starts_with_digit = rest.size > 0 && rest.at[0] >= '0' && rest.at[0] <= '9';
  bool hexadecimal = digits == 8 && cm_hex((struct cm_span){rest.at, digits}, 8, &leaf);
  *is_leaf = hexadecimal || starts_with_digit;
  if (!*is_leaf) {
    /* "CPUID 8OOOOOOO: 00000010-68747541-…": a leaf whose number was tampered with still looks like one. */
    struct cm_span after = {rest.at + digits, rest.size - digits};
    if (after.size > 10 && after.at[0] == ':' && memchr(after.at, '-', after.size) != NULL) {
      return fail(parser, "leaf number is not 8 hexadecimal digits");
    }
    return true;
  }
  if (!hexadecimal) return fail(parser, "leaf number is not 8 hexadecimal digits");
  if (!decide(parser, FORMAT_INSTLATX64)) return false;
  rest = cm_trim((struct cm_span){rest.at + digits, rest.size - digits});
  if (rest.size > 0 && rest.at[0] == ':') {
    rest.at++;
    rest.size--;
  }
  struct cm_regs regs;
  bool numbered = false;
  uint32_t subleaf = 0;
  return instlatx64_registers(parser, rest, &regs, &numbered, &subleaf) &&
         add_leaf(parser, (uint32_t)leaf, numbered, subleaf, &regs);
}

/* "MSR 0000003A: 0000-0000-0000-0005 [note]", "MSR 00000300: < FAILED >". */
static bool instlatx64_msr(struct parser *parser, struct cm_span line) {
  struct cm_span rest = cm_trim((struct cm_span){line.at + 4, line.size - 4});
  size_t digits = 0;
  while (digits < rest.size && rest.at[digits] != ':' && rest.at[digits] != ' ' && rest.at[digits] != '\t') digits++;
  uint64_t index;
  if (digits != 8 || !cm_hex((struct cm_span){rest.at, digits}, 8, &index)) return true; /* prose */
  if (!cm_is_wanted_msr(index)) return true;
  struct cm_span value = {rest.at + digits, rest.size - digits};
  if (value.size > 0 && value.at[0] == ':') {
    value.at++;
    value.size--;
  }
  value = cm_trim(value);
  if (value.size > 0 && value.at[0] == '<') return add_msr(parser, (uint32_t)index, cm_errno_number("EIO"), 0);
  uint64_t sum = 0;
  size_t seen = 0;
  size_t at = 0;
  for (; at < value.size && value.at[at] != ' ' && value.at[at] != '\t'; at++) {
    if (value.at[at] == '-') continue;
    uint64_t digit;
    if (!cm_hex((struct cm_span){value.at + at, 1}, 1, &digit)) return fail(parser, "MSR value is not hexadecimal");
    sum = sum << 4 | digit;
    seen++;
  }
  if (seen != 16) return fail(parser, "MSR value does not have 16 hexadecimal digits");
  return add_msr(parser, (uint32_t)index, 0, sum);
}

static bool contains(struct cm_span span, const char *text) {
  size_t size = strlen(text);
  for (size_t i = 0; i + size <= span.size; i++) {
    if (memcmp(span.at + i, text, size) == 0) return true;
  }
  return false;
}

/* "------[ Logical CPU #0 ]------", "------[ CPUID Registers / Logical CPU #0 ]------",
 * "CPUID Registers (CPU #1):", "CPUID Registers (CPU #1 Virtual):", "CPU#000 AffMask: 0x00000001". */
static bool instlatx64_heading(struct cm_span line) {
  return contains(line, "Logical CPU #") || cm_span_starts(line, "CPUID Registers (CPU #") ||
         (cm_span_starts(line, "CPU#") && contains(line, "AffMask"));
}

static bool instlatx64_line(struct parser *parser, struct cm_span line) {
  if (instlatx64_heading(line)) {
    if (!decide(parser, FORMAT_INSTLATX64)) return false;
    /* Leaves before the first heading are of no known processor: they count as one of their own. */
    if (!finish_processor(parser)) return false;
    parser->headings++;
    begin_processor(parser);
    return true;
  }
  if (cm_span_starts(line, "CPUID ")) {
    bool is_leaf;
    if (!instlatx64_leaf(parser, line, &is_leaf)) return false;
    if (is_leaf) return true;
  } else if (cm_span_starts(line, "MSR ")) {
    parser->previous_was_leaf = false;
    return instlatx64_msr(parser, line);
  }
  parser->previous_was_leaf = false;
  return true; /* the rest of such a dump is prose for people */
}

/* --------------------------------------------------------------------------------------------- both */

static bool parse_line(struct parser *parser, struct cm_span line) {
  line = cm_trim(line);
  if (line.size == 0 || line.at[0] == '#') return true;
  if (parser->format == FORMAT_UNDECIDED) {
    if (cm_span_is(line, "casemate-recording 1")) {
      parser->ours = true;
      return decide(parser, FORMAT_CPUID_R);
    }
    if (cm_span_starts(line, "casemate-recording ")) return fail(parser, "a recording of a version that is not known here");
    if (cpuid_r_heading(line) || cm_span_starts(line, "0x")) parser->format = FORMAT_CPUID_R;
  }
  if (parser->format == FORMAT_CPUID_R) {
    if (cm_span_starts(line, "CPUID ")) return decide(parser, FORMAT_INSTLATX64);
    return cpuid_r_line(parser, line);
  }
  if (parser->format == FORMAT_INSTLATX64 && cm_span_starts(line, "0x") && contains(line, "eax=")) {
    return decide(parser, FORMAT_CPUID_R);
  }
  return instlatx64_line(parser, line);
}

bool cm_recording_parse_text(const char *data, size_t size, struct cm_processor *out, struct cm_recording_error *error) {
  static struct cm_processor other; /* 12 KiB; one recording is read at a time, as in machine.c */
  struct parser parser = {.first = out, .other = &other, .error = error, .current = out};
  out->leaf_count = 0;
  out->msr_count = 0;
  out->architecture[0] = '\0';
  struct cm_span rest = {data, size};
  struct cm_span line;
  while (cm_next_line(&rest, &line)) {
    parser.line++;
    if (line.size > LINE_MAX_BYTES) return fail(&parser, "a line of more than %d bytes", LINE_MAX_BYTES);
    if (line.size > 0 && memchr(line.at, '\0', line.size) != NULL) return fail(&parser, "a NUL byte: not a text recording");
    if (!parse_line(&parser, line)) return false;
  }
  bool no_leaves = out->leaf_count == 0;
  if (no_leaves && parser.ours && out->architecture[0] != '\0' && strcmp(out->architecture, "x86_64") != 0 &&
      strcmp(out->architecture, "i386") != 0) {
    return true; /* a recording of a processor without CPUID */
  }
  if (no_leaves && parser.processors == 0) {
    if (parser.line == 0) return fail(&parser, "empty");
    return fail(&parser, "no CPUID leaf up to here: not a recording");
  }
  return finish_processor(&parser);
}

bool cm_recording_parse(const char *data, size_t size, struct cm_processor *out, struct cm_recording_error *error) {
  if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) { /* a byte order mark, as Windows editors leave it */
    data += 3;
    size -= 3;
  }
  for (size_t i = 0; i < size; i++) {
    char c = data[i];
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n') continue;
    if (c == '{') return cm_recording_parse_json(data, size, out, error);
    break;
  }
  return cm_recording_parse_text(data, size, out, error);
}
