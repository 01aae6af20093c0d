/* JSON recordings: the parser, and the facts made of whatever leaves come out of it. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct cm_machine machine;
  struct cm_recording_error error;
  fuzz_machine(&machine);
  if (cm_recording_parse_json((const char *)data, size, &machine.processor, &error)) fuzz_probe(&machine);
  else fuzz_check_message(error.message, sizeof error.message);
  return 0;
}
