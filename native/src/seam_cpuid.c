#include "casemate/seams.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

bool seam_cpuid(uint32_t leaf, uint32_t subleaf, struct cm_regs *out) {
  __cpuid_count(leaf, subleaf, out->eax, out->ebx, out->ecx, out->edx);
  return true;
}

const char *seam_architecture(void) {
#if defined(__x86_64__)
  return "x86_64";
#else
  return "i386";
#endif
}

#else

bool seam_cpuid(uint32_t leaf, uint32_t subleaf, struct cm_regs *out) {
  (void)leaf;
  (void)subleaf;
  (void)out;
  return false;
}

const char *seam_architecture(void) {
#if defined(__aarch64__)
  return "aarch64";
#else
  return "other";
#endif
}

#endif
