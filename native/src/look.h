/* What the fact files share: the machine, the report, and what several facts are made of. */
#ifndef CASEMATE_LOOK_H
#define CASEMATE_LOOK_H

#include "casemate/probe.h"
#include "casemate/text.h"

enum { CM_EAX, CM_EBX, CM_ECX, CM_EDX };

/* The first processor of /proc/cpuinfo. */
struct cm_cpuinfo {
  struct cm_content content; /* status only: the text is copied below */
  char vendor[32];
  char microcode[32];
  char implementer[16];
  char flags[6144]; /* blank-separated; some 2 KiB on a processor of 2024 */
};

struct cm_look {
  struct cm_machine *machine;
  struct cm_report *report;
  struct cm_cpuinfo cpuinfo;
  char vendor[13];         /* CPUID leaf 0, empty without CPUID */
  bool intel, amd;         /* amd: Hygon, too */
  enum cm_state hypervisor; /* CPUID.1:ECX[31] */
  char signature[13];      /* of the first hypervisor leaf */
  enum cm_state kvm;       /* virt.kvm.usable */
  unsigned devices_left;   /* that facts_swap.c may still look at */
  uint64_t sev_status;
  int sev_status_error;    /* 0 when sev_status holds */
};

/* Says a fact from one CPUID bit: present, absent (also when the leaf is above the maximum), or unknown. */
struct cm_fact *cm_say_bit(struct cm_look *look, enum cm_fact_name name, uint32_t leaf, uint32_t subleaf, int reg,
                           unsigned bit);

/* Says a number that one CPUID register field holds; absent when the leaf is not there. */
struct cm_fact *cm_say_field(struct cm_look *look, enum cm_fact_name name, uint32_t leaf, uint32_t subleaf, int reg,
                             unsigned low, unsigned width);

uint32_t cm_register(const struct cm_regs *regs, int reg);

/* Unknown, for a leaf that is not OK; or absent when it is above the maximum or there is no CPUID. */
struct cm_fact *cm_say_no_leaf(struct cm_look *look, enum cm_fact_name name, enum cm_leaf_status status, uint32_t leaf,
                               uint32_t subleaf);

/* The SEV leaf when it is there and has the very data of another leaf, which `other` then names. */
bool cm_sev_leaf_is_a_copy(struct cm_look *look, uint32_t *other);

/* Unknown, for an MSR that could not be read, with the hint how to make it readable. */
struct cm_fact *cm_say_no_msr(struct cm_look *look, enum cm_fact_name name, uint32_t index, const char *msr, int error);

/* Unknown, for a file that could not be read. */
struct cm_fact *cm_say_no_file(struct cm_look *look, enum cm_fact_name name, const char *path,
                               const struct cm_content *content);

/* A state copied from another fact: "not advertised, so not enabled". */
struct cm_fact *cm_say_follows(struct cm_look *look, enum cm_fact_name name, enum cm_state state, enum cm_fact_name from);

/* Y, N, 1, 0 of a kernel module parameter. */
enum cm_state cm_module_flag(struct cm_look *look, const char *path, struct cm_content *content);

enum cm_state cm_state_of(const struct cm_look *look, enum cm_fact_name name);
const char *cm_evidence_of(const struct cm_look *look, enum cm_fact_name name);
bool cm_kernel_shows(const struct cm_look *look, const char *flag);

struct cm_mount {
  char point[256];
  char source[128];
};

/* The mount that holds a file: the longest mount point above it. */
bool cm_mount_of(struct cm_machine *machine, const char *file, struct cm_mount *out, struct cm_content *content);

/* Octal escapes of /proc/swaps and mountinfo (\040 is a blank); true when it fits. */
bool cm_unescape(struct cm_span span, char *out, size_t size);

/* What a TPM answers to TPM2_GetCapability(TPM_PT_MANUFACTURER); 0 or a positive errno. */
int cm_tpm_ask(struct cm_machine *machine, unsigned char *answer, size_t room, size_t *size);

void cm_facts_cpu(struct cm_look *look);
void cm_facts_virtualization(struct cm_look *look);
void cm_facts_amd_memory(struct cm_look *look);
void cm_facts_intel_memory(struct cm_look *look);
void cm_facts_swap(struct cm_look *look);
void cm_facts_attestation(struct cm_look *look);
void cm_facts_arm(struct cm_look *look);
void cm_facts_tpm(struct cm_look *look);
void cm_facts_platform(struct cm_look *look);
void cm_facts_kernel(struct cm_look *look);
void cm_facts_contradictions(struct cm_look *look);

/* The maker of a TPM from its answer to TPM2_GetCapability(TPM_PT_MANUFACTURER): for the fuzzer, too. */
bool cm_tpm_manufacturer(const unsigned char *answer, size_t size, char out[5]);
void cm_cpuinfo_parse(const char *text, struct cm_cpuinfo *out);

#endif
