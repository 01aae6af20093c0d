/*
 * Processor recordings in JSON:
 *   Firecracker cpu-template-helper fingerprint or template dump:
 *     {…, "guest_cpu_config": {"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0,
 *        "modifiers": [{"register": "eax", "bitmap": "0b…32 bits"}, …]}, …],
 *      "msr_modifiers": [{"addr": "0x3a", "bitmap": "0b…64 bits"}, …]}}
 *     (firecracker docs/cpu_templates/schema.json, cpu-template-helper.md)
 *   and the reduced form {"cpuid": {"0x1": {"0": ["00a00f11", …4]}}, "msr": {"0x3a": "0x0"}}.
 *
 * A reader that walks the text once, keeps no tree and knows its line.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "casemate/recording.h"
#include "casemate/text.h"

enum { DEPTH_MAX = 32, STRING_MAX = 96 };

struct reader {
  const char *data;
  size_t size, at;
  unsigned long line;
  unsigned depth;
  struct cm_processor *out;
  struct cm_recording_error *error;
};

struct string {
  size_t size; /* whole length; text holds the start of a longer one */
  char text[STRING_MAX];
};

static bool fail(struct reader *reader, const char *message, ...) __attribute__((format(printf, 2, 3)));

static bool fail(struct reader *reader, const char *message, ...) {
  va_list arguments;
  va_start(arguments, message);
  if (vsnprintf(reader->error->message, sizeof reader->error->message, message, arguments) < 0) {
    reader->error->message[0] = '\0';
  }
  va_end(arguments);
  reader->error->line = reader->line;
  return false;
}

static void skip_blanks(struct reader *reader) {
  while (reader->at < reader->size) {
    char c = reader->data[reader->at];
    if (c == '\n') {
      reader->line++;
    } else if (c != ' ' && c != '\t' && c != '\r') {
      return;
    }
    reader->at++;
  }
}

static char peek(struct reader *reader) {
  skip_blanks(reader);
  return reader->at < reader->size ? reader->data[reader->at] : '\0';
}

static bool expect(struct reader *reader, char c) {
  if (peek(reader) != c) {
    return reader->at >= reader->size ? fail(reader, "JSON ends before '%c'", c) : fail(reader, "JSON: expected '%c'", c);
  }
  reader->at++;
  return true;
}

static bool read_string(struct reader *reader, struct string *out) {
  if (!expect(reader, '"')) return false;
  out->size = 0;
  for (; reader->at < reader->size; reader->at++) {
    char c = reader->data[reader->at];
    if (c == '"') {
      reader->at++;
      out->text[out->size < STRING_MAX ? out->size : STRING_MAX - 1] = '\0';
      return true;
    }
    if ((unsigned char)c < 0x20) return fail(reader, "JSON: a control character in a string");
    if (c == '\\') {
      reader->at++;
      if (reader->at >= reader->size) break;
      c = reader->data[reader->at];
      if (strchr("\"\\/bfnrtu", c) == NULL || c == '\0') return fail(reader, "JSON: an escape that does not exist");
      if (c == 'u') {
        uint64_t code;
        if (reader->size - reader->at < 5 || !cm_hex((struct cm_span){reader->data + reader->at + 1, 4}, 4, &code)) {
          return fail(reader, "JSON: \\u without four hexadecimal digits");
        }
        reader->at += 4;
      }
      c = '\\'; /* no name or value that matters here has an escape: it must not match by accident */
    }
    if (out->size < STRING_MAX - 1) out->text[out->size] = c;
    out->size++;
  }
  return fail(reader, "JSON ends within a string");
}

static bool skip_value(struct reader *reader);

/* Calls `each` for every member; it reads the value. */
static bool read_object(struct reader *reader, bool (*each)(struct reader *, const struct string *, void *), void *context) {
  if (!expect(reader, '{')) return false;
  if (++reader->depth > DEPTH_MAX) return fail(reader, "JSON: nested deeper than %d", DEPTH_MAX);
  if (peek(reader) == '}') {
    reader->at++;
    reader->depth--;
    return true;
  }
  for (;;) {
    struct string name;
    if (!read_string(reader, &name) || !expect(reader, ':') || !each(reader, &name, context)) return false;
    if (peek(reader) == '}') break;
    if (!expect(reader, ',')) return false;
  }
  reader->at++;
  reader->depth--;
  return true;
}

static bool read_array(struct reader *reader, bool (*each)(struct reader *, void *), void *context) {
  if (!expect(reader, '[')) return false;
  if (++reader->depth > DEPTH_MAX) return fail(reader, "JSON: nested deeper than %d", DEPTH_MAX);
  if (peek(reader) == ']') {
    reader->at++;
    reader->depth--;
    return true;
  }
  for (;;) {
    if (!each(reader, context)) return false;
    if (peek(reader) == ']') break;
    if (!expect(reader, ',')) return false;
  }
  reader->at++;
  reader->depth--;
  return true;
}

static bool skip_member(struct reader *reader, const struct string *name, void *context) {
  (void)name;
  (void)context;
  return skip_value(reader);
}

static bool skip_element(struct reader *reader, void *context) {
  (void)context;
  return skip_value(reader);
}

static bool read_word(struct reader *reader) {
  size_t start = reader->at;
  while (reader->at < reader->size) {
    char c = reader->data[reader->at];
    bool part = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == '-' || c == '+' || c == '.' || c == 'E';
    if (!part) break;
    reader->at++;
  }
  struct cm_span word = {reader->data + start, reader->at - start};
  if (cm_span_is(word, "true") || cm_span_is(word, "false") || cm_span_is(word, "null")) return true;
  bool number = word.size > 0 && ((word.at[0] >= '0' && word.at[0] <= '9') || word.at[0] == '-');
  for (size_t i = 0; number && i < word.size; i++) {
    char c = word.at[i];
    number = (c >= '0' && c <= '9') || strchr("+-.eE", c) != NULL;
  }
  if (number) return true;
  return reader->at >= reader->size && word.size == 0 ? fail(reader, "JSON ends where a value should be")
                                                      : fail(reader, "JSON: not a value");
}

static bool skip_value(struct reader *reader) {
  struct string ignored;
  switch (peek(reader)) {
    case '"': return read_string(reader, &ignored);
    case '{': return read_object(reader, skip_member, NULL);
    case '[': return read_array(reader, skip_element, NULL);
    default: return read_word(reader);
  }
}

static struct cm_span span_of(const struct string *string) {
  return (struct cm_span){string->text, string->size < STRING_MAX ? string->size : STRING_MAX - 1};
}

/* A number in a string: 0x hexadecimal, 0b binary (with '_' to group), or decimal. */
static bool number_in(const struct string *string, unsigned bits, uint64_t *out) {
  struct cm_span span = span_of(string);
  if (string->size >= STRING_MAX) return false;
  if (cm_span_starts(span, "0x")) return cm_hex_0x(span, bits / 4, out);
  uint64_t maximum = bits == 64 ? UINT64_MAX : ((uint64_t)1 << bits) - 1;
  if (!cm_span_starts(span, "0b")) return cm_decimal(span, maximum, out);
  uint64_t sum = 0;
  unsigned seen = 0;
  for (size_t i = 2; i < span.size; i++) {
    char c = span.at[i];
    if (c == '_') continue;
    if ((c != '0' && c != '1') || ++seen > bits) return false; /* an 'x' is a bit that a template leaves open */
    sum = sum << 1 | (uint64_t)(c - '0');
  }
  *out = sum;
  return seen > 0;
}

static bool add_leaf(struct reader *reader, uint64_t leaf, uint64_t subleaf, const struct cm_regs *regs) {
  switch (cm_processor_add_leaf(reader->out, (uint32_t)leaf, (uint32_t)subleaf, regs)) {
    case CM_ADDED: return true;
    case CM_ADD_DUPLICATE: return fail(reader, "leaf 0x%08x subleaf 0x%x a second time", (uint32_t)leaf, (uint32_t)subleaf);
    case CM_ADD_FULL: break;
  }
  return fail(reader, "more than %d leaves", CM_LEAVES_MAX);
}

static bool add_msr(struct reader *reader, uint64_t index, uint64_t value) {
  /* Firecracker lists every MSR it saves, some two hundred. */
  if (!cm_is_wanted_msr(index) || cm_processor_add_msr(reader->out, (uint32_t)index, 0, value) == CM_ADDED) return true;
  return fail(reader, "MSR 0x%08x a second time", (uint32_t)index);
}

/* -------------------------------------------------------------- {"cpuid": {"0x1": {"0": [4 registers]}}} */

struct registers {
  uint32_t values[4];
  size_t count;
};

static bool register_element(struct reader *reader, void *context) {
  struct registers *registers = context;
  struct string text;
  uint64_t value;
  if (!read_string(reader, &text)) return false;
  struct cm_span span = span_of(&text);
  if (!cm_hex(span, 8, &value) && !cm_hex_0x(span, 8, &value)) {
    return fail(reader, "a register is not up to 8 hexadecimal digits");
  }
  if (registers->count == 4) return fail(reader, "more than four registers");
  registers->values[registers->count++] = (uint32_t)value;
  return true;
}

static bool subleaf_member(struct reader *reader, const struct string *name, void *context) {
  const uint64_t *leaf = context;
  uint64_t subleaf;
  if (!number_in(name, 32, &subleaf)) return fail(reader, "a subleaf is not a number");
  struct registers registers = {{0}, 0};
  if (!read_array(reader, register_element, &registers)) return false;
  if (registers.count != 4) return fail(reader, "%zu registers, not four", registers.count);
  const struct cm_regs regs = {registers.values[0], registers.values[1], registers.values[2], registers.values[3]};
  return add_leaf(reader, *leaf, subleaf, &regs);
}

static bool leaf_member(struct reader *reader, const struct string *name, void *context) {
  (void)context;
  uint64_t leaf;
  if (!number_in(name, 32, &leaf)) return fail(reader, "a leaf is not a number");
  return read_object(reader, subleaf_member, &leaf);
}

static bool msr_member(struct reader *reader, const struct string *name, void *context) {
  (void)context;
  uint64_t index;
  uint64_t value;
  struct string text;
  if (!number_in(name, 32, &index)) return fail(reader, "an MSR is not a number");
  if (!read_string(reader, &text)) return false;
  if (!number_in(&text, 64, &value)) return fail(reader, "an MSR value is not a number");
  return add_msr(reader, index, value);
}

/* ------------------------------------------------------------------------------- cpuid_modifiers, … */

struct modifier {
  uint64_t leaf, subleaf, values[4];
  bool has_leaf, has_subleaf, has[4];
  int index; /* of the register whose bitmap is read, or -1 */
  bool has_bitmap;
  uint64_t bitmap;
};

static bool register_member(struct reader *reader, const struct string *name, void *context) {
  struct modifier *modifier = context;
  static const char *const names[] = {"eax", "ebx", "ecx", "edx"};
  struct string text;
  if (cm_span_is(span_of(name), "register")) {
    if (!read_string(reader, &text)) return false;
    for (int i = 0; i < 4; i++) {
      if (cm_span_is(span_of(&text), names[i])) modifier->index = i;
    }
    return modifier->index >= 0 || fail(reader, "a register that is not eax, ebx, ecx or edx");
  }
  if (cm_span_is(span_of(name), "bitmap")) {
    if (!read_string(reader, &text)) return false;
    modifier->has_bitmap = number_in(&text, 32, &modifier->bitmap);
    return modifier->has_bitmap || fail(reader, "a bitmap that is not 32 given bits");
  }
  return skip_value(reader);
}

static bool register_modifier(struct reader *reader, void *context) {
  struct modifier *modifier = context;
  modifier->index = -1;
  modifier->has_bitmap = false;
  if (!read_object(reader, register_member, modifier)) return false;
  if (modifier->index < 0 || !modifier->has_bitmap) return fail(reader, "a modifier without register and bitmap");
  if (modifier->has[modifier->index]) return fail(reader, "a register twice in one leaf");
  modifier->has[modifier->index] = true;
  modifier->values[modifier->index] = modifier->bitmap;
  return true;
}

static bool cpuid_modifier_member(struct reader *reader, const struct string *name, void *context) {
  struct modifier *modifier = context;
  struct string text;
  if (cm_span_is(span_of(name), "leaf")) {
    if (!read_string(reader, &text)) return false;
    modifier->has_leaf = number_in(&text, 32, &modifier->leaf);
    return modifier->has_leaf || fail(reader, "a leaf is not a number");
  }
  if (cm_span_is(span_of(name), "subleaf")) {
    if (!read_string(reader, &text)) return false;
    modifier->has_subleaf = number_in(&text, 32, &modifier->subleaf);
    return modifier->has_subleaf || fail(reader, "a subleaf is not a number");
  }
  if (cm_span_is(span_of(name), "modifiers")) return read_array(reader, register_modifier, modifier);
  return skip_value(reader);
}

static bool cpuid_modifier(struct reader *reader, void *context) {
  (void)context;
  struct modifier modifier = {.index = -1};
  if (!read_object(reader, cpuid_modifier_member, &modifier)) return false;
  if (!modifier.has_leaf || !modifier.has_subleaf) return fail(reader, "a CPUID modifier without leaf and subleaf");
  for (int i = 0; i < 4; i++) {
    if (!modifier.has[i]) return fail(reader, "leaf 0x%08x has fewer than four registers", (uint32_t)modifier.leaf);
  }
  const struct cm_regs regs = {(uint32_t)modifier.values[0], (uint32_t)modifier.values[1], (uint32_t)modifier.values[2],
                               (uint32_t)modifier.values[3]};
  return add_leaf(reader, modifier.leaf, modifier.subleaf, &regs);
}

struct msr_modifier {
  uint64_t index, value;
  bool has_index, has_value;
};

static bool msr_modifier_member(struct reader *reader, const struct string *name, void *context) {
  struct msr_modifier *modifier = context;
  struct string text;
  bool is_address = cm_span_is(span_of(name), "addr");
  if (!is_address && !cm_span_is(span_of(name), "bitmap")) return skip_value(reader);
  if (!read_string(reader, &text)) return false;
  if (is_address) {
    modifier->has_index = number_in(&text, 32, &modifier->index);
    return modifier->has_index || fail(reader, "an MSR address is not a number");
  }
  modifier->has_value = number_in(&text, 64, &modifier->value);
  return modifier->has_value || fail(reader, "a bitmap that is not 64 given bits");
}

static bool msr_modifier(struct reader *reader, void *context) {
  (void)context;
  struct msr_modifier modifier = {0};
  if (!read_object(reader, msr_modifier_member, &modifier)) return false;
  if (!modifier.has_index || !modifier.has_value) return fail(reader, "an MSR modifier without addr and bitmap");
  return add_msr(reader, modifier.index, modifier.value);
}

static bool top_member(struct reader *reader, const struct string *name, void *context) {
  struct cm_span span = span_of(name);
  if (cm_span_is(span, "cpuid")) return read_object(reader, leaf_member, NULL);
  if (cm_span_is(span, "msr")) return read_object(reader, msr_member, NULL);
  if (cm_span_is(span, "cpuid_modifiers")) return read_array(reader, cpuid_modifier, NULL);
  if (cm_span_is(span, "msr_modifiers")) return read_array(reader, msr_modifier, NULL);
  if (cm_span_is(span, "guest_cpu_config")) return read_object(reader, top_member, context);
  return skip_value(reader);
}

bool cm_recording_parse_json(const char *data, size_t size, struct cm_processor *out, struct cm_recording_error *error) {
  struct reader reader = {.data = data, .size = size, .line = 1, .out = out, .error = error};
  out->leaf_count = 0;
  out->msr_count = 0;
  out->architecture[0] = '\0';
  if (!read_object(&reader, top_member, NULL)) return false;
  if (peek(&reader) != '\0' || reader.at < size) return fail(&reader, "something after the JSON object");
  const struct cm_leaf *zero = cm_processor_find(out, 0, 0);
  if (zero == NULL) return fail(&reader, "no CPUID leaf 0x00000000: not a recording of an x86 processor");
  if (zero->regs.eax >= 1 && cm_processor_find(out, 1, 0) == NULL) return fail(&reader, "no CPUID leaf 0x00000001");
  return true;
}
