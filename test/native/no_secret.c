/* A kernel without memfd_secret, linked in place of seam_secret.c. */
#include <errno.h>

#include "casemate/secure_memory.h"

int seam_memfd_secret(void) { return -ENOSYS; }
