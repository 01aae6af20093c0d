#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "look.h"

/* Hypervisor signatures are in EBX, ECX, EDX, unlike processor vendors: Linux Documentation/virt/kvm/x86/cpuid.rst. */
static void signature_of(const struct cm_regs *regs, char out[13]) {
  const uint32_t words[] = {regs->ebx, regs->ecx, regs->edx};
  char raw[13] = {0};
  for (unsigned i = 0; i < 12; i++) raw[i] = (char)(words[i / 4] >> (8 * (i % 4)) & 0xff);
  cm_copy(out, 13, cm_trim((struct cm_span){raw, strlen(raw)}));
}

static bool plausible(const char *signature) { return strlen(signature) >= 4 && strchr(signature, '?') == NULL; }

static void nested_signatures(struct cm_look *look) {
  /* Hyper-V's interface at the first place, and the real hypervisor behind it (KVM, Xen), or Xen's own at a
   * later one: Xen scans 0x40000000 to 0x40010000 (xen public/arch-x86/cpuid.h). Each look costs a VM exit,
   * so the long way is only gone behind Hyper-V's signature or in a recording. */
  uint32_t places = strcmp(look->signature, "Microsoft Hv") == 0 || look->machine->recorded_leaves ? 256 : 2;
  char found[96] = "";
  size_t used = 0;
  for (uint32_t i = 1; i < places && used + 16 < sizeof found; i++) {
    struct cm_regs regs;
    uint32_t leaf = 0x40000000u + i * 0x100;
    if (cm_cpuid_raw(look->machine, leaf, 0, &regs) != CM_LEAF_OK) continue;
    /* A range that is not there is answered with another leaf: its EAX must be the range's own maximum. */
    if ((regs.eax & 0xffffff00u) != leaf && regs.eax != 0) continue;
    char signature[13];
    signature_of(&regs, signature);
    if (!plausible(signature)) continue;
    int count = snprintf(found + used, sizeof found - used, "%s%s at 0x%08x", used > 0 ? ", " : "", signature, leaf);
    used += count > 0 ? (size_t)count : 0;
  }
  struct cm_fact *fact = cm_say(look->report, CM_VIRT_HYPERVISOR_NESTED, used > 0 ? CM_PRESENT : CM_ABSENT,
                                "CPUID 0x40000100 to 0x%08x in steps of 0x100", 0x40000000u + (places - 1) * 0x100);
  if (used > 0) cm_text(fact, "%s", found);
}

static void hypervisor(struct cm_look *look) {
  struct cm_fact *fact = cm_say_bit(look, CM_VIRT_HYPERVISOR, 1, 0, CM_ECX, 31);
  look->hypervisor = fact->state;
  look->signature[0] = '\0';
  if (!cm_is_x86(look->machine)) {
    /* The device tree names KVM or Xen on Arm; a machine booted by ACPI shows DMI alone. */
    struct cm_content content = cm_read_bytes(look->machine, "/proc/device-tree/hypervisor/compatible", (char[64]){0}, 63);
    if (content.status == CM_TEXT_OK) {
      char name[64];
      cm_copy(name, sizeof name, (struct cm_span){content.text, strnlen(content.text, content.size)});
      fact = cm_say(look->report, CM_VIRT_HYPERVISOR, CM_PRESENT, "/proc/device-tree/hypervisor/compatible: %s", name);
      cm_text(fact, "%s", name);
    } else {
      fact = cm_say(look->report, CM_VIRT_HYPERVISOR, CM_UNKNOWN, "/proc/device-tree/hypervisor/compatible: %s", cm_content_problem(&content));
      cm_reason(fact, "an Arm processor does not say whether it is virtual");
    }
    look->hypervisor = fact->state;
  }
  if (look->hypervisor != CM_PRESENT || !cm_is_x86(look->machine)) {
    (void)cm_say_follows(look, CM_VIRT_HYPERVISOR_NESTED, look->hypervisor, CM_VIRT_HYPERVISOR);
    (void)cm_say_follows(look, CM_VIRT_HYPERV_ISOLATION, look->hypervisor == CM_UNKNOWN ? CM_UNKNOWN : CM_ABSENT, CM_VIRT_HYPERVISOR);
    return;
  }
  struct cm_regs regs;
  if (cm_cpuid_raw(look->machine, 0x40000000u, 0, &regs) == CM_LEAF_OK) {
    signature_of(&regs, look->signature);
    size_t used = strlen(fact->evidence);
    (void)snprintf(fact->evidence + used, sizeof fact->evidence - used,
                   "; CPUID 0x40000000.0x0 EBX=0x%08x ECX=0x%08x EDX=0x%08x", regs.ebx, regs.ecx, regs.edx);
    if (look->signature[0] != '\0') cm_text(fact, "%s", look->signature);
  } else {
    cm_reason(fact, "the recording has no leaf 0x40000000: signature not known");
  }
  nested_signatures(look);

  /* 0x40000003.EBX[22] says that 0x4000000C is there; its EBX[3:0]: 0 none, 1 VBS, 2 SNP, 3 TDX. */
  if (strcmp(look->signature, "Microsoft Hv") != 0) {
    (void)cm_say(look->report, CM_VIRT_HYPERV_ISOLATION, CM_ABSENT, "CPUID 0x40000000 signature \"%s\"", look->signature);
    return;
  }
  fact = cm_say_bit(look, CM_VIRT_HYPERV_ISOLATION, 0x40000003u, 0, CM_EBX, 22);
  if (fact->state != CM_PRESENT) return;
  enum cm_leaf_status status = cm_cpuid(look->machine, 0x4000000cu, 0, &regs);
  if (status != CM_LEAF_OK) {
    (void)cm_say_no_leaf(look, CM_VIRT_HYPERV_ISOLATION, status, 0x4000000cu, 0);
    return;
  }
  static const char *const kinds[] = {"none", "vbs", "snp", "tdx"};
  uint32_t kind = regs.ebx & 0xf;
  fact = cm_say(look->report, CM_VIRT_HYPERV_ISOLATION, kind == 0 ? CM_ABSENT : CM_PRESENT, "CPUID 0x4000000c.0x0 EBX=0x%08x bits 3:0 are %u", regs.ebx, kind);
  if (kind < 4) cm_text(fact, "%s", kinds[kind]);
}

static void kvm(struct cm_look *look) {
  static const char path[] = "/dev/kvm";
  int fd;
  bool recorded;
  int error = cm_open_device(look->machine, path, O_RDWR, &fd, &recorded);
  int version = -ENODATA;
  if (error == 0 && recorded) {
    struct cm_content content = cm_read_text(look->machine, path);
    uint64_t value;
    struct cm_span text = content.status == CM_TEXT_OK ? cm_span_of(content.text) : (struct cm_span){"", 0};
    if (cm_span_starts(text, "KVM_GET_API_VERSION ") &&
        cm_decimal((struct cm_span){text.at + 20, text.size - 20}, 1000, &value)) {
      version = (int)value;
    }
  } else if (error == 0) {
    version = seam_kvm_api_version(fd);
    seam_close(fd);
  }
  struct cm_fact *fact;
  if (error == 0 && version >= 0) {
    /* 12 since Linux 2.6.22, and "no plans to change" (api.rst 4.1). */
    fact = cm_say(look->report, CM_VIRT_KVM_USABLE, version == 12 ? CM_PRESENT : CM_ABSENT, "%s opened, KVM_GET_API_VERSION %d", path, version);
    cm_number(fact, (uint64_t)version);
  } else if (error == 0) {
    fact = cm_say(look->report, CM_VIRT_KVM_USABLE, CM_UNKNOWN, "%s opened, KVM_GET_API_VERSION: %s", path, cm_errno_name(-version));
    cm_reason(fact, "%s answers KVM_GET_API_VERSION with %s", path, cm_errno_name(-version));
  } else if (error == ENOENT || error == ENODEV || error == ENXIO) {
    /* The node is there when the module is, and opening it gives ENODEV when no processor can virtualize. */
    fact = cm_say(look->report, CM_VIRT_KVM_USABLE, CM_ABSENT, "%s: %s", path, cm_errno_name(error));
    cm_reason(fact, error == ENOENT ? "no /dev/kvm: the KVM module is not loaded, or found no VT-x or AMD-V"
                                    : "/dev/kvm is there, and has no processor that can virtualize behind it");
  } else if (error == ENODATA) {
    fact = cm_say(look->report, CM_VIRT_KVM_USABLE, CM_UNKNOWN, "%s: the recording has no files", path);
    cm_reason(fact, "the recording has no files (give --root)");
  } else {
    fact = cm_say(look->report, CM_VIRT_KVM_USABLE, CM_UNKNOWN, "%s: %s", path, cm_errno_name(error));
    cm_reason(fact, "%s: %s", path, cm_errno_name(error));
    if (error == EACCES || error == EPERM) fact->hint = "Add this user to the group of /dev/kvm.";
  }
  look->kvm = fact->state;
}

/* KVM itself says that the processor can: the module of the vendor is loaded and /dev/kvm works. */
static bool kvm_module_works(struct cm_look *look, const char *module) {
  struct cm_names names;
  char path[64];
  (void)snprintf(path, sizeof path, "/sys/module/%s/parameters", module);
  cm_list(look->machine, path, &names);
  return names.status == CM_TEXT_OK && look->kvm == CM_PRESENT;
}

static void vmx(struct cm_look *look) {
  struct cm_fact *claim = cm_say_bit(look, CM_VIRT_VMX_ADVERTISED, 1, 0, CM_ECX, 5);
  if (!look->intel) claim->hint = NULL;
  if (cm_state_of(look, CM_VIRT_VMX_ADVERTISED) != CM_PRESENT) {
    (void)cm_say_follows(look, CM_VIRT_VMX_ENABLED, cm_state_of(look, CM_VIRT_VMX_ADVERTISED), CM_VIRT_VMX_ADVERTISED);
    return;
  }
  uint64_t value;
  int error = cm_msr(look->machine, 0x3a, &value);
  if (error == 0) {
    bool locked = (value & 1) != 0;
    bool outside = (value & 4) != 0;
    /* Unlocked and off: the kernel may still switch it on (Linux feat_ctl.c does at boot), firmware did not. */
    struct cm_fact *fact = cm_say(look->report, CM_VIRT_VMX_ENABLED, locked && outside ? CM_PRESENT : CM_ABSENT,
                                  "MSR 0x0000003a IA32_FEATURE_CONTROL=0x%llx: lock is %d, VMX outside SMX is %d",
                                  (unsigned long long)value, locked, outside);
    if (!locked) cm_reason(fact, "firmware has not locked IA32_FEATURE_CONTROL");
    else if (!outside) cm_reason(fact, "firmware locked VMX off");
  } else if (kvm_module_works(look, "kvm_intel")) {
    (void)cm_say(look->report, CM_VIRT_VMX_ENABLED, CM_PRESENT,
                 "/sys/module/kvm_intel is there and /dev/kvm works (MSR 0x0000003a: %s)", cm_errno_name(error));
  } else {
    (void)cm_say_no_msr(look, CM_VIRT_VMX_ENABLED, 0x3a, "IA32_FEATURE_CONTROL", error);
  }
}

static void svm(struct cm_look *look) {
  struct cm_fact *claim = cm_say_bit(look, CM_VIRT_SVM_ADVERTISED, 0x80000001u, 0, CM_ECX, 2);
  if (!look->amd) claim->hint = NULL;
  /* Leaf 0x8000000A means something only with SVM; a guest without it reads zeros there. */
  (void)cm_say_field(look, CM_VIRT_SVM_REVISION, 0x8000000au, 0, CM_EAX, 0, 8);
  (void)cm_say_field(look, CM_VIRT_SVM_ASIDS, 0x8000000au, 0, CM_EBX, 0, 32);
  (void)cm_say_bit(look, CM_VIRT_SVM_LOCK, 0x8000000au, 0, CM_EDX, 2);
  if (cm_state_of(look, CM_VIRT_SVM_ADVERTISED) != CM_PRESENT) {
    (void)cm_say_follows(look, CM_VIRT_SVM_ENABLED, cm_state_of(look, CM_VIRT_SVM_ADVERTISED), CM_VIRT_SVM_ADVERTISED);
    return;
  }
  uint64_t value;
  int error = cm_msr(look->machine, 0xc0010114u, &value);
  if (error == 0) {
    bool disabled = (value & 1u << 4) != 0;
    bool locked = (value & 1u << 3) != 0;
    struct cm_fact *fact = cm_say(look->report, CM_VIRT_SVM_ENABLED, disabled ? CM_ABSENT : CM_PRESENT,
                                  "MSR 0xc0010114 VM_CR=0x%llx: SVMDIS is %d, LOCK is %d", (unsigned long long)value,
                                  disabled, locked);
    if (disabled) cm_reason(fact, "firmware disabled SVM");
  } else if (kvm_module_works(look, "kvm_amd")) {
    (void)cm_say(look->report, CM_VIRT_SVM_ENABLED, CM_PRESENT,
                 "/sys/module/kvm_amd is there and /dev/kvm works (MSR 0xc0010114: %s)", cm_errno_name(error));
  } else {
    (void)cm_say_no_msr(look, CM_VIRT_SVM_ENABLED, 0xc0010114u, "VM_CR", error);
  }
}

static void nested_paging(struct cm_look *look) {
  if (cm_state_of(look, CM_VIRT_VMX_ADVERTISED) == CM_PRESENT) {
    /* IA32_VMX_PROCBASED_CTLS2 (48BH): bit 33 = "enable EPT" may be 1 (SDM 3C A.3.3). */
    uint64_t value;
    int error = cm_msr(look->machine, 0x48b, &value);
    if (error == 0) {
      bool ept = (value >> 33 & 1) != 0;
      (void)cm_say(look->report, CM_VIRT_NESTED_PAGING, ept ? CM_PRESENT : CM_ABSENT,
                   "MSR 0x0000048b IA32_VMX_PROCBASED_CTLS2=0x%016llx: EPT allowed is %d", (unsigned long long)value, ept);
    } else if (cm_kernel_shows(look, "ept")) {
      (void)cm_say(look->report, CM_VIRT_NESTED_PAGING, CM_PRESENT, "/proc/cpuinfo flags: ept (MSR 0x0000048b: %s)", cm_errno_name(error));
    } else {
      (void)cm_say_no_msr(look, CM_VIRT_NESTED_PAGING, 0x48b, "IA32_VMX_PROCBASED_CTLS2", error);
    }
    return;
  }
  if (cm_state_of(look, CM_VIRT_SVM_ADVERTISED) == CM_PRESENT) {
    (void)cm_say_bit(look, CM_VIRT_NESTED_PAGING, 0x8000000au, 0, CM_EDX, 0);
    return;
  }
  bool unknown = cm_state_of(look, CM_VIRT_VMX_ADVERTISED) == CM_UNKNOWN || cm_state_of(look, CM_VIRT_SVM_ADVERTISED) == CM_UNKNOWN;
  struct cm_fact *fact = cm_say(look->report, CM_VIRT_NESTED_PAGING, unknown ? CM_UNKNOWN : CM_ABSENT, "neither VT-x nor AMD-V advertised");
  cm_reason(fact, "virt.vmx.advertised is %s, virt.svm.advertised is %s",
            cm_state_word(cm_state_of(look, CM_VIRT_VMX_ADVERTISED)), cm_state_word(cm_state_of(look, CM_VIRT_SVM_ADVERTISED)));
}

static void nested_guests(struct cm_look *look) {
  static const char *const paths[] = {"/sys/module/kvm_intel/parameters/nested", "/sys/module/kvm_amd/parameters/nested"};
  struct cm_content content = {CM_TEXT_ERROR, ENOENT, 0, NULL};
  for (size_t i = 0; i < 2; i++) {
    enum cm_state state = cm_module_flag(look, paths[i], &content);
    if (content.status == CM_TEXT_OK && state != CM_UNKNOWN) {
      (void)cm_say(look->report, CM_VIRT_NESTED, state, "%s: %s", paths[i], content.text);
      return;
    }
    if (content.status == CM_TEXT_OK) {
      struct cm_fact *fact = cm_say(look->report, CM_VIRT_NESTED, CM_UNKNOWN, "%s: %.60s", paths[i], content.text);
      cm_reason(fact, "%s says neither Y nor N", paths[i]);
      return;
    }
    if (!cm_is_missing(&content)) {
      (void)cm_say_no_file(look, CM_VIRT_NESTED, paths[i], &content);
      return;
    }
  }
  struct cm_fact *fact = cm_say(look->report, CM_VIRT_NESTED, CM_UNKNOWN, "%s, %s: ENOENT", paths[0], paths[1]);
  cm_reason(fact, "neither kvm_intel nor kvm_amd is loaded");
}

static void iommu(struct cm_look *look) {
  static const char classes[] = "/sys/class/iommu";
  static const char groups[] = "/sys/kernel/iommu_groups";
  struct cm_names names;
  cm_list(look->machine, classes, &names);
  if (names.status != CM_TEXT_OK) {
    struct cm_content content = {names.status, names.error, 0, NULL};
    (void)cm_say_no_file(look, CM_VIRT_IOMMU, classes, &content);
  } else {
    char listed[160] = "";
    size_t used = 0;
    for (size_t i = 0; i < names.held && used + 40 < sizeof listed; i++) {
      int count = snprintf(listed + used, sizeof listed - used, "%s%.32s", i > 0 ? " " : "", names.names[i]);
      used += count > 0 ? (size_t)count : 0;
    }
    struct cm_fact *fact = cm_say(look->report, CM_VIRT_IOMMU, names.count > 0 ? CM_PRESENT : CM_ABSENT, "%s: %zu entries", classes, names.count);
    if (names.count > 0) cm_text(fact, "%s", listed);
  }
  cm_list(look->machine, groups, &names);
  if (names.status != CM_TEXT_OK) {
    struct cm_content content = {names.status, names.error, 0, NULL};
    (void)cm_say_no_file(look, CM_VIRT_IOMMU_GROUPS, groups, &content);
  } else {
    struct cm_fact *fact = cm_say(look->report, CM_VIRT_IOMMU_GROUPS, names.count > 0 ? CM_PRESENT : CM_ABSENT, "%s: %zu entries", groups, names.count);
    cm_number(fact, names.count);
  }
}

void cm_facts_virtualization(struct cm_look *look) {
  hypervisor(look);
  kvm(look);
  vmx(look);
  svm(look);
  nested_paging(look);
  nested_guests(look);
  iommu(look);
}
