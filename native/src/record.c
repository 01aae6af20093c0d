#include "casemate/record.h"

#include <stdio.h>

bool cm_record(struct cm_machine *machine, struct cm_report *report, const char *directory, struct cm_error *error) {
  (void)machine;
  (void)report;
  (void)directory;
  (void)snprintf(error->message, sizeof error->message, "not yet");
  return false;
}
