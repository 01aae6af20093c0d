#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "look.h"

enum { SEV_LEAF = (int)0x8000001fu };
#define SEV_STATUS 0xc0010131u
#define SYSCFG 0xc0010010u

/* SEV_STATUS bits (APM 2 15.34.10; MSRH MSR_AMD64_SEV_*_BIT), by the names that Linux prints. */
static const struct {
  unsigned bit;
  const char *name;
} sev_features[] = {
    {0, "SEV"},          {1, "SEV-ES"},       {2, "SEV-SNP"},       {3, "vTOM"},          {4, "ReflectVC"},
    {5, "RI"},           {6, "AI"},           {7, "DebugSwap"},     {8, "NoHostIBS"},     {9, "BTBIsol"},
    {10, "VmplSSS"},     {11, "SecureTSC"},   {12, "VMGExitParam"}, {14, "IBSVirt"},      {16, "VMSARegProt"},
    {17, "SMTProt"},     {18, "SecureAVIC"},  {23, "IBPBOnEntry"},
};

bool cm_sev_leaf_is_a_copy(struct cm_look *look, uint32_t *other) {
  static const uint32_t others[] = {0x0, 0x1, 0x7, 0xd, 0x80000001u, 0x80000008u};
  struct cm_regs sev;
  if (cm_cpuid(look->machine, (uint32_t)SEV_LEAF, 0, &sev) != CM_LEAF_OK || (sev.eax | sev.ebx) == 0) return false;
  for (size_t i = 0; i <= sizeof others / sizeof others[0]; i++) {
    struct cm_regs regs;
    *other = i < sizeof others / sizeof others[0] ? others[i] : cm_highest_leaf(look->machine, 0);
    if (cm_cpuid(look->machine, *other, 0, &regs) == CM_LEAF_OK && memcmp(&regs, &sev, sizeof sev) == 0) return true;
  }
  return false;
}

static void advertised(struct cm_look *look) {
  /* APM 3 Fn8000_001F. */
  static const struct {
    enum cm_fact_name name;
    unsigned bit;
  } bits[] = {
      {CM_MEM_SME_ADVERTISED, 0},     {CM_MEM_SEV_ADVERTISED, 1},  {CM_MEM_SEV_ES_ADVERTISED, 3},
      {CM_MEM_SEV_SNP_ADVERTISED, 4}, {CM_MEM_VMPL_ADVERTISED, 5}, {CM_MEM_SECURE_TSC_ADVERTISED, 8},
      {CM_MEM_VTE_ADVERTISED, 16},
  };
  for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
    (void)cm_say_bit(look, bits[i].name, (uint32_t)SEV_LEAF, 0, CM_EAX, bits[i].bit);
  }
  (void)cm_say_field(look, CM_MEM_SEV_C_BIT, (uint32_t)SEV_LEAF, 0, CM_EBX, 0, 6);
  (void)cm_say_field(look, CM_MEM_SEV_ADDRESS_REDUCTION, (uint32_t)SEV_LEAF, 0, CM_EBX, 6, 6);
  (void)cm_say_field(look, CM_MEM_SEV_ASIDS, (uint32_t)SEV_LEAF, 0, CM_ECX, 0, 32);
  (void)cm_say_field(look, CM_MEM_SEV_MIN_ASID, (uint32_t)SEV_LEAF, 0, CM_EDX, 0, 32);
  struct cm_regs regs;
  if (cm_cpuid(look->machine, (uint32_t)SEV_LEAF, 0, &regs) == CM_LEAF_OK) {
    cm_number(&look->report->facts[CM_MEM_VMPL_ADVERTISED], regs.ebx >> 12 & 0xf);
  }
  uint32_t other;
  if (cm_sev_leaf_is_a_copy(look, &other)) {
    static const enum cm_fact_name rest[] = {CM_MEM_SEV_C_BIT, CM_MEM_SEV_ADDRESS_REDUCTION, CM_MEM_SEV_ASIDS, CM_MEM_SEV_MIN_ASID};
    enum { BITS = sizeof bits / sizeof bits[0], REST = sizeof rest / sizeof rest[0] };
    for (size_t i = 0; i < BITS + REST; i++) {
      struct cm_fact *fact = &look->report->facts[i < BITS ? bits[i].name : rest[i - BITS]];
      fact->state = CM_UNKNOWN;
      fact->value_kind = CM_VALUE_NONE;
      cm_reason(fact, "leaf 0x8000001f has the data of leaf 0x%x: not believed", other);
    }
  }
  struct cm_fact *fact = cm_say_bit(look, CM_MEM_HMK_ADVERTISED, 0x80000023u, 0, CM_EAX, 0);
  if (fact->state == CM_PRESENT && cm_cpuid(look->machine, 0x80000023u, 0, &regs) == CM_LEAF_OK) {
    cm_number(fact, regs.ebx & 0xffff);
  }
}

/* What one module parameter says about running such guests, when nothing above it has decided. */
static void host_parameter(struct cm_look *look, enum cm_fact_name name, enum cm_fact_name claim, const char *path,
                           unsigned syscfg_bit, const char *syscfg_name) {
  enum cm_state claimed = cm_state_of(look, claim);
  if (claimed != CM_PRESENT) {
    (void)cm_say_follows(look, name, claimed, claim);
    return;
  }
  struct cm_content content;
  enum cm_state state = cm_module_flag(look, path, &content);
  if (state != CM_UNKNOWN) {
    (void)cm_say(look->report, name, state, "%s: %s", path, content.text);
    return;
  }
  if (look->hypervisor == CM_ABSENT) {
    uint64_t value;
    int error = cm_msr(look->machine, SYSCFG, &value);
    if (error == 0 && (value >> syscfg_bit & 1) == 0) {
      struct cm_fact *fact = cm_say(look->report, name, CM_ABSENT, "MSR 0xc0010010 SYSCFG=0x%llx: %s (bit %u) is 0",
                                    (unsigned long long)value, syscfg_name, syscfg_bit);
      cm_reason(fact, "firmware left %s off", syscfg_name);
      return;
    }
  }
  struct cm_fact *fact = cm_say_no_file(look, name, path, &content);
  if (content.status == CM_TEXT_OK) cm_reason(fact, "%s says neither Y nor N", path);
  if (cm_is_missing(&content)) {
    cm_reason(fact, "kvm_amd is not loaded or too old; CPUID alone proves nothing (consumer Ryzens show these bits, too)");
  }
}

static void host(struct cm_look *look) {
  enum cm_state sme = cm_state_of(look, CM_MEM_SME_ADVERTISED);
  if (look->hypervisor == CM_PRESENT) {
    struct cm_fact *fact = cm_say(look->report, CM_MEM_SME_ENABLED, look->amd || look->vendor[0] == '\0' ? CM_UNKNOWN : CM_ABSENT,
                                  "%s", cm_evidence_of(look, CM_VIRT_HYPERVISOR));
    cm_reason(fact, "a guest cannot see whether its host encrypts memory");
    if (fact->state == CM_ABSENT) cm_reason(fact, "not an AMD processor");
    fact->hint = NULL;
  } else if (sme != CM_PRESENT) {
    (void)cm_say_follows(look, CM_MEM_SME_ENABLED, sme, CM_MEM_SME_ADVERTISED);
  } else {
    uint64_t value;
    int error = cm_msr(look->machine, SYSCFG, &value);
    if (error == 0) {
      bool on = (value >> 23 & 1) != 0;
      struct cm_fact *fact = cm_say(look->report, CM_MEM_SME_ENABLED, on ? CM_PRESENT : CM_ABSENT,
                                    "MSR 0xc0010010 SYSCFG=0x%llx: MemEncryptionModEn (bit 23) is %d", (unsigned long long)value, on);
      if (!on) cm_reason(fact, "firmware left memory encryption off");
    } else {
      (void)cm_say_no_msr(look, CM_MEM_SME_ENABLED, SYSCFG, "SYSCFG", error);
    }
  }
  host_parameter(look, CM_MEM_SEV_ENABLED, CM_MEM_SEV_ADVERTISED, "/sys/module/kvm_amd/parameters/sev", 23, "MemEncryptionModEn");
  host_parameter(look, CM_MEM_SEV_ES_ENABLED, CM_MEM_SEV_ES_ADVERTISED, "/sys/module/kvm_amd/parameters/sev_es", 23, "MemEncryptionModEn");
  host_parameter(look, CM_MEM_SEV_SNP_ENABLED, CM_MEM_SEV_SNP_ADVERTISED, "/sys/module/kvm_amd/parameters/sev_snp", 24, "SecureNestedPagingEn");

  static const char capacity[] = "/sys/fs/cgroup/misc.capacity";
  struct cm_content content = cm_read_text(look->machine, capacity);
  if (content.status != CM_TEXT_OK) {
    (void)cm_say_no_file(look, CM_MEM_SEV_CAPACITY, capacity, &content);
    return;
  }
  char listed[128] = "";
  size_t used = 0;
  struct cm_span rest = {content.text, content.size};
  struct cm_span line;
  while (cm_next_line(&rest, &line)) {
    struct cm_span name;
    struct cm_span number;
    uint64_t value;
    if (!cm_next_word(&line, &name) || !cm_next_word(&line, &number)) continue;
    bool known = cm_span_is(name, "sev") || cm_span_is(name, "sev_es") || cm_span_is(name, "tdx");
    if (!known || !cm_decimal(number, UINT32_MAX, &value)) continue;
    int count = snprintf(listed + used, sizeof listed - used, "%s%.*s %llu", used > 0 ? ", " : "", (int)name.size, name.at,
                         (unsigned long long)value);
    if (count < 0 || (size_t)count >= sizeof listed - used) break;
    used += (size_t)count;
  }
  struct cm_fact *fact = cm_say(look->report, CM_MEM_SEV_CAPACITY, used > 0 ? CM_PRESENT : CM_ABSENT, "%s: %s", capacity,
                                used > 0 ? listed : "no line for sev, sev_es or tdx");
  if (used > 0) cm_text(fact, "%s", listed);
}

struct guest_fact {
  enum cm_fact_name name;
  unsigned bit;
};
static const struct guest_fact guest_facts[] = {
    {CM_MEM_SEV_GUEST, 0}, {CM_MEM_SEV_ES_GUEST, 1}, {CM_MEM_SEV_SNP_GUEST, 2}, {CM_MEM_SECURE_TSC_GUEST, 11}};
enum { GUEST_FACTS = sizeof guest_facts / sizeof guest_facts[0] };

static void guest_from_status(struct cm_look *look, uint64_t status) {
  for (size_t i = 0; i < GUEST_FACTS; i++) {
    bool on = (status >> guest_facts[i].bit & 1) != 0;
    (void)cm_say(look->report, guest_facts[i].name, on ? CM_PRESENT : CM_ABSENT, "MSR 0xc0010131 SEV_STATUS=0x%llx bit %u is %d",
                 (unsigned long long)status, guest_facts[i].bit, on);
  }
  char listed[160] = "";
  size_t used = 0;
  for (size_t i = 0; i < sizeof sev_features / sizeof sev_features[0]; i++) {
    if ((status >> sev_features[i].bit & 1) == 0) continue;
    int count = snprintf(listed + used, sizeof listed - used, "%s%s", used > 0 ? " " : "", sev_features[i].name);
    used += count > 0 ? (size_t)count : 0;
  }
  struct cm_fact *fact = cm_say(look->report, CM_MEM_SEV_GUEST_FEATURES, status != 0 ? CM_PRESENT : CM_ABSENT,
                                "MSR 0xc0010131 SEV_STATUS=0x%llx", (unsigned long long)status);
  if (used > 0) cm_text(fact, "%s", listed);
}

/* All guest facts alike, for one reason. */
static void guest_all(struct cm_look *look, enum cm_state state, enum cm_fact_name from, const char *reason) {
  for (size_t i = 0; i < GUEST_FACTS; i++) {
    struct cm_fact *fact = cm_say_follows(look, guest_facts[i].name, state, from);
    if (reason != NULL) cm_reason(fact, "%s", reason);
  }
  struct cm_fact *fact = cm_say_follows(look, CM_MEM_SEV_GUEST_FEATURES, state, from);
  if (reason != NULL) cm_reason(fact, "%s", reason);
}

/* The order is systemd's (confidential-virt.c): hypervisor bit, SEV bit, SEV_STATUS; else what Hyper-V says.
 * The difference: SEV_STATUS that cannot be read is unknown, not zero. */
static void guest(struct cm_look *look) {
  look->sev_status = 0;
  look->sev_status_error = ENODATA;
  if (!cm_is_x86(look->machine) || (look->vendor[0] != '\0' && !look->amd)) {
    guest_all(look, CM_ABSENT, CM_CPU_VENDOR, "not an AMD processor");
    return;
  }
  if (look->hypervisor != CM_PRESENT) {
    guest_all(look, look->hypervisor, CM_VIRT_HYPERVISOR, look->hypervisor == CM_ABSENT ? "not a guest: no hypervisor bit" : NULL);
    return;
  }
  const struct cm_fact *isolation = &look->report->facts[CM_VIRT_HYPERV_ISOLATION];
  bool hyperv_snp = isolation->state == CM_PRESENT && isolation->value_kind == CM_VALUE_TEXT && strcmp(isolation->text, "snp") == 0;
  enum cm_state claimed = cm_state_of(look, CM_MEM_SEV_ADVERTISED);
  if (claimed != CM_PRESENT && hyperv_snp) {
    guest_all(look, CM_PRESENT, CM_VIRT_HYPERV_ISOLATION, "Hyper-V says SNP isolation and hides the SEV leaf (Azure does)");
    struct cm_fact *fact = cm_say_follows(look, CM_MEM_SECURE_TSC_GUEST, CM_UNKNOWN, CM_VIRT_HYPERV_ISOLATION);
    cm_reason(fact, "behind Hyper-V's isolation, SEV_STATUS is not shown");
    cm_text(&look->report->facts[CM_MEM_SEV_GUEST_FEATURES], "SEV SEV-ES SEV-SNP");
    return;
  }
  if (claimed != CM_PRESENT) {
    guest_all(look, claimed, CM_MEM_SEV_ADVERTISED, NULL);
    return;
  }
  look->sev_status_error = cm_msr(look->machine, SEV_STATUS, &look->sev_status);
  if (look->sev_status_error == 0) {
    guest_from_status(look, look->sev_status);
    return;
  }
  /* Linux makes /dev/sev-guest only when it itself found SEV_STATUS[2] set (arch/x86/coco/sev, snp_init_platform_device). */
  if (cm_state_of(look, CM_ATTEST_SEV_GUEST_DEVICE) == CM_PRESENT) {
    guest_all(look, CM_PRESENT, CM_ATTEST_SEV_GUEST_DEVICE, "the kernel made /dev/sev-guest, which it does in an SNP guest alone");
    cm_text(&look->report->facts[CM_MEM_SEV_GUEST_FEATURES], "SEV SEV-ES SEV-SNP");
    (void)cm_say_no_msr(look, CM_MEM_SECURE_TSC_GUEST, SEV_STATUS, "SEV_STATUS", look->sev_status_error);
    return;
  }
  for (size_t i = 0; i < GUEST_FACTS; i++) {
    (void)cm_say_no_msr(look, guest_facts[i].name, SEV_STATUS, "SEV_STATUS", look->sev_status_error);
  }
  (void)cm_say_no_msr(look, CM_MEM_SEV_GUEST_FEATURES, SEV_STATUS, "SEV_STATUS", look->sev_status_error);
}

void cm_facts_amd_memory(struct cm_look *look) {
  advertised(look);
  host(look);
  guest(look);
}
