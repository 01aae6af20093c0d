/*
 * The machine that is being looked at: CPUID from the processor or from a recording, files from / or from
 * a recorded directory, and what was read so far. No allocation; the caller owns the storage.
 */
#ifndef CASEMATE_MACHINE_H
#define CASEMATE_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "casemate/seams.h"

#define CM_LEAVES_MAX 512
#define CM_MSRS_MAX 64
#define CM_KEPT_MAX 48
#define CM_TEXT_MAX 16384
#define CM_NAMES_MAX 64
#define CM_ARCHITECTURE_MAX 16

struct cm_leaf {
  uint32_t leaf, subleaf;
  struct cm_regs regs;
};

struct cm_msr {
  uint32_t index;
  int error; /* positive errno, 0 when value holds */
  uint64_t value;
};

/* CPUID leaves and MSRs of one logical processor, as recorded or as read so far. */
struct cm_processor {
  size_t leaf_count;
  struct cm_leaf leaves[CM_LEAVES_MAX];
  size_t msr_count;
  struct cm_msr msrs[CM_MSRS_MAX];
  char architecture[CM_ARCHITECTURE_MAX]; /* empty: not said */
};

/* A file that stays open between looks, to be read from its start again: the kernel makes the content of a /proc
 * or /sys file when it is read, and opening it costs twice as much as reading. */
struct cm_kept {
  int fd;
  char path[96];
};

struct cm_machine {
  bool recorded_leaves;    /* leaves and MSRs come from a recording, none is read from the processor */
  bool recorded_root;      /* files come from a directory other than / */
  int root;                /* directory fd, or -1 when there are no files to look at */
  struct cm_processor processor;
  size_t unreadable_size;
  char unreadable[4096];   /* recorded errors: lines "ENAME /path" */
  bool keep_files;
  size_t kept_count;
  struct cm_kept kept[CM_KEPT_MAX];
  char scratch[CM_TEXT_MAX + 1];
};

enum cm_leaf_status {
  CM_LEAF_OK,
  CM_LEAF_NO_CPUID,     /* not an x86 processor */
  CM_LEAF_ABOVE_MAXIMUM, /* the processor says that it has no such leaf */
  CM_LEAF_NOT_RECORDED,
};

/* Leaf guarded by the maximum leaf of its range: an Intel processor, and an emulator that copies it,
 * answers a leaf beyond its maximum with the data of its highest basic leaf. */
enum cm_leaf_status cm_cpuid(struct cm_machine *machine, uint32_t leaf, uint32_t subleaf, struct cm_regs *out);

/* Without the guard: for the maxima themselves and for hypervisor ranges. */
enum cm_leaf_status cm_cpuid_raw(struct cm_machine *machine, uint32_t leaf, uint32_t subleaf, struct cm_regs *out);

/* The highest leaf of the basic, hypervisor or extended range that `leaf` is in; 0 when not known. */
uint32_t cm_highest_leaf(struct cm_machine *machine, uint32_t leaf);

/* 0, or a positive errno; ENODATA: not in the recording. */
int cm_msr(struct cm_machine *machine, uint32_t index, uint64_t *value);

const char *cm_architecture(const struct cm_machine *machine);
bool cm_is_x86(const struct cm_machine *machine);

enum cm_text_status {
  CM_TEXT_OK,
  CM_TEXT_ERROR,       /* errno in .error */
  CM_TEXT_EMPTY,
  CM_TEXT_TOO_LARGE,
  CM_TEXT_NO_NEWLINE,  /* cut off, or not a text file */
  CM_TEXT_NOT_TEXT,    /* NUL bytes */
  CM_TEXT_NOT_REGULAR,
  CM_TEXT_NO_ROOT,     /* CPUID from a recording that has no files */
};

struct cm_content {
  enum cm_text_status status;
  int error;
  size_t size;
  char *text; /* NUL-terminated, without the last newline; in machine->scratch, valid until the next read */
};

/* Reads a whole small text file. */
struct cm_content cm_read_text(struct cm_machine *machine, const char *path);

/* Reads small text files below one directory, which is looked up once: enter, read each by its whole path, leave. */
int cm_enter(struct cm_machine *machine, const char *directory);
struct cm_content cm_read_text_in(struct cm_machine *machine, int directory, const char *path);
void cm_leave(int directory);

/* Reads a file to its first blank line (/proc/cpuinfo, whose whole may be large); complete lines only. */
struct cm_content cm_read_head(struct cm_machine *machine, const char *path);

/* Reads a binary file of at most `size` bytes; status CM_TEXT_OK and .size on success. */
struct cm_content cm_read_bytes(struct cm_machine *machine, const char *path, void *buffer, size_t size);

/* Why it could not be read, as words for `reason`. */
const char *cm_content_problem(const struct cm_content *content);

/* True when the file or its directory is simply not there, as opposed to unreadable. */
bool cm_is_missing(const struct cm_content *content);

struct cm_names {
  enum cm_text_status status;
  int error;
  size_t count;   /* all entries */
  size_t held;    /* entries in names */
  char names[CM_NAMES_MAX][64];
};

/* Names in a directory, sorted, without those that start with a dot. */
void cm_list(struct cm_machine *machine, const char *path, struct cm_names *out);

/* Opens a device: 0 and *fd (or -1 with *recorded set: a regular file stands for it), or positive errno. */
int cm_open_device(struct cm_machine *machine, const char *path, int flags, int *fd, bool *recorded);

#endif
