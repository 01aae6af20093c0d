#ifndef CASEMATE_PROBE_H
#define CASEMATE_PROBE_H

#include "casemate/fact.h"
#include "casemate/machine.h"

/* Looks at everything and fills the report. Never fails: what cannot be seen is unknown, with a reason. */
void cm_probe(struct cm_machine *machine, struct cm_report *report);

/* Where the leaves and files come from. */
struct cm_options {
  const char *cpuid_file; /* NULL: root's cpuid.txt, else the processor */
  const char *root;       /* NULL: /, or nothing when cpuid_file is given */
  bool keep;              /* for a machine that is looked at again and again: the processor's leaves stay (they do
                             not change under a process, and each costs a VM exit in a guest, 5 µs measured), and
                             files of / stay open and are read anew; the machine must be zero at first */
};

/* One line that says what is wrong and where. */
struct cm_error {
  char message[512];
};

/* Prepares the machine; false with a message when a recording cannot be read. */
bool cm_machine_open(struct cm_machine *machine, const struct cm_options *options, struct cm_error *error);
void cm_machine_close(struct cm_machine *machine);

#endif
