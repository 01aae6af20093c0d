/* Writes a recording of a machine: cpuid.txt and the files that the probe reads, for --root. */
#ifndef CASEMATE_RECORD_H
#define CASEMATE_RECORD_H

#include "casemate/probe.h"

bool cm_record(struct cm_machine *machine, struct cm_report *report, const char *directory, struct cm_error *error);

#endif
