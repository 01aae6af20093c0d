/* A TPM's answer to TPM2_GetCapability. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char name[5] = "";
  if (cm_tpm_manufacturer(data, size, name)) fuzz_check_message(name, sizeof name);
  return 0;
}
