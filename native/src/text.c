#include "casemate/text.h"

#include <string.h>

struct cm_span cm_span_of(const char *text) { return (struct cm_span){text, strlen(text)}; }

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

struct cm_span cm_trim(struct cm_span span) {
  while (span.size > 0 && is_blank(span.at[0])) {
    span.at++;
    span.size--;
  }
  while (span.size > 0 && is_blank(span.at[span.size - 1])) span.size--;
  return span;
}

bool cm_span_is(struct cm_span span, const char *text) {
  return span.size == strlen(text) && memcmp(span.at, text, span.size) == 0;
}

bool cm_span_starts(struct cm_span span, const char *prefix) {
  size_t size = strlen(prefix);
  return span.size >= size && memcmp(span.at, prefix, size) == 0;
}

bool cm_next_line(struct cm_span *rest, struct cm_span *line) {
  if (rest->size == 0) return false;
  const char *end = memchr(rest->at, '\n', rest->size);
  size_t size = end == NULL ? rest->size : (size_t)(end - rest->at);
  line->at = rest->at;
  line->size = size;
  size_t taken = end == NULL ? size : size + 1;
  rest->at += taken;
  rest->size -= taken;
  if (line->size > 0 && line->at[line->size - 1] == '\r') line->size--;
  return true;
}

bool cm_next_word(struct cm_span *rest, struct cm_span *word) {
  *rest = cm_trim(*rest);
  if (rest->size == 0) return false;
  size_t size = 0;
  while (size < rest->size && !is_blank(rest->at[size])) size++;
  *word = (struct cm_span){rest->at, size};
  rest->at += size;
  rest->size -= size;
  return true;
}

bool cm_has_word(const char *words, const char *word) {
  struct cm_span rest = cm_span_of(words);
  struct cm_span next;
  while (cm_next_word(&rest, &next)) {
    if (cm_span_is(next, word)) return true;
  }
  return false;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool cm_hex(struct cm_span span, size_t digits_max, uint64_t *value) {
  if (span.size == 0 || span.size > digits_max || span.size > 16) return false;
  uint64_t sum = 0;
  for (size_t i = 0; i < span.size; i++) {
    int digit = hex_digit(span.at[i]);
    if (digit < 0) return false;
    sum = sum << 4 | (uint64_t)digit;
  }
  *value = sum;
  return true;
}

bool cm_hex_0x(struct cm_span span, size_t digits_max, uint64_t *value) {
  if (span.size < 3 || span.at[0] != '0' || (span.at[1] != 'x' && span.at[1] != 'X')) return false;
  return cm_hex((struct cm_span){span.at + 2, span.size - 2}, digits_max, value);
}

bool cm_decimal(struct cm_span span, uint64_t maximum, uint64_t *value) {
  if (span.size == 0 || span.size > 20) return false;
  uint64_t sum = 0;
  for (size_t i = 0; i < span.size; i++) {
    if (span.at[i] < '0' || span.at[i] > '9') return false;
    uint64_t digit = (uint64_t)(span.at[i] - '0');
    if (sum > (maximum - digit) / 10) return false;
    sum = sum * 10 + digit;
  }
  *value = sum;
  return true;
}

void cm_copy(char *out, size_t size, struct cm_span span) {
  size_t used = 0;
  for (size_t i = 0; i < span.size && used + 1 < size; i++) {
    unsigned char c = (unsigned char)span.at[i];
    out[used++] = c < 0x20 || c >= 0x7f ? '?' : (char)c;
  }
  out[used] = '\0';
}
