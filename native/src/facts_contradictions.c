/* Two sources about the same thing: present = they contradict each other, absent = they agree. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "look.h"

static struct cm_fact *compare(struct cm_look *look, enum cm_fact_name name, bool contradict, const char *left, const char *right) {
  return cm_say(look->report, name, contradict ? CM_PRESENT : CM_ABSENT, "%.160s; %.160s", left, right);
}

static void one_source(struct cm_look *look, enum cm_fact_name name, const char *missing) {
  struct cm_fact *fact = cm_say(look->report, name, CM_UNKNOWN, "%s", missing);
  cm_reason(fact, "only one source: %s", missing);
  fact->hint = NULL;
}

static void kernel_against_cpuid(struct cm_look *look) {
  const struct cm_cpuinfo *info = &look->cpuinfo;
  if (look->vendor[0] == '\0' || info->vendor[0] == '\0') {
    one_source(look, CM_CONTRADICTION_VENDOR, look->vendor[0] == '\0' ? "no CPUID" : "no vendor_id in /proc/cpuinfo");
  } else {
    char shown[64];
    (void)snprintf(shown, sizeof shown, "/proc/cpuinfo vendor_id: %s", info->vendor);
    (void)compare(look, CM_CONTRADICTION_VENDOR, strcmp(look->vendor, info->vendor) != 0, cm_evidence_of(look, CM_CPU_VENDOR), shown);
  }

  if (!cm_is_x86(look->machine) || look->hypervisor == CM_UNKNOWN || info->flags[0] == '\0') {
    one_source(look, CM_CONTRADICTION_HYPERVISOR, info->flags[0] == '\0' ? "no flags in /proc/cpuinfo" : "no hypervisor bit");
  } else {
    bool kernel = cm_kernel_shows(look, "hypervisor");
    bool contradict = kernel != (look->hypervisor == CM_PRESENT);
    struct cm_fact *fact = compare(look, CM_CONTRADICTION_HYPERVISOR, contradict, cm_evidence_of(look, CM_VIRT_HYPERVISOR),
                                   kernel ? "/proc/cpuinfo flags: hypervisor" : "/proc/cpuinfo flags: no hypervisor");
    if (contradict) cm_reason(fact, "the processor and the kernel differ about a hypervisor");
  }

  /* The kernel hides flags that firmware switched off, so only a flag without its bit contradicts. */
  if (!cm_is_x86(look->machine) || info->flags[0] == '\0' || look->vendor[0] == '\0') {
    one_source(look, CM_CONTRADICTION_VIRTUALIZATION, info->flags[0] == '\0' ? "no flags in /proc/cpuinfo" : "no CPUID");
  } else {
    static const struct {
      const char *flag;
      enum cm_fact_name name;
    } flags[] = {{"vmx", CM_VIRT_VMX_ADVERTISED}, {"svm", CM_VIRT_SVM_ADVERTISED}, {"sgx", CM_MEM_SGX_ADVERTISED},
                 {"tme", CM_MEM_TME_ADVERTISED},  {"sme", CM_MEM_SME_ADVERTISED},  {"sev", CM_MEM_SEV_ADVERTISED},
                 {"sev_es", CM_MEM_SEV_ES_ADVERTISED}, {"sev_snp", CM_MEM_SEV_SNP_ADVERTISED}};
    const char *odd = NULL;
    enum cm_fact_name against = CM_CPU_VENDOR;
    for (size_t i = 0; i < sizeof flags / sizeof flags[0] && odd == NULL; i++) {
      if (!cm_kernel_shows(look, flags[i].flag) || cm_state_of(look, flags[i].name) != CM_ABSENT) continue;
      odd = flags[i].flag;
      against = flags[i].name;
    }
    char shown[64];
    (void)snprintf(shown, sizeof shown, "/proc/cpuinfo flags: %s", odd == NULL ? "none that CPUID lacks" : odd);
    struct cm_fact *fact = compare(look, CM_CONTRADICTION_VIRTUALIZATION, odd != NULL, shown, cm_evidence_of(look, against));
    if (odd != NULL) cm_reason(fact, "the kernel shows %s, which the processor does not have", odd);
  }
}

static bool same(const struct cm_regs *left, const struct cm_regs *right) { return memcmp(left, right, sizeof *left) == 0; }

/* An emulator without the leaf may answer it, and a maximum that it does not have, with another leaf's data; and
 * SEV without a C-bit position, without ASIDs, ES without SEV, SNP without ES hold no water. */
static void sev_leaf(struct cm_look *look) {
  struct cm_regs sev;
  enum cm_leaf_status status = cm_cpuid(look->machine, 0x8000001fu, 0, &sev);
  if (status == CM_LEAF_ABOVE_MAXIMUM) {
    /* Is there data although there is no leaf? Seen with QEMU's EPYC model: the data of the highest basic leaf. */
    struct cm_regs beyond;
    bool answered = look->amd && cm_cpuid_raw(look->machine, 0x8000001fu, 0, &beyond) == CM_LEAF_OK && (beyond.eax & 0x1f) != 0;
    if (answered) {
      struct cm_fact *fact = cm_say(look->report, CM_CONTRADICTION_SEV_LEAF, CM_PRESENT,
                                    "CPUID 0x80000000.0x0 EAX=0x%08x: no leaf 0x8000001f; CPUID 0x8000001f.0x0 EAX=0x%08x EBX=0x%08x ECX=0x%08x EDX=0x%08x",
                                    cm_highest_leaf(look->machine, 0x80000000u), beyond.eax, beyond.ebx, beyond.ecx, beyond.edx);
      struct cm_regs top;
      uint32_t highest = cm_highest_leaf(look->machine, 0);
      bool copied = cm_cpuid_raw(look->machine, highest, 0, &top) == CM_LEAF_OK && same(&top, &beyond);
      if (copied) cm_reason(fact, "the leaf does not exist and answers with the data of leaf 0x%x; its bits were not believed", highest);
      else cm_reason(fact, "the leaf does not exist, yet answers; its bits were not believed");
      return;
    }
  }
  if (status != CM_LEAF_OK) {
    (void)cm_say_no_leaf(look, CM_CONTRADICTION_SEV_LEAF, status, 0x8000001fu, 0);
    cm_reason(&look->report->facts[CM_CONTRADICTION_SEV_LEAF], status == CM_LEAF_NOT_RECORDED ? "the recording has no leaf 0x8000001f" : "no SEV leaf");
    look->report->facts[CM_CONTRADICTION_SEV_LEAF].hint = NULL;
    return;
  }
  bool any = (sev.eax & 2) != 0;
  const char *why = NULL;
  uint32_t other;
  if (cm_sev_leaf_is_a_copy(look, &other)) why = "the leaf has another leaf's data; its bits were not believed";
  if (why == NULL && any && (sev.ebx & 0x3f) == 0) why = "SEV without a position for the encryption bit";
  if (why == NULL && any && look->hypervisor != CM_PRESENT && sev.ecx == 0) why = "SEV without room for a single encrypted guest";
  if (why == NULL && !any && (sev.eax & 8) != 0) why = "SEV-ES without SEV";
  if (why == NULL && (sev.eax & 0x18) == 0x10) why = "SEV-SNP without SEV-ES";
  if (why == NULL && sev.eax != 0 && look->intel) why = "an Intel processor with AMD's memory encryption";
  struct cm_fact *fact = cm_say(look->report, CM_CONTRADICTION_SEV_LEAF, why != NULL ? CM_PRESENT : CM_ABSENT,
                                "CPUID 0x8000001f.0x0 EAX=0x%08x EBX=0x%08x ECX=0x%08x EDX=0x%08x", sev.eax, sev.ebx, sev.ecx, sev.edx);
  if (why != NULL) cm_reason(fact, "%s", why);
}

static void guests(struct cm_look *look) {
  enum cm_state device = cm_state_of(look, CM_ATTEST_SEV_GUEST_DEVICE);
  bool status_known = look->sev_status_error == 0;
  bool snp = status_known && (look->sev_status & 4) != 0;
  const struct cm_fact *tsm = &look->report->facts[CM_ATTEST_TSM];
  bool tsm_sev = tsm->state == CM_PRESENT && strcmp(tsm->text, "sev_guest") == 0;
  bool tsm_tdx = tsm->state == CM_PRESENT && strcmp(tsm->text, "tdx_guest") == 0;
  const char *status_evidence = cm_evidence_of(look, CM_MEM_SEV_SNP_GUEST);
  if (status_known && (look->sev_status & 7) != 0 && ((look->sev_status & 7) != 1 && (look->sev_status & 7) != 3 && (look->sev_status & 7) != 7)) {
    struct cm_fact *fact = compare(look, CM_CONTRADICTION_SEV_GUEST, true, status_evidence, "SEV-ES needs SEV, SEV-SNP needs SEV-ES");
    cm_reason(fact, "SEV_STATUS does not hold together");
  } else if (snp && device == CM_PRESENT) {
    (void)compare(look, CM_CONTRADICTION_SEV_GUEST, false, status_evidence, cm_evidence_of(look, CM_ATTEST_SEV_GUEST_DEVICE));
  } else if (!snp && (device == CM_PRESENT || tsm_sev) && cm_state_of(look, CM_MEM_SEV_SNP_GUEST) == CM_ABSENT) {
    struct cm_fact *fact = compare(look, CM_CONTRADICTION_SEV_GUEST, true, status_evidence, device == CM_PRESENT ? cm_evidence_of(look, CM_ATTEST_SEV_GUEST_DEVICE) : tsm->evidence);
    cm_reason(fact, "the processor says no SNP guest, the kernel offers SNP reports");
  } else if (status_known || cm_state_of(look, CM_MEM_SEV_SNP_GUEST) == CM_ABSENT) {
    /* SNP without the device is a module that is not loaded: nothing contradicts. */
    (void)compare(look, CM_CONTRADICTION_SEV_GUEST, false, status_evidence, cm_evidence_of(look, CM_ATTEST_SEV_GUEST_DEVICE));
  } else {
    one_source(look, CM_CONTRADICTION_SEV_GUEST, status_evidence);
  }

  enum cm_state tdx = cm_state_of(look, CM_MEM_TDX_GUEST);
  enum cm_state tdx_device = cm_state_of(look, CM_ATTEST_TDX_GUEST_DEVICE);
  bool kernel_tdx = tdx_device == CM_PRESENT || tsm_tdx || cm_kernel_shows(look, "tdx_guest");
  if (tdx == CM_UNKNOWN) {
    one_source(look, CM_CONTRADICTION_TDX_GUEST, cm_evidence_of(look, CM_MEM_TDX_GUEST));
  } else {
    bool contradict = tdx == CM_ABSENT && kernel_tdx;
    struct cm_fact *fact = compare(look, CM_CONTRADICTION_TDX_GUEST, contradict, cm_evidence_of(look, CM_MEM_TDX_GUEST),
                                   kernel_tdx ? "the kernel has a TDX guest's device, provider or flag" : "the kernel shows no TDX guest");
    if (contradict) cm_reason(fact, "the processor says no TDX guest, the kernel behaves like one");
  }
}

static void platform(struct cm_look *look) {
  enum cm_state ec2 = cm_state_of(look, CM_EC2_VM);
  if (ec2 == CM_UNKNOWN || !cm_is_x86(look->machine) || look->hypervisor == CM_UNKNOWN) {
    one_source(look, CM_CONTRADICTION_EC2, ec2 == CM_UNKNOWN ? cm_evidence_of(look, CM_EC2_VM) : "no hypervisor bit");
  } else if (ec2 == CM_ABSENT) {
    (void)compare(look, CM_CONTRADICTION_EC2, false, cm_evidence_of(look, CM_EC2_VM), cm_evidence_of(look, CM_VIRT_HYPERVISOR));
  } else {
    const struct cm_fact *type = &look->report->facts[CM_EC2_INSTANCE_TYPE];
    const char *metal = type->state == CM_PRESENT ? strstr(type->text, ".metal") : NULL;
    bool named_metal = metal != NULL && (metal[6] == '\0' || metal[6] == '-');
    bool ec2_hypervisor = strcmp(look->signature, "KVMKVMKVM") == 0 || strcmp(look->signature, "XenVMMXenVMM") == 0 || strcmp(look->signature, "Microsoft Hv") == 0;
    const char *why = NULL;
    if (look->hypervisor == CM_ABSENT && type->state == CM_PRESENT && !named_metal) why = "DMI names a virtual type, and there is no hypervisor";
    else if (look->hypervisor == CM_PRESENT && named_metal) why = "DMI names a .metal type, and there is a hypervisor";
    else if (look->hypervisor == CM_PRESENT && !ec2_hypervisor) why = "DMI says EC2, and the hypervisor is none of EC2's";
    struct cm_fact *fact = compare(look, CM_CONTRADICTION_EC2, why != NULL, type->state == CM_PRESENT ? type->evidence : cm_evidence_of(look, CM_EC2_VM), cm_evidence_of(look, CM_VIRT_HYPERVISOR));
    if (why != NULL) cm_reason(fact, "%s", why);
  }

  bool vmx = cm_state_of(look, CM_VIRT_VMX_ADVERTISED) == CM_PRESENT;
  bool svm = cm_state_of(look, CM_VIRT_SVM_ADVERTISED) == CM_PRESENT;
  bool known = cm_state_of(look, CM_VIRT_VMX_ADVERTISED) != CM_UNKNOWN && cm_state_of(look, CM_VIRT_SVM_ADVERTISED) != CM_UNKNOWN;
  if (!cm_is_x86(look->machine) || !known || look->kvm == CM_UNKNOWN) {
    one_source(look, CM_CONTRADICTION_KVM, look->kvm == CM_UNKNOWN ? cm_evidence_of(look, CM_VIRT_KVM_USABLE) : "no CPUID bits");
  } else if (look->kvm == CM_PRESENT && !vmx && !svm) {
    struct cm_fact *fact = compare(look, CM_CONTRADICTION_KVM, true, cm_evidence_of(look, CM_VIRT_KVM_USABLE), "neither VT-x nor AMD-V advertised");
    cm_reason(fact, "KVM works on a processor that shows neither VT-x nor AMD-V (another hypervisor's own, such as PVM, behind it)");
  } else if (look->kvm == CM_PRESENT && (cm_state_of(look, CM_VIRT_VMX_ENABLED) == CM_ABSENT) && vmx) {
    struct cm_fact *fact = compare(look, CM_CONTRADICTION_KVM, true, cm_evidence_of(look, CM_VIRT_KVM_USABLE), cm_evidence_of(look, CM_VIRT_VMX_ENABLED));
    cm_reason(fact, "KVM works although firmware says VT-x is off");
  } else if (look->kvm == CM_PRESENT && (cm_state_of(look, CM_VIRT_SVM_ENABLED) == CM_ABSENT) && svm) {
    struct cm_fact *fact = compare(look, CM_CONTRADICTION_KVM, true, cm_evidence_of(look, CM_VIRT_KVM_USABLE), cm_evidence_of(look, CM_VIRT_SVM_ENABLED));
    cm_reason(fact, "KVM works although firmware says AMD-V is off");
  } else {
    (void)compare(look, CM_CONTRADICTION_KVM, false, cm_evidence_of(look, CM_VIRT_KVM_USABLE), vmx ? cm_evidence_of(look, CM_VIRT_VMX_ADVERTISED) : cm_evidence_of(look, CM_VIRT_SVM_ADVERTISED));
  }
}

static void swap(struct cm_look *look) {
  static const enum cm_fact_name encryptions[] = {CM_MEM_SEV_GUEST, CM_MEM_TDX_GUEST, CM_MEM_SME_ENABLED, CM_MEM_TME_ENABLED, CM_ARM_CCA_REALM};
  enum cm_state plain = cm_state_of(look, CM_MEM_SWAP_PLAIN);
  enum cm_fact_name in_force = CM_FACT_COUNT;
  for (size_t i = 0; i < sizeof encryptions / sizeof encryptions[0] && in_force == CM_FACT_COUNT; i++) {
    if (cm_state_of(look, encryptions[i]) == CM_PRESENT) in_force = encryptions[i];
  }
  if (plain == CM_UNKNOWN) {
    one_source(look, CM_CONTRADICTION_SWAP, cm_evidence_of(look, CM_MEM_SWAP_PLAIN));
  } else if (in_force == CM_FACT_COUNT) {
    struct cm_fact *fact = compare(look, CM_CONTRADICTION_SWAP, false, cm_evidence_of(look, CM_MEM_SWAP_PLAIN), "no memory encryption known to be in force");
    (void)fact;
  } else {
    struct cm_fact *fact = compare(look, CM_CONTRADICTION_SWAP, plain == CM_PRESENT, cm_evidence_of(look, in_force), cm_evidence_of(look, CM_MEM_SWAP_PLAIN));
    if (plain == CM_PRESENT) cm_reason(fact, "%s, and swap takes the same memory to disk in the clear", cm_fact_definitions[in_force].id);
  }
}

void cm_facts_contradictions(struct cm_look *look) {
  kernel_against_cpuid(look);
  sev_leaf(look);
  guests(look);
  platform(look);
  swap(look);
}
