/* What the probe says: one record a fact, always all of them, in the order of fact_list.h. */
#ifndef CASEMATE_FACT_H
#define CASEMATE_FACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "casemate/fact_list.h"

#define CM_SCHEMA "casemate-probe/1"

enum cm_fact_name {
#define F(name, id, wanted, title, hint, source) CM_##name,
  CM_FACT_LIST(F)
#undef F
      CM_FACT_COUNT
};

enum cm_state { CM_UNKNOWN, CM_ABSENT, CM_PRESENT };
enum cm_wanted { CM_WANT_ANY, CM_WANT_ABSENT, CM_WANT_PRESENT };
enum cm_value_kind { CM_VALUE_NONE, CM_VALUE_TEXT, CM_VALUE_NUMBER };

/* What does not change: shown by --list, and the source of default hints. */
struct cm_fact_definition {
  const char *id;
  enum cm_wanted wanted;
  const char *title;
  const char *hint;
  const char *source;
};

extern const struct cm_fact_definition cm_fact_definitions[CM_FACT_COUNT];

struct cm_fact {
  enum cm_state state;
  enum cm_value_kind value_kind;
  uint64_t number;
  const char *hint; /* static text, or NULL */
  char text[256];
  char reason[224];
  char evidence[352];
};

struct cm_report {
  struct cm_fact facts[CM_FACT_COUNT];
};

/* Every fact unknown, "not looked at". */
void cm_report_clear(struct cm_report *report);

/* State with its evidence (printf-like), and the default hint where the definition has one. Returns the
 * fact, for a value or a reason to be added. */
struct cm_fact *cm_say(struct cm_report *report, enum cm_fact_name name, enum cm_state state, const char *evidence, ...)
    __attribute__((format(printf, 4, 5)));
void cm_reason(struct cm_fact *fact, const char *reason, ...) __attribute__((format(printf, 2, 3)));
void cm_text(struct cm_fact *fact, const char *value, ...) __attribute__((format(printf, 2, 3)));
void cm_number(struct cm_fact *fact, uint64_t value);

/* Index of an id, or -1. */
int cm_fact_find(const char *id);
const char *cm_state_word(enum cm_state state);

/* "ENOENT", "EACCES", ...: for evidence that reads the same everywhere. */
const char *cm_errno_name(int error);
int cm_errno_number(const char *name);

#endif
