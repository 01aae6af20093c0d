#include "casemate/probe.h"

#include <string.h>

#include "look.h"

/* The order matters where one fact rests on another: the hypervisor bit and /dev/sev-guest before the AMD
 * guest facts, EC2 before Arm, everything before the contradictions. */
void cm_probe(struct cm_machine *machine, struct cm_report *report) {
  struct cm_look look;
  look.machine = machine;
  look.report = report;
  look.vendor[0] = '\0';
  look.intel = false;
  look.amd = false;
  look.hypervisor = CM_UNKNOWN;
  look.signature[0] = '\0';
  look.kvm = CM_UNKNOWN;
  look.sev_status = 0;
  look.sev_status_error = 0;
  cm_report_clear(report);
  cm_facts_cpu(&look);
  cm_facts_virtualization(&look);
  cm_facts_platform(&look);
  cm_facts_attestation(&look);
  cm_facts_amd_memory(&look);
  cm_facts_intel_memory(&look);
  cm_facts_arm(&look);
  cm_facts_tpm(&look);
  cm_facts_kernel(&look);
  cm_facts_swap(&look);
  cm_facts_contradictions(&look);
}
