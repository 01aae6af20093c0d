/*
 * The whole of the outside world, as a handful of calls. The probe reaches hardware and kernel
 * through these and nothing else; tests link other definitions of them (test/native/fake_seams.c).
 *
 * Each returns 0 or a count on success and a negative errno on failure, so that "could not look" never
 * turns into a value. EINTR is dealt with inside.
 */
#ifndef CASEMATE_SEAMS_H
#define CASEMATE_SEAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct cm_regs {
  uint32_t eax, ebx, ecx, edx;
};

/* "x86_64", "aarch64", ...: what this program was compiled for. */
const char *seam_architecture(void);

/* Executes CPUID; false where the processor has no such instruction. */
bool seam_cpuid(uint32_t leaf, uint32_t subleaf, struct cm_regs *out);

enum cm_file_kind { CM_KIND_REGULAR, CM_KIND_DIRECTORY, CM_KIND_CHARACTER, CM_KIND_OTHER };

/* Opens the directory below which every other path is looked up. */
int seam_open_root(const char *directory);

/* Opens what the user named, for reading: a file, a pipe, /dev/stdin. */
int seam_open_plain(const char *path);

/* `path` is absolute, looked up below `root`; symbolic links cannot lead out of it. */
int seam_open(int root, const char *path, int flags, enum cm_file_kind *kind);
/* `name` is an entry of an open directory; a symbolic link is not followed. */
int seam_open_in(int directory, const char *name, enum cm_file_kind *kind);
ssize_t seam_read(int fd, void *buffer, size_t size);
ssize_t seam_pread(int fd, void *buffer, size_t size, uint64_t offset);
ssize_t seam_write(int fd, const void *buffer, size_t size);
void seam_close(int fd);

/* Linux getdents64 records, as in getdents64(2). */
ssize_t seam_directory(int fd, void *buffer, size_t size);

/* Waits until fd has something to read; 0 when the time is over. */
int seam_wait_readable(int fd, int timeout_ms);

/* ioctl(KVM_GET_API_VERSION). */
int seam_kvm_api_version(int fd);

int seam_make_directory(int root, const char *path);
int seam_remove_directory(int root, const char *path);

#endif
