#include "casemate/fact.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const struct cm_fact_definition cm_fact_definitions[CM_FACT_COUNT] = {
#define F(name, id, wanted, title, hint, source) {id, CM_WANT_##wanted, title, hint, source},
    CM_FACT_LIST(F)
#undef F
};

static void format(char *out, size_t size, const char *pattern, va_list arguments) {
  if (vsnprintf(out, size, pattern, arguments) < 0) out[0] = '\0';
}

void cm_report_clear(struct cm_report *report) {
  for (size_t i = 0; i < CM_FACT_COUNT; i++) {
    struct cm_fact *fact = &report->facts[i];
    fact->state = CM_UNKNOWN;
    fact->value_kind = CM_VALUE_NONE;
    fact->number = 0;
    fact->hint = NULL;
    fact->text[0] = '\0';
    fact->evidence[0] = '\0';
    (void)snprintf(fact->reason, sizeof fact->reason, "not looked at");
  }
}

struct cm_fact *cm_say(struct cm_report *report, enum cm_fact_name name, enum cm_state state, const char *evidence,
                       ...) {
  struct cm_fact *fact = &report->facts[name];
  const struct cm_fact_definition *definition = &cm_fact_definitions[name];
  va_list arguments;
  va_start(arguments, evidence);
  format(fact->evidence, sizeof fact->evidence, evidence, arguments);
  va_end(arguments);
  fact->state = state;
  fact->value_kind = CM_VALUE_NONE;
  fact->reason[0] = '\0';
  /* A hint says how to get to the better state; where there is none, how to get the thing at all. */
  enum cm_state good = definition->wanted == CM_WANT_ABSENT ? CM_ABSENT : CM_PRESENT;
  fact->hint = definition->hint[0] != '\0' && state != good ? definition->hint : NULL;
  return fact;
}

void cm_reason(struct cm_fact *fact, const char *reason, ...) {
  va_list arguments;
  va_start(arguments, reason);
  format(fact->reason, sizeof fact->reason, reason, arguments);
  va_end(arguments);
}

void cm_text(struct cm_fact *fact, const char *value, ...) {
  va_list arguments;
  va_start(arguments, value);
  format(fact->text, sizeof fact->text, value, arguments);
  va_end(arguments);
  fact->value_kind = CM_VALUE_TEXT;
}

void cm_number(struct cm_fact *fact, uint64_t value) {
  fact->number = value;
  fact->value_kind = CM_VALUE_NUMBER;
}

int cm_fact_find(const char *id) {
  for (int i = 0; i < (int)CM_FACT_COUNT; i++) {
    if (strcmp(cm_fact_definitions[i].id, id) == 0) return i;
  }
  return -1;
}

const char *cm_state_word(enum cm_state state) {
  switch (state) {
    case CM_PRESENT: return "present";
    case CM_ABSENT: return "absent";
    case CM_UNKNOWN: break;
  }
  return "unknown";
}

/* The errors that opening and reading files, devices and MSRs gives: errno(3). */
static const struct {
  int number;
  const char *name;
} errors[] = {
    {EPERM, "EPERM"},   {ENOENT, "ENOENT"},   {EINTR, "EINTR"},     {EIO, "EIO"},         {ENXIO, "ENXIO"},
    {EAGAIN, "EAGAIN"}, {ENOMEM, "ENOMEM"},   {EACCES, "EACCES"},   {EBUSY, "EBUSY"},     {ENODEV, "ENODEV"},
    {ENOTDIR, "ENOTDIR"}, {EISDIR, "EISDIR"}, {EINVAL, "EINVAL"},   {ENFILE, "ENFILE"},   {EMFILE, "EMFILE"},
    {ENOTTY, "ENOTTY"}, {ELOOP, "ELOOP"},     {ENODATA, "ENODATA"}, {ENOSYS, "ENOSYS"},   {EOPNOTSUPP, "EOPNOTSUPP"},
    {ETIMEDOUT, "ETIMEDOUT"}, {EXDEV, "EXDEV"}, {ENAMETOOLONG, "ENAMETOOLONG"}, {EPROTO, "EPROTO"}, {EFBIG, "EFBIG"},
    {ENOSPC, "ENOSPC"}, {EPIPE, "EPIPE"},     {EROFS, "EROFS"},     {ENOKEY, "ENOKEY"},   {EEXIST, "EEXIST"},
};

const char *cm_errno_name(int error) {
  for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
    if (errors[i].number == error) return errors[i].name;
  }
  return "an error without a name here";
}

int cm_errno_number(const char *name) {
  for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
    if (strcmp(errors[i].name, name) == 0) return errors[i].number;
  }
  return 0;
}
