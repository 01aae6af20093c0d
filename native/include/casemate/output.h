/* Reports as JSON or text, written piece by piece to a sink. */
#ifndef CASEMATE_OUTPUT_H
#define CASEMATE_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "casemate/probe.h"

struct cm_sink {
  char *buffer;
  size_t size;   /* of buffer */
  size_t used;
  bool overflow; /* something did not fit: the output must not be used */
};

/* `wanted`: one flag a fact, or NULL for all. */
void cm_write_json(struct cm_sink *sink, struct cm_machine *machine, const struct cm_report *report, const bool *wanted);
void cm_write_text(struct cm_sink *sink, struct cm_machine *machine, const struct cm_report *report, const bool *wanted,
                   bool colour);
void cm_write_list(struct cm_sink *sink, bool json);

/* Enough for all facts with every text full and every character escaped. */
#define CM_OUTPUT_MAX ((size_t)1 << 20)

#endif
