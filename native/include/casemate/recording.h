/*
 * Recorded processors. Three text formats and one JSON, told apart by their content:
 *   - `cpuid -r` of the cpuid package, and our own recordings, which add MSR lines to it;
 *   - InstLatx64 / AIDA64 dumps;
 *   - Firecracker's cpu-template-helper fingerprints, and the reduced form {"cpuid": …, "msr": …}.
 * The first logical processor is kept; the others are checked.
 */
#ifndef CASEMATE_RECORDING_H
#define CASEMATE_RECORDING_H

#include <stdbool.h>
#include <stddef.h>

#include "casemate/machine.h"

#define CM_RECORDING_MAX ((size_t)8 << 20)

struct cm_recording_error {
  unsigned long line; /* 1-based; 0 when it is about the whole file */
  char message[160];
};

bool cm_recording_parse(const char *data, size_t size, struct cm_processor *out, struct cm_recording_error *error);

/* The two parsers behind it, for the fuzzer to reach each. */
bool cm_recording_parse_text(const char *data, size_t size, struct cm_processor *out, struct cm_recording_error *error);
bool cm_recording_parse_json(const char *data, size_t size, struct cm_processor *out, struct cm_recording_error *error);

/* Whether a fact is made of this MSR: msr_list.h. */
bool cm_is_wanted_msr(uint64_t index);

/* Leaves whose answer depends on ECX. */
bool cm_has_subleaves(uint32_t leaf);

enum cm_add_status { CM_ADDED, CM_ADD_DUPLICATE, CM_ADD_FULL };
enum cm_add_status cm_processor_add_leaf(struct cm_processor *processor, uint32_t leaf, uint32_t subleaf, const struct cm_regs *regs);
enum cm_add_status cm_processor_add_msr(struct cm_processor *processor, uint32_t index, int error, uint64_t value);
const struct cm_leaf *cm_processor_find(const struct cm_processor *processor, uint32_t leaf, uint32_t subleaf);

#endif
