/* What the fuzz targets share: what must hold whatever the input. */
#ifndef CASEMATE_FUZZ_H
#define CASEMATE_FUZZ_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "casemate/output.h"
#include "casemate/probe.h"
#include "casemate/recording.h"
#include "look.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Text ends within its buffer. */
static inline void fuzz_check_message(const char *text, size_t size) {
  if (memchr(text, '\0', size) == NULL) abort();
}

/* A recorded machine without files. */
static inline void fuzz_machine(struct cm_machine *machine) {
  machine->recorded_leaves = true;
  machine->recorded_root = false;
  machine->root = -1;
  machine->unreadable_size = 0;
}

/* Facts come out whole: unknown has a reason, and everything can be written. */
static inline void fuzz_probe(struct cm_machine *machine) {
  static struct cm_report report;
  static char output[CM_OUTPUT_MAX];
  cm_probe(machine, &report);
  for (size_t i = 0; i < CM_FACT_COUNT; i++) {
    const struct cm_fact *fact = &report.facts[i];
    fuzz_check_message(fact->text, sizeof fact->text);
    fuzz_check_message(fact->reason, sizeof fact->reason);
    fuzz_check_message(fact->evidence, sizeof fact->evidence);
    if (fact->state == CM_UNKNOWN && fact->reason[0] == '\0') abort();
    if (fact->evidence[0] == '\0') abort();
  }
  struct cm_sink sink = {.buffer = output, .size = sizeof output};
  cm_write_json(&sink, machine, &report, NULL);
  if (sink.overflow) abort();
  sink.used = 0;
  cm_write_text(&sink, machine, &report, NULL, true);
  if (sink.overflow) abort();
}

#endif
