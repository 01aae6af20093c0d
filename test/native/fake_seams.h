/* A machine made of tables, linked in place of seam_cpuid.c and seam_files.c. */
#ifndef FAKE_SEAMS_H
#define FAKE_SEAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "casemate/seams.h"

struct fake_leaf {
  uint32_t leaf, subleaf;
  struct cm_regs regs;
};

/* One path. `open_error` and `read_error` are errno values; a directory has entries separated by blanks. */
struct fake_file {
  const char *path;
  enum cm_file_kind kind;
  const char *content;
  int open_error, read_error;
};

struct fake_msr {
  uint32_t index;
  int error;
  uint64_t value;
};

/* Every table ends with a zeroed entry. What a leaf is not listed for answers like the highest basic leaf. */
struct fake_machine {
  const char *architecture;
  const struct fake_leaf *leaves;
  const struct fake_file *files;
  const struct fake_msr *msrs;
  int kvm_api_version; /* or a negative errno */
  int mkdir_error;
  const unsigned char *tpm_answer;
  size_t tpm_answer_size;
  bool tpm_silent;
};

extern struct fake_machine fake;

/* What was done: descriptors still open, directories made and not removed, leaves asked for. */
extern int fake_open_count, fake_directories, fake_cpuid_count;
void fake_reset(void);

#endif
