/* Small scanners over text that nobody vouches for. */
#ifndef CASEMATE_TEXT_H
#define CASEMATE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A piece of text that is not NUL-terminated. */
struct cm_span {
  const char *at;
  size_t size;
};

struct cm_span cm_span_of(const char *text);
struct cm_span cm_trim(struct cm_span span);
bool cm_span_is(struct cm_span span, const char *text);
bool cm_span_starts(struct cm_span span, const char *prefix);

/* Takes the next line (without its \n or \r\n) from *rest; false at the end. */
bool cm_next_line(struct cm_span *rest, struct cm_span *line);

/* Takes the next run of non-blank characters from *rest; false when there is none. */
bool cm_next_word(struct cm_span *rest, struct cm_span *word);

/* Whole-word search in blank-separated words: "vmx" is not found in "vmx_vnmi". */
bool cm_has_word(const char *words, const char *word);

/* 1 to `digits_max` hexadecimal digits and nothing else. */
bool cm_hex(struct cm_span span, size_t digits_max, uint64_t *value);
/* 0x and such digits. */
bool cm_hex_0x(struct cm_span span, size_t digits_max, uint64_t *value);
bool cm_decimal(struct cm_span span, uint64_t maximum, uint64_t *value);

/* Copies printable text into a NUL-terminated buffer, cut to fit. */
void cm_copy(char *out, size_t size, struct cm_span span);

#endif
