/* What copying to a block device needs of the kernel and Node does not offer. */
#ifndef CASEMATE_BLOCK_IO_H
#define CASEMATE_BLOCK_IO_H

#include <stddef.h>
#include <stdint.h>

/* Direct I/O wants memory aligned to the logical block of the device; none has more than a page (open(2), O_DIRECT). */
enum { CM_BLOCK_ALIGNMENT = 4096 };

/* Zeroed memory for direct I/O, freed with free(3); NULL when there is none. */
void *cm_block_buffer(size_t size);

/* Where the next data at or after `from` begins: lseek(2), SEEK_DATA. -1 in *at when only a hole follows; `from` itself
 * on file systems that do not know. 0 or a positive errno. */
int cm_next_data(int fd, int64_t from, int64_t *at);

#endif
