/* /proc/cpuinfo. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static char text[CM_TEXT_MAX + 1];
  static struct cm_cpuinfo info;
  if (size > CM_TEXT_MAX) return 0;
  memcpy(text, data, size);
  text[size] = '\0';
  cm_cpuinfo_parse(text, &info);
  fuzz_check_message(info.vendor, sizeof info.vendor);
  fuzz_check_message(info.flags, sizeof info.flags);
  return 0;
}
