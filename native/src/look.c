#include "look.h"

#include <errno.h>
#include <string.h>

static const char *const register_names[] = {"EAX", "EBX", "ECX", "EDX"};

uint32_t cm_register(const struct cm_regs *regs, int reg) {
  switch (reg) {
    case CM_EAX: return regs->eax;
    case CM_EBX: return regs->ebx;
    case CM_ECX: return regs->ecx;
    default: return regs->edx;
  }
}

struct cm_fact *cm_say_no_leaf(struct cm_look *look, enum cm_fact_name name, enum cm_leaf_status status, uint32_t leaf,
                               uint32_t subleaf) {
  struct cm_fact *fact;
  switch (status) {
    case CM_LEAF_NO_CPUID:
      fact = cm_say(look->report, name, CM_ABSENT, "architecture %s", cm_architecture(look->machine));
      cm_reason(fact, "a feature of x86 processors");
      return fact;
    case CM_LEAF_ABOVE_MAXIMUM: {
      uint32_t base = leaf & 0xc0000000u ? leaf & 0xff000000u : 0;
      fact = cm_say(look->report, name, CM_ABSENT, "CPUID 0x%08x.0x0 EAX=0x%08x: no leaf 0x%08x", base,
                    cm_highest_leaf(look->machine, leaf), leaf);
      cm_reason(fact, "the processor has no leaf 0x%08x", leaf);
      return fact;
    }
    default:
      fact = cm_say(look->report, name, CM_UNKNOWN, "CPUID 0x%08x.0x%x", leaf, subleaf);
      cm_reason(fact, "the recording has no leaf 0x%08x subleaf 0x%x", leaf, subleaf);
      return fact;
  }
}

struct cm_fact *cm_say_bit(struct cm_look *look, enum cm_fact_name name, uint32_t leaf, uint32_t subleaf, int reg,
                           unsigned bit) {
  struct cm_regs regs;
  enum cm_leaf_status status = cm_cpuid(look->machine, leaf, subleaf, &regs);
  if (status != CM_LEAF_OK) return cm_say_no_leaf(look, name, status, leaf, subleaf);
  uint32_t value = cm_register(&regs, reg);
  bool set = (value >> bit & 1) != 0;
  return cm_say(look->report, name, set ? CM_PRESENT : CM_ABSENT, "CPUID 0x%08x.0x%x %s=0x%08x bit %u is %d", leaf,
                subleaf, register_names[reg], value, bit, set);
}

struct cm_fact *cm_say_field(struct cm_look *look, enum cm_fact_name name, uint32_t leaf, uint32_t subleaf, int reg,
                             unsigned low, unsigned width) {
  struct cm_regs regs;
  enum cm_leaf_status status = cm_cpuid(look->machine, leaf, subleaf, &regs);
  if (status != CM_LEAF_OK) return cm_say_no_leaf(look, name, status, leaf, subleaf);
  uint32_t value = cm_register(&regs, reg);
  uint64_t field = (uint64_t)value >> low & (((uint64_t)1 << width) - 1);
  struct cm_fact *fact = cm_say(look->report, name, CM_PRESENT, "CPUID 0x%08x.0x%x %s=0x%08x bits %u:%u", leaf, subleaf,
                                register_names[reg], value, low + width - 1, low);
  cm_number(fact, field);
  return fact;
}

struct cm_fact *cm_say_no_msr(struct cm_look *look, enum cm_fact_name name, uint32_t index, const char *msr, int error) {
  struct cm_fact *fact = cm_say(look->report, name, CM_UNKNOWN, "MSR 0x%08x %s: %s", index, msr, cm_errno_name(error));
  switch (error) {
    case ENODATA:
      cm_reason(fact, "the recording has no MSR 0x%08x", index);
      fact->hint = NULL;
      break;
    case ENOENT:
    case ENXIO:
    case ENODEV:
      cm_reason(fact, "%s: no /dev/cpu/0/msr", cm_errno_name(error));
      fact->hint = "modprobe msr, and run as root.";
      break;
    case EACCES:
    case EPERM:
      cm_reason(fact, "%s: MSRs are for root, and not under kernel lockdown", cm_errno_name(error));
      fact->hint = "Run as root (CAP_SYS_RAWIO), without kernel lockdown.";
      break;
    case EIO:
      cm_reason(fact, "EIO: the processor or hypervisor refuses this MSR (#GP)");
      fact->hint = NULL;
      break;
    default:
      cm_reason(fact, "%s reading the MSR", cm_errno_name(error));
      fact->hint = NULL;
      break;
  }
  return fact;
}

struct cm_fact *cm_say_no_file(struct cm_look *look, enum cm_fact_name name, const char *path,
                               const struct cm_content *content) {
  struct cm_fact *fact = cm_say(look->report, name, CM_UNKNOWN, "%s: %s", path, cm_content_problem(content));
  cm_reason(fact, "%s: %s", path, cm_content_problem(content));
  if (content->status == CM_TEXT_ERROR && (content->error == EACCES || content->error == EPERM)) {
    fact->hint = "Run as root.";
  }
  return fact;
}

struct cm_fact *cm_say_follows(struct cm_look *look, enum cm_fact_name name, enum cm_state state,
                               enum cm_fact_name from) {
  const char *evidence = cm_evidence_of(look, from);
  struct cm_fact *fact = cm_say(look->report, name, state, "%s", evidence);
  cm_reason(fact, "%s is %s", cm_fact_definitions[from].id, cm_state_word(cm_state_of(look, from)));
  fact->hint = NULL; /* there is one, if any, with the fact that this one follows */
  return fact;
}

enum cm_state cm_module_flag(struct cm_look *look, const char *path, struct cm_content *content) {
  *content = cm_read_text(look->machine, path);
  if (content->status != CM_TEXT_OK) return CM_UNKNOWN;
  if (strcmp(content->text, "Y") == 0 || strcmp(content->text, "1") == 0) return CM_PRESENT;
  if (strcmp(content->text, "N") == 0 || strcmp(content->text, "0") == 0) return CM_ABSENT;
  return CM_UNKNOWN;
}

enum cm_state cm_state_of(const struct cm_look *look, enum cm_fact_name name) { return look->report->facts[name].state; }

const char *cm_evidence_of(const struct cm_look *look, enum cm_fact_name name) {
  return look->report->facts[name].evidence;
}

bool cm_kernel_shows(const struct cm_look *look, const char *flag) {
  return look->cpuinfo.content.status == CM_TEXT_OK && cm_has_word(look->cpuinfo.flags, flag);
}
