/*
 * Preloaded into a process, it looks at the very end, after everything of the process's own has run, whether the
 * bytes at CASEMATE_SCAN_ADDRESS_FILE (an address and a size, in hexadecimal) are still anything but zero, and
 * appends "wiped", "unmapped" or "left" to that file.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

__attribute__((destructor)) static void scan(void) {
  const char *path = getenv("CASEMATE_SCAN_ADDRESS_FILE");
  FILE *file = path != NULL ? fopen(path, "r+") : NULL;
  unsigned long address;
  unsigned long size;
  if (file == NULL || fscanf(file, "%lx %lx", &address, &size) != 2) return;
  unsigned long page = (unsigned long)sysconf(_SC_PAGESIZE);
  unsigned char resident;
  if (mincore((void *)(address / page * page), 1, &resident) != 0) { /* ENOMEM: nothing is mapped there */
    (void)fprintf(file, " unmapped");
    (void)fclose(file);
    return;
  }
  const volatile unsigned char *bytes = (const volatile unsigned char *)address;
  unsigned char sum = 0;
  for (unsigned long i = 0; i < size; i++) sum |= bytes[i];
  (void)fprintf(file, " %s", sum == 0 ? "wiped" : "left");
  (void)fclose(file);
}
