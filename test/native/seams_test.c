/* What only a made-up machine shows: errors of hardware and kernel. One line a test, "ok" or "not ok". */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "casemate/probe.h"
#include "fake_seams.h"

static struct cm_machine machine;
static struct cm_report report;
static const char *failure;
static int failures;

static const struct cm_fact *fact(enum cm_fact_name name) { return &report.facts[name]; }

static void probe_it(void) {
  const struct cm_options options = {0};
  struct cm_error error;
  if (!cm_machine_open(&machine, &options, &error)) {
    failure = "machine did not open";
    return;
  }
  cm_probe(&machine, &report);
  cm_machine_close(&machine);
  if (fake_open_count != 0) failure = "a descriptor was left open";
}

static void expect(bool good, const char *what) {
  if (!good && failure == NULL) failure = what;
}
#define EXPECT(condition) expect(condition, #condition)

static void report_test(const char *name) {
  if (failure != NULL) {
    printf("not ok %s: %s\n", name, failure);
    failures++;
  } else {
    printf("ok %s\n", name);
  }
  failure = NULL;
}

/* Vendor strings as registers. */
#define INTEL(max) {0, 0, {max, 0x756e6547, 0x6c65746e, 0x49656e69}}
#define AMD(max) {0, 0, {max, 0x68747541, 0x444d4163, 0x69746e65}}
#define END {0, 0, {0, 0, 0, 0}}

static const struct fake_leaf intel_vmx[] = {INTEL(0x7), {1, 0, {0x806f8, 0, 0x20, 0}}, {7, 0, {0, 0x4, 0x2000, 0}}, {0x80000000u, 0, {0x80000008u, 0, 0, 0}}, END};
static const struct fake_leaf amd_host[] = {AMD(0xd), {1, 0, {0xa00f11, 0, 0, 0}}, {0x80000000u, 0, {0x8000001fu, 0, 0, 0}},
                                            {0x80000001u, 0, {0xa00f11, 0, 0x4, 0}}, {0x8000000au, 0, {1, 0x8000, 0, 0x5}},
                                            {0x8000001fu, 0, {0x1fc3f, 0x4173, 0x1fd, 1}}, END};
static const struct fake_leaf amd_guest[] = {AMD(0xd), {1, 0, {0xa00f11, 0, 0x80000000u, 0}}, {0x40000000u, 0, {0x40000001u, 0x4b4d564b, 0x564b4d56, 0x4d}},
                                             {0x80000000u, 0, {0x8000001fu, 0, 0, 0}}, {0x80000001u, 0, {0xa00f11, 0, 0, 0}},
                                             {0x8000001fu, 0, {0x1a, 0x173, 0, 0}}, END};

#define CHARACTER(path) {path, CM_KIND_CHARACTER, NULL, 0, 0}
#define TEXT(path, content) {path, CM_KIND_REGULAR, content, 0, 0}
#define REFUSED(path, error) {path, CM_KIND_REGULAR, NULL, error, 0}
#define NO_MORE {NULL, CM_KIND_OTHER, NULL, 0, 0}

static void msr_errors(void) {
  static const struct {
    int error;
    const char *reason;
    bool hint;
  } cases[] = {{EACCES, "EACCES", true}, {EPERM, "EPERM", true}, {EIO, "EIO", false}, {ENOENT, "ENOENT", true}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    fake_reset();
    const struct fake_file files[] = {{"/dev/cpu/0/msr", CM_KIND_CHARACTER, NULL, cases[i].error == EIO ? 0 : cases[i].error, 0}, NO_MORE};
    fake.leaves = intel_vmx;
    fake.files = files;
    probe_it();
    EXPECT(fact(CM_VIRT_VMX_ADVERTISED)->state == CM_PRESENT);
    EXPECT(fact(CM_VIRT_VMX_ENABLED)->state == CM_UNKNOWN);
    EXPECT(strncmp(fact(CM_VIRT_VMX_ENABLED)->reason, cases[i].reason, strlen(cases[i].reason)) == 0);
    EXPECT((fact(CM_VIRT_VMX_ENABLED)->hint != NULL) == cases[i].hint);
    EXPECT(fact(CM_MEM_TME_ENABLED)->state == CM_UNKNOWN);
    EXPECT(fact(CM_MEM_TDX_ENABLED)->state == CM_UNKNOWN);
  }
  report_test("an MSR that cannot be read is unknown with its errno, never absent");
}

static void sev_status_errors(void) {
  fake_reset();
  static const struct fake_file files[] = {{"/dev/cpu/0/msr", CM_KIND_CHARACTER, NULL, EPERM, 0}, NO_MORE};
  fake.leaves = amd_guest;
  fake.files = files;
  probe_it();
  EXPECT(fact(CM_MEM_SEV_GUEST)->state == CM_UNKNOWN);
  EXPECT(fact(CM_MEM_SEV_SNP_GUEST)->state == CM_UNKNOWN);
  EXPECT(strstr(fact(CM_MEM_SEV_SNP_GUEST)->evidence, "0xc0010131") != NULL);
  report_test("SEV_STATUS that cannot be read does not become \"not encrypted\"");

  fake_reset();
  static const struct fake_file with_device[] = {{"/dev/cpu/0/msr", CM_KIND_CHARACTER, NULL, EPERM, 0}, {"/dev/sev-guest", CM_KIND_CHARACTER, NULL, EACCES, 0}, NO_MORE};
  fake.leaves = amd_guest;
  fake.files = with_device;
  probe_it();
  EXPECT(fact(CM_ATTEST_SEV_GUEST_DEVICE)->state == CM_PRESENT);
  EXPECT(fact(CM_MEM_SEV_SNP_GUEST)->state == CM_PRESENT);
  EXPECT(strstr(fact(CM_MEM_SEV_SNP_GUEST)->reason, "/dev/sev-guest") != NULL);
  report_test("without SEV_STATUS, the kernel's own /dev/sev-guest shows an SNP guest");

  fake_reset();
  static const struct fake_file readable[] = {CHARACTER("/dev/cpu/0/msr"), CHARACTER("/dev/sev-guest"), NO_MORE};
  static const struct fake_msr zero[] = {{0xc0010131u, 0, 0}, {0, 0, 0}};
  fake.leaves = amd_guest;
  fake.files = readable;
  fake.msrs = zero;
  probe_it();
  EXPECT(fact(CM_MEM_SEV_SNP_GUEST)->state == CM_ABSENT);
  EXPECT(fact(CM_CONTRADICTION_SEV_GUEST)->state == CM_PRESENT);
  report_test("SEV_STATUS without SNP beside a /dev/sev-guest is a contradiction");

  fake_reset();
  static const struct fake_msr torn[] = {{0xc0010131u, 0, 4}, {0, 0, 0}};
  fake.leaves = amd_guest;
  fake.files = readable;
  fake.msrs = torn;
  probe_it();
  EXPECT(fact(CM_CONTRADICTION_SEV_GUEST)->state == CM_PRESENT);
  report_test("SEV_STATUS with SNP and without SEV does not hold together");
}

static void intel_msrs(void) {
  static const struct fake_file files[] = {CHARACTER("/dev/cpu/0/msr"), NO_MORE};
  fake_reset();
  static const struct fake_msr on[] = {{0x3a, 0, 0x5}, {0x87, 0, 0x0000002000000010}, {0x48b, 0, (uint64_t)2 << 32}, {0x981, 0, (uint64_t)63 << 36}, {0x982, 0, 0x3 | (uint64_t)6 << 32}, {0, 0, 0}};
  fake.leaves = intel_vmx;
  fake.files = files;
  fake.msrs = on;
  probe_it();
  EXPECT(fact(CM_VIRT_VMX_ENABLED)->state == CM_PRESENT);
  EXPECT(fact(CM_VIRT_NESTED_PAGING)->state == CM_PRESENT);
  EXPECT(fact(CM_MEM_TME_ENABLED)->state == CM_PRESENT);
  EXPECT(strcmp(fact(CM_MEM_TME_ENABLED)->text, "AES-XTS-128") == 0);
  EXPECT(fact(CM_MEM_TME_BYPASS)->state == CM_ABSENT);
  EXPECT(fact(CM_MEM_MKTME_ENABLED)->state == CM_PRESENT);
  EXPECT(fact(CM_MEM_MKTME_KEYS)->number == 63);
  EXPECT(fact(CM_MEM_TDX_ENABLED)->state == CM_PRESENT && fact(CM_MEM_TDX_ENABLED)->number == 32);
  report_test("VT-x, EPT, TME, multi-key TME and TDX are on when their MSRs say so");

  fake_reset();
  static const struct fake_msr off[] = {{0x3a, 0, 0x1}, {0x87, 0, 0x0000000100000010}, {0x982, 0, 0x80000003u}, {0, 0, 0}};
  fake.leaves = intel_vmx;
  fake.files = files;
  fake.msrs = off;
  probe_it();
  EXPECT(fact(CM_VIRT_VMX_ENABLED)->state == CM_ABSENT);
  EXPECT(fact(CM_VIRT_NESTED_PAGING)->state == CM_UNKNOWN);
  EXPECT(fact(CM_MEM_TME_ENABLED)->state == CM_ABSENT);
  EXPECT(fact(CM_MEM_TME_BYPASS)->state == CM_PRESENT);
  EXPECT(fact(CM_MEM_TDX_ENABLED)->state == CM_ABSENT);
  EXPECT(fact(CM_MEM_SGX_ENABLED)->state == CM_ABSENT);
  report_test("locked-off VT-x, bypassed TME, one private key and unlocked SGX are absent, each with its bits");

  fake_reset();
  static const struct fake_msr unlocked[] = {{0x3a, 0, 0x4}, {0x982, 0, 0x2}, {0, 0, 0}};
  fake.leaves = intel_vmx;
  fake.files = files;
  fake.msrs = unlocked;
  probe_it();
  EXPECT(fact(CM_VIRT_VMX_ENABLED)->state == CM_ABSENT);
  EXPECT(fact(CM_MEM_TME_ENABLED)->state == CM_ABSENT);
  report_test("what is not locked is not in force");
}

static void amd_msrs(void) {
  static const struct fake_file files[] = {CHARACTER("/dev/cpu/0/msr"), NO_MORE};
  fake_reset();
  static const struct fake_msr off[] = {{0xc0010010u, 0, 0}, {0xc0010114u, 0, 0x18}, {0, 0, 0}};
  fake.leaves = amd_host;
  fake.files = files;
  fake.msrs = off;
  probe_it();
  EXPECT(fact(CM_VIRT_SVM_ENABLED)->state == CM_ABSENT);
  EXPECT(fact(CM_MEM_SME_ENABLED)->state == CM_ABSENT);
  EXPECT(fact(CM_MEM_SEV_ENABLED)->state == CM_ABSENT);
  EXPECT(fact(CM_MEM_SEV_SNP_ENABLED)->state == CM_ABSENT);
  EXPECT(fact(CM_MEM_SEV_SNP_GUEST)->state == CM_ABSENT);
  report_test("SYSCFG and VM_CR decide what an EPYC host can do, whatever CPUID advertises");

  fake_reset();
  static const struct fake_msr on[] = {{0xc0010010u, 0, (uint64_t)3 << 23}, {0xc0010114u, 0, 0x8}, {0, 0, 0}};
  static const struct fake_file params[] = {CHARACTER("/dev/cpu/0/msr"), TEXT("/sys/module/kvm_amd/parameters/sev", "Y\n"),
                                            TEXT("/sys/module/kvm_amd/parameters/sev_es", "0\n"), TEXT("/sys/module/kvm_amd/parameters/sev_snp", "Yes\n"), NO_MORE};
  fake.leaves = amd_host;
  fake.files = params;
  fake.msrs = on;
  probe_it();
  EXPECT(fact(CM_VIRT_SVM_ENABLED)->state == CM_PRESENT);
  EXPECT(fact(CM_MEM_SME_ENABLED)->state == CM_PRESENT);
  EXPECT(fact(CM_MEM_SEV_ENABLED)->state == CM_PRESENT);
  EXPECT(fact(CM_MEM_SEV_ES_ENABLED)->state == CM_ABSENT);
  EXPECT(fact(CM_MEM_SEV_SNP_ENABLED)->state == CM_UNKNOWN);
  report_test("kvm_amd's parameters are Y, N, 1 or 0, and anything else is unknown");
}

static void kvm(void) {
  static const struct fake_file usable[] = {CHARACTER("/dev/kvm"), {"/sys/module/kvm_amd/parameters", CM_KIND_DIRECTORY, "nested", 0, 0}, NO_MORE};
  fake_reset();
  fake.leaves = amd_host;
  fake.files = usable;
  fake.kvm_api_version = 12;
  probe_it();
  EXPECT(fact(CM_VIRT_KVM_USABLE)->state == CM_PRESENT && fact(CM_VIRT_KVM_USABLE)->number == 12);
  EXPECT(fact(CM_VIRT_SVM_ENABLED)->state == CM_PRESENT);
  EXPECT(fact(CM_CONTRADICTION_KVM)->state == CM_ABSENT);
  report_test("a /dev/kvm that answers 12 is usable, and shows AMD-V enabled where VM_CR cannot be read");

  static const struct {
    int open_error, version;
    enum cm_state state;
  } cases[] = {{EACCES, 0, CM_UNKNOWN}, {ENOENT, 0, CM_ABSENT}, {ENODEV, 0, CM_ABSENT}, {0, -ENOTTY, CM_UNKNOWN}, {0, 11, CM_ABSENT}, {EMFILE, 0, CM_UNKNOWN}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    fake_reset();
    const struct fake_file files[] = {{"/dev/kvm", CM_KIND_CHARACTER, NULL, cases[i].open_error, 0}, NO_MORE};
    fake.leaves = amd_host;
    fake.files = files;
    fake.kvm_api_version = cases[i].version;
    probe_it();
    EXPECT(fact(CM_VIRT_KVM_USABLE)->state == cases[i].state);
  }
  report_test("a /dev/kvm that cannot be opened or asked is unknown, one that is not there absent");

  fake_reset();
  static const struct fake_file regular[] = {TEXT("/dev/kvm", "KVM_GET_API_VERSION 12\n"), NO_MORE};
  fake.leaves = amd_host;
  fake.files = regular;
  probe_it();
  EXPECT(fact(CM_VIRT_KVM_USABLE)->state != CM_PRESENT);
  report_test("on the real root a plain file named /dev/kvm is no device");
}

static void files_that_break(void) {
  fake_reset();
  static const struct fake_file files[] = {{"/proc/swaps", CM_KIND_REGULAR, "Filename\n", 0, EIO}, {"/proc/cpuinfo", CM_KIND_REGULAR, NULL, EACCES, 0},
                                           {"/sys/kernel/security/lockdown", CM_KIND_REGULAR, NULL, EPERM, 0}, {"/sys/class/iommu", CM_KIND_DIRECTORY, NULL, 0, EIO},
                                           {"/sys/class/tpm", CM_KIND_DIRECTORY, NULL, EACCES, 0}, NO_MORE};
  fake.leaves = amd_host;
  fake.files = files;
  probe_it();
  static const enum cm_fact_name unknown[] = {CM_MEM_SWAP, CM_MEM_SWAP_PLAIN, CM_CPU_MICROCODE, CM_KERNEL_LOCKDOWN, CM_VIRT_IOMMU, CM_TPM_PRESENT};
  for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
    EXPECT(fact(unknown[i])->state == CM_UNKNOWN);
    EXPECT(fact(unknown[i])->reason[0] != '\0');
  }
  EXPECT(strstr(fact(CM_MEM_SWAP)->reason, "EIO") != NULL);
  report_test("a file or directory that breaks off or is refused is unknown with its errno");
}

static void tsm(void) {
  static const struct fake_file files[] = {{"/sys/kernel/config/tsm/report", CM_KIND_DIRECTORY, "", 0, 0}, TEXT("/sys/kernel/config/tsm/report/casemate-probe/provider", "sev_guest\n"), NO_MORE};
  fake_reset();
  fake.leaves = amd_guest;
  fake.files = files;
  probe_it();
  EXPECT(fact(CM_ATTEST_TSM)->state == CM_PRESENT && strcmp(fact(CM_ATTEST_TSM)->text, "sev_guest") == 0);
  EXPECT(fake_directories == 0);
  report_test("the TSM provider is read from an entry that is made and removed again");
  static const struct {
    int error;
    enum cm_state state;
  } cases[] = {{EACCES, CM_UNKNOWN}, {ENXIO, CM_ABSENT}};
  for (size_t i = 0; i < 2; i++) {
    fake_reset();
    fake.leaves = amd_guest;
    fake.files = files;
    fake.mkdir_error = cases[i].error;
    probe_it();
    EXPECT(fact(CM_ATTEST_TSM)->state == cases[i].state);
  }
  report_test("a TSM entry that root alone may make is unknown, one without a provider absent");
}

static void tpm(void) {
  static const struct fake_file files[] = {{"/sys/class/tpm", CM_KIND_DIRECTORY, "tpm0 tpmrm0", 0, 0}, TEXT("/sys/class/tpm/tpm0/tpm_version_major", "2\n"), CHARACTER("/dev/tpmrm0"), NO_MORE};
  static const unsigned char answer[] = {0x80, 1, 0, 0, 0, 27, 0, 0, 0, 0, 1, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 1, 5, 'A', 'M', 'Z', 'N'};
  fake_reset();
  fake.leaves = amd_guest;
  fake.files = files;
  fake.tpm_answer = answer;
  fake.tpm_answer_size = sizeof answer;
  probe_it();
  EXPECT(fact(CM_TPM_VERSION)->number == 2);
  EXPECT(strcmp(fact(CM_TPM_MANUFACTURER)->text, "AMZN") == 0);
  report_test("a TPM 2.0 names its manufacturer");
  for (size_t size = 0; size < sizeof answer; size++) {
    fake_reset();
    fake.leaves = amd_guest;
    fake.files = files;
    fake.tpm_answer = answer;
    fake.tpm_answer_size = size;
    probe_it();
    EXPECT(fact(CM_TPM_MANUFACTURER)->state == CM_UNKNOWN);
  }
  report_test("a TPM answer that is cut off anywhere is unknown");
  fake_reset();
  fake.leaves = amd_guest;
  fake.files = files;
  fake.tpm_silent = true;
  probe_it();
  EXPECT(fact(CM_TPM_MANUFACTURER)->state == CM_UNKNOWN);
  EXPECT(strstr(fact(CM_TPM_MANUFACTURER)->reason, "ETIMEDOUT") != NULL);
  report_test("a TPM that does not answer is unknown after the timeout");
}

static void beyond_the_maximum(void) {
  fake_reset();
  /* As Intel does: leaf 0x21 beyond the maximum answers with the highest leaf, here made to look like a TD. */
  static const struct fake_leaf leaves[] = {INTEL(0x16), {1, 0, {0x806f8, 0, 0, 0}}, {0x16, 0, {0x1f, 0x65746e49, 0x20202020, 0x5844546c}}, {0x80000000u, 0, {0x80000008u, 0, 0, 0}}, END};
  fake.leaves = leaves;
  probe_it();
  EXPECT(fact(CM_MEM_TDX_GUEST)->state == CM_ABSENT);
  EXPECT(fact(CM_MEM_SEV_ADVERTISED)->state == CM_ABSENT);
  EXPECT(strstr(fact(CM_MEM_TDX_GUEST)->evidence, "no leaf 0x00000021") != NULL);
  report_test("a leaf beyond the maximum is not believed, whatever it answers");

  fake_reset();
  static const struct fake_leaf old[] = {INTEL(0x2), {1, 0, {0x513, 0, 0, 0}}, {2, 0, {0x1, 0, 0, 0}}, END};
  fake.leaves = old;
  probe_it();
  EXPECT(fact(CM_CPU_MAX_EXTENDED_LEAF)->state == CM_ABSENT);
  EXPECT(fact(CM_VIRT_SVM_ADVERTISED)->state == CM_ABSENT);
  report_test("a processor without extended leaves has no AMD-V");

  fake_reset();
  fake.architecture = "aarch64";
  static const struct fake_file files[] = {TEXT("/proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n\n"),
                                           TEXT("/sys/class/dmi/id/sys_vendor", "Amazon EC2\n"), TEXT("/sys/class/dmi/id/product_name", "c7g.large\n"), NO_MORE};
  fake.files = files;
  probe_it();
  EXPECT(fake_cpuid_count == 0);
  EXPECT(fact(CM_VIRT_VMX_ADVERTISED)->state == CM_ABSENT);
  EXPECT(strcmp(fact(CM_CPU_VENDOR)->text, "Arm") == 0);
  EXPECT(fact(CM_ARM_CCA_REALM)->state == CM_ABSENT);
  EXPECT(fact(CM_ARM_EL2)->state == CM_UNKNOWN);
  EXPECT(strstr(fact(CM_ARM_MEMORY_ENCRYPTION)->reason, "cannot be seen from here") != NULL);
  report_test("on a Graviton no CPUID is executed and what cannot be seen from there is said so");
}

static void look_again(const struct fake_file *files) {
  const struct cm_options options = {.keep = true};
  struct cm_error error;
  fake.files = files;
  if (!cm_machine_open(&machine, &options, &error)) failure = "machine did not open";
  cm_probe(&machine, &report);
  cm_machine_close(&machine);
}

static void looking_again(void) {
  static struct fake_file files[] = {TEXT("/proc/sys/fs/suid_dumpable", "0\n"), TEXT("/sys/module/kvm_amd/parameters/sev", "Y\n"), NO_MORE};
  fake_reset();
  fake.leaves = amd_host;
  look_again(files);
  EXPECT(fact(CM_DUMP_SUID)->state == CM_ABSENT);
  EXPECT(fact(CM_MEM_SEV_ENABLED)->state == CM_PRESENT);
  int kept = fake_open_count;
  int asked = fake_cpuid_count;
  EXPECT(kept == 2 && asked > 5);
  files[0].content = "2\n";
  look_again(files);
  EXPECT(fact(CM_DUMP_SUID)->state == CM_PRESENT && fact(CM_DUMP_SUID)->number == 2);
  EXPECT(fake_open_count == kept);
  EXPECT(fake_cpuid_count == asked);
  report_test("looking again reads files anew without opening them, and asks the processor nothing");
  files[1].content = "";
  files[1].read_error = ENODEV;
  files[1].open_error = ENOENT;
  look_again(files);
  EXPECT(fact(CM_MEM_SEV_ENABLED)->state == CM_UNKNOWN);
  EXPECT(strstr(fact(CM_MEM_SEV_ENABLED)->evidence, "ENOENT") != NULL);
  EXPECT(fake_open_count == kept - 1);
  report_test("a kept file that goes away is looked up again, and its descriptor closed");
  files[1].content = "N\n";
  files[1].read_error = files[1].open_error = 0;
  look_again(files);
  EXPECT(fact(CM_MEM_SEV_ENABLED)->state == CM_ABSENT);
  report_test("a file that comes back is found");
}

int main(void) {
  looking_again();
  msr_errors();
  sev_status_errors();
  intel_msrs();
  amd_msrs();
  kvm();
  files_that_break();
  tsm();
  tpm();
  beyond_the_maximum();
  return failures == 0 ? 0 : 1;
}
