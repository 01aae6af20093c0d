/* Runs a fuzz target over stored inputs without libFuzzer: for compilers that have none. */
#include <stdio.h>

#include "fuzz.h"

int main(int argc, char **argv) {
  static uint8_t data[(size_t)1 << 20];
  for (int i = 1; i < argc; i++) {
    FILE *file = fopen(argv[i], "rb");
    if (file == NULL) {
      perror(argv[i]);
      return 1;
    }
    size_t size = fread(data, 1, sizeof data, file);
    (void)fclose(file);
    /* A copy of its exact size, so that the address sanitizer sees a read beyond it. */
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL) return 1;
    memcpy(copy, data, size);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
  }
  return 0;
}
