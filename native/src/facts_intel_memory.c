#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "look.h"

#define TME_CAPABILITY 0x981u
#define TME_ACTIVATE 0x982u
#define KEYID_PARTITIONING 0x87u

/* Algorithms of IA32_TME_ACTIVATE bits 7:4: SDM 4; only the first has been seen by us. */
static const char *const tme_policies[] = {"AES-XTS-128", "AES-XTS-128 with integrity", "AES-XTS-256"};

static void tme(struct cm_look *look) {
  (void)cm_say_bit(look, CM_MEM_TME_ADVERTISED, 7, 0, CM_ECX, 13);
  (void)cm_say_bit(look, CM_MEM_PCONFIG_ADVERTISED, 7, 0, CM_EDX, 18);
  static const enum cm_fact_name names[] = {CM_MEM_TME_ENABLED, CM_MEM_TME_BYPASS, CM_MEM_MKTME_ENABLED, CM_MEM_MKTME_KEYS};
  enum { NAMES = sizeof names / sizeof names[0] };
  enum cm_state claimed = cm_state_of(look, CM_MEM_TME_ADVERTISED);
  if (claimed != CM_PRESENT) {
    for (size_t i = 0; i < NAMES; i++) (void)cm_say_follows(look, names[i], claimed, CM_MEM_TME_ADVERTISED);
    if (claimed == CM_ABSENT && look->intel && look->hypervisor == CM_PRESENT) {
      struct cm_fact *fact = cm_say_follows(look, CM_MEM_TME_ENABLED, CM_UNKNOWN, CM_VIRT_HYPERVISOR);
      cm_reason(fact, "a guest cannot see whether its host encrypts memory");
      fact->hint = NULL;
    }
    return;
  }
  uint64_t activate;
  uint64_t capability;
  int error = cm_msr(look->machine, TME_ACTIVATE, &activate);
  if (error != 0) {
    for (size_t i = 0; i < 3; i++) (void)cm_say_no_msr(look, names[i], TME_ACTIVATE, "IA32_TME_ACTIVATE", error);
  } else {
    bool locked = (activate & 1) != 0;
    bool enabled = (activate & 2) != 0;
    bool bypass = (activate >> 31 & 1) != 0;
    unsigned policy = (unsigned)(activate >> 4 & 0xf);
    unsigned key_bits = (unsigned)(activate >> 32 & 0xf);
    struct cm_fact *fact =
        cm_say(look->report, CM_MEM_TME_ENABLED, locked && enabled && !bypass ? CM_PRESENT : CM_ABSENT,
               "MSR 0x00000982 IA32_TME_ACTIVATE=0x%llx: lock is %d, enable is %d, bypass is %d", (unsigned long long)activate, locked, enabled, bypass);
    if (fact->state == CM_PRESENT && policy < sizeof tme_policies / sizeof tme_policies[0]) cm_text(fact, "%s", tme_policies[policy]);
    if (!enabled) cm_reason(fact, "firmware left TME off");
    else if (!locked) cm_reason(fact, "not locked: not in force");
    else if (bypass) cm_reason(fact, "on, but memory of key 0 (all that is not a keyed guest's) bypasses encryption");
    (void)cm_say(look->report, CM_MEM_TME_BYPASS, enabled && bypass ? CM_PRESENT : CM_ABSENT,
                 "MSR 0x00000982 IA32_TME_ACTIVATE=0x%llx: enable is %d, bypass (bit 31) is %d", (unsigned long long)activate, enabled, bypass);
    fact = cm_say(look->report, CM_MEM_MKTME_ENABLED, locked && enabled && key_bits > 0 ? CM_PRESENT : CM_ABSENT,
                  "MSR 0x00000982 IA32_TME_ACTIVATE=0x%llx: %u key id bits", (unsigned long long)activate, key_bits);
    if (fact->state == CM_PRESENT) cm_number(fact, ((uint64_t)1 << key_bits) - 1);
  }
  error = cm_msr(look->machine, TME_CAPABILITY, &capability);
  if (error != 0) {
    (void)cm_say_no_msr(look, CM_MEM_MKTME_KEYS, TME_CAPABILITY, "IA32_TME_CAPABILITY", error);
  } else {
    uint64_t keys = capability >> 36 & 0x7fff;
    struct cm_fact *fact = cm_say(look->report, CM_MEM_MKTME_KEYS, keys > 0 ? CM_PRESENT : CM_ABSENT,
                                  "MSR 0x00000981 IA32_TME_CAPABILITY=0x%llx bits 50:36", (unsigned long long)capability);
    cm_number(fact, keys);
  }
}

static void tdx(struct cm_look *look) {
  static const char parameter[] = "/sys/module/kvm_intel/parameters/tdx";
  /* The private key ids that firmware set aside: no CPUID bit says "TDX host". The kernel wants two. */
  if (!look->intel || look->hypervisor == CM_PRESENT || cm_state_of(look, CM_MEM_TME_ADVERTISED) == CM_ABSENT) {
    bool known = look->vendor[0] != '\0' || !cm_is_x86(look->machine);
    struct cm_fact *fact = cm_say(look->report, CM_MEM_TDX_ENABLED, known ? CM_ABSENT : CM_UNKNOWN, "%s",
                                  look->intel ? cm_evidence_of(look, look->hypervisor == CM_PRESENT ? CM_VIRT_HYPERVISOR : CM_MEM_TME_ADVERTISED)
                                              : cm_evidence_of(look, CM_CPU_VENDOR));
    cm_reason(fact, "%s", !look->intel                        ? "not an Intel processor"
                          : look->hypervisor == CM_PRESENT ? "not a host: hypervisor bit set"
                                                           : "TDX needs TME");
    fact->hint = NULL;
  } else {
    uint64_t value;
    int error = cm_msr(look->machine, KEYID_PARTITIONING, &value);
    if (error == 0) {
      uint64_t keys = value >> 32;
      struct cm_fact *fact = cm_say(look->report, CM_MEM_TDX_ENABLED, keys >= 2 ? CM_PRESENT : CM_ABSENT,
                                    "MSR 0x00000087 IA32_MKTME_KEYID_PARTITIONING=0x%016llx: %llu private key ids",
                                    (unsigned long long)value, (unsigned long long)keys);
      cm_number(fact, keys);
      if (keys < 2) cm_reason(fact, "firmware set aside %llu private key ids, TDX needs two", (unsigned long long)keys);
    } else if (cm_kernel_shows(look, "tdx_host_platform")) {
      (void)cm_say(look->report, CM_MEM_TDX_ENABLED, CM_PRESENT, "/proc/cpuinfo flags: tdx_host_platform (MSR 0x00000087: %s)", cm_errno_name(error));
    } else {
      (void)cm_say_no_msr(look, CM_MEM_TDX_ENABLED, KEYID_PARTITIONING, "IA32_MKTME_KEYID_PARTITIONING", error);
    }
  }

  struct cm_content content = {CM_TEXT_ERROR, ENOENT, 0, NULL};
  bool other_vendor = look->vendor[0] != '\0' && !look->intel; /* spares two looks at what cannot be there */
  enum cm_state state = other_vendor ? CM_UNKNOWN : cm_module_flag(look, parameter, &content);
  if (state != CM_UNKNOWN) {
    (void)cm_say(look->report, CM_MEM_TDX_USABLE, state, "%s: %s", parameter, content.text);
  } else if (cm_state_of(look, CM_MEM_TDX_ENABLED) == CM_ABSENT) {
    (void)cm_say_follows(look, CM_MEM_TDX_USABLE, CM_ABSENT, CM_MEM_TDX_ENABLED);
  } else {
    struct cm_fact *fact = cm_say_no_file(look, CM_MEM_TDX_USABLE, parameter, &content);
    if (content.status == CM_TEXT_OK) cm_reason(fact, "%s says neither Y nor N", parameter);
  }

  static const char version[] = "/sys/devices/faux/tdx_host/version";
  if (!other_vendor) content = cm_read_text(look->machine, version);
  if (content.status == CM_TEXT_OK) {
    struct cm_fact *fact = cm_say(look->report, CM_MEM_TDX_MODULE_VERSION, CM_PRESENT, "%s", version);
    cm_text(fact, "%.60s", content.text);
  } else if (cm_is_missing(&content) && cm_state_of(look, CM_MEM_TDX_ENABLED) == CM_ABSENT) {
    (void)cm_say_follows(look, CM_MEM_TDX_MODULE_VERSION, CM_ABSENT, CM_MEM_TDX_ENABLED);
  } else {
    (void)cm_say_no_file(look, CM_MEM_TDX_MODULE_VERSION, version, &content);
  }

  /* "IntelTDX    " in EBX, EDX, ECX: Intel TDX module base specification, virtual CPUID leaf 0x21. */
  struct cm_regs regs;
  enum cm_leaf_status status = cm_cpuid(look->machine, 0x21, 0, &regs);
  const struct cm_fact *isolation = &look->report->facts[CM_VIRT_HYPERV_ISOLATION];
  bool hyperv_tdx = isolation->state == CM_PRESENT && isolation->value_kind == CM_VALUE_TEXT && strcmp(isolation->text, "tdx") == 0;
  bool is_guest = status == CM_LEAF_OK && regs.ebx == 0x65746e49u && regs.edx == 0x5844546cu && regs.ecx == 0x20202020u;
  if (!is_guest && hyperv_tdx) {
    struct cm_fact *fact = cm_say_follows(look, CM_MEM_TDX_GUEST, CM_PRESENT, CM_VIRT_HYPERV_ISOLATION);
    cm_reason(fact, "Hyper-V says TDX isolation and hides leaf 0x21");
  } else if (status != CM_LEAF_OK) {
    (void)cm_say_no_leaf(look, CM_MEM_TDX_GUEST, status, 0x21, 0);
  } else {
    (void)cm_say(look->report, CM_MEM_TDX_GUEST, is_guest ? CM_PRESENT : CM_ABSENT, "CPUID 0x00000021.0x0 EBX=0x%08x EDX=0x%08x ECX=0x%08x",
                 regs.ebx, regs.edx, regs.ecx);
  }
}

static void epc(struct cm_look *look) {
  /* SDM 3D 36.7.2: sub-leaf 2 and on, EAX[3:0] = 1 is a section, 0 ends the list; sizes in 4 KiB units. */
  uint64_t sum = 0;
  uint32_t sections = 0;
  for (uint32_t subleaf = 2; subleaf < 64; subleaf++) {
    struct cm_regs regs;
    enum cm_leaf_status status = cm_cpuid(look->machine, 0x12, subleaf, &regs);
    if (status != CM_LEAF_OK) {
      if (sections > 0 && status == CM_LEAF_NOT_RECORDED) break; /* recorders leave the empty last one out */
      (void)cm_say_no_leaf(look, CM_MEM_SGX_EPC, status, 0x12, subleaf);
      return;
    }
    if ((regs.eax & 0xf) == 0) break;
    if ((regs.eax & 0xf) != 1) continue;
    sections++;
    sum += (uint64_t)(regs.ecx & 0xfffff000u) | (uint64_t)(regs.edx & 0xfffffu) << 32;
  }
  struct cm_fact *fact = cm_say(look->report, CM_MEM_SGX_EPC, sum > 0 ? CM_PRESENT : CM_ABSENT, "CPUID 0x00000012.0x2 and on: %u sections", sections);
  cm_number(fact, sum);
}

static void sgx(struct cm_look *look) {
  (void)cm_say_bit(look, CM_MEM_SGX_ADVERTISED, 7, 0, CM_EBX, 2);
  (void)cm_say_bit(look, CM_MEM_SGX_LAUNCH_CONTROL, 7, 0, CM_ECX, 30);
  enum cm_state claimed = cm_state_of(look, CM_MEM_SGX_ADVERTISED);
  if (claimed != CM_PRESENT) {
    static const enum cm_fact_name names[] = {CM_MEM_SGX_SGX1, CM_MEM_SGX_SGX2, CM_MEM_SGX_ENABLED, CM_MEM_SGX_EPC, CM_MEM_SGX_USABLE};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) (void)cm_say_follows(look, names[i], claimed, CM_MEM_SGX_ADVERTISED);
    return;
  }
  (void)cm_say_bit(look, CM_MEM_SGX_SGX1, 0x12, 0, CM_EAX, 0);
  (void)cm_say_bit(look, CM_MEM_SGX_SGX2, 0x12, 0, CM_EAX, 1);
  epc(look);

  uint64_t value;
  int error = cm_msr(look->machine, 0x3a, &value);
  if (error == 0) {
    bool on = (value & 1) != 0 && (value >> 18 & 1) != 0;
    struct cm_fact *fact = cm_say(look->report, CM_MEM_SGX_ENABLED, on ? CM_PRESENT : CM_ABSENT,
                                  "MSR 0x0000003a IA32_FEATURE_CONTROL=0x%llx: lock is %d, SGX enable (bit 18) is %d",
                                  (unsigned long long)value, (int)(value & 1), (int)(value >> 18 & 1));
    if (!on) cm_reason(fact, "firmware left SGX off");
  } else if (cm_state_of(look, CM_MEM_SGX_SGX1) == CM_PRESENT && cm_state_of(look, CM_MEM_SGX_EPC) == CM_PRESENT) {
    /* Leaf 0x12 is all zero until firmware enables SGX (SDM 3D 36.7.2), so what it lists is enabled. */
    (void)cm_say(look->report, CM_MEM_SGX_ENABLED, CM_PRESENT, "CPUID 0x00000012 lists SGX1 and memory (MSR 0x0000003a: %s)", cm_errno_name(error));
  } else if (cm_state_of(look, CM_MEM_SGX_SGX1) == CM_ABSENT) {
    struct cm_fact *fact = cm_say_follows(look, CM_MEM_SGX_ENABLED, CM_ABSENT, CM_MEM_SGX_SGX1);
    cm_reason(fact, "leaf 0x12 is empty: firmware left SGX off");
  } else {
    (void)cm_say_no_msr(look, CM_MEM_SGX_ENABLED, 0x3a, "IA32_FEATURE_CONTROL", error);
  }

  static const char device[] = "/dev/sgx_enclave";
  int fd;
  bool recorded;
  error = cm_open_device(look->machine, device, O_RDWR, &fd, &recorded);
  if (fd >= 0) seam_close(fd);
  if (error == 0) {
    (void)cm_say(look->report, CM_MEM_SGX_USABLE, CM_PRESENT, "%s opened", device);
  } else if (error == ENOENT || error == ENODEV || error == ENXIO) {
    struct cm_fact *fact = cm_say(look->report, CM_MEM_SGX_USABLE, CM_ABSENT, "%s: %s", device, cm_errno_name(error));
    cm_reason(fact, "the kernel offers no enclaves (SGX off, no launch control, or no driver)");
  } else {
    struct cm_fact *fact = cm_say(look->report, CM_MEM_SGX_USABLE, CM_UNKNOWN, "%s: %s", device, cm_errno_name(error));
    cm_reason(fact, "%s: %s", device, error == ENODATA ? "the recording has no files" : cm_errno_name(error));
  }
}

void cm_facts_intel_memory(struct cm_look *look) {
  tme(look);
  tdx(look);
  sgx(look);
}
