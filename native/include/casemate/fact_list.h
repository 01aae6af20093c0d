/*
 * Every fact that the probe reports, in order: F(NAME, id, wanted, title, hint, source).
 *
 * `wanted` is the state that a careful operator would like to see (PRESENT, ABSENT) or ANY; the hint is
 * given when the fact is not in that state and the code has no more specific one. Ids are stable: policies
 * are written against them. `source` says where the meaning of the bits or files is laid down.
 */

#ifndef CASEMATE_FACT_LIST_H
#define CASEMATE_FACT_LIST_H

/* Sources, abbreviated:
 *   SDM     Intel 64 and IA-32 Architectures Software Developer's Manual
 *   APM     AMD64 Architecture Programmer's Manual (volume 3 appendix E: CPUID; volume 2: MSRs)
 *   MSRH    Linux arch/x86/include/asm/msr-index.h
 *   ABI     Linux Documentation/ABI
 *   GHCB    AMD SEV-ES Guest-Hypervisor Communication Block specification */

/* clang-format off */
#define CM_FACT_LIST(F) \
  F(CPU_VENDOR, "cpu.vendor", ANY, "Processor vendor", "", "SDM 2A CPUID leaf 0; APM 3 Fn0000_0000") \
  F(CPU_SIGNATURE, "cpu.signature", ANY, "Processor signature", "", "SDM 2A CPUID leaf 1 EAX; APM 3 Fn0000_0001_EAX") \
  F(CPU_FAMILY, "cpu.family", ANY, "Processor family", "", "SDM 2A figure 3-6; APM 3 Fn0000_0001_EAX") \
  F(CPU_MODEL, "cpu.model", ANY, "Processor model", "", "SDM 2A figure 3-6; APM 3 Fn0000_0001_EAX") \
  F(CPU_STEPPING, "cpu.stepping", ANY, "Processor stepping", "", "SDM 2A figure 3-6; APM 3 Fn0000_0001_EAX") \
  F(CPU_BRAND, "cpu.brand", ANY, "Processor brand string", "", "SDM 2A CPUID leaves 80000002H-80000004H") \
  F(CPU_MAX_LEAF, "cpu.max-leaf", ANY, "Highest basic CPUID leaf", "", "SDM 2A CPUID leaf 0 EAX") \
  F(CPU_MAX_EXTENDED_LEAF, "cpu.max-extended-leaf", ANY, "Highest extended CPUID leaf", "", "SDM 2A CPUID leaf 80000000H EAX") \
  F(CPU_PHYSICAL_ADDRESS_BITS, "cpu.physical-address-bits", ANY, "Physical address bits, before any reduction", "", "SDM 2A CPUID leaf 80000008H EAX[7:0]") \
  F(CPU_MICROCODE, "cpu.microcode", ANY, "Microcode revision the kernel shows", "", "Linux arch/x86/kernel/cpu/proc.c") \
  F(CPU_SMT, "cpu.smt", ANY, "Simultaneous multithreading active", "", "ABI testing/sysfs-devices-system-cpu: smt/active, smt/control") \
  \
  F(VIRT_HYPERVISOR, "virt.hypervisor", ANY, "Runs under a hypervisor", "", "SDM 2A CPUID.1:ECX[31]; Linux Documentation/virt/kvm/x86/cpuid.rst") \
  F(VIRT_HYPERVISOR_NESTED, "virt.hypervisor.nested", ANY, "Further hypervisor signatures behind the first", "", "Xen public/arch-x86/cpuid.h: leaves at 0x40000x00") \
  F(VIRT_HYPERV_ISOLATION, "virt.hyperv.isolation", ANY, "Hyper-V isolation type", "", "Linux arch/x86/include/asm/hyperv-tlfs.h: 0x40000003.EBX[22], 0x4000000C.EBX[3:0]") \
  F(VIRT_VMX_ADVERTISED, "virt.vmx.advertised", ANY, "VT-x advertised by the processor", "On EC2: an 8th-generation Intel type (c8i, m8i, r8i) with CpuOptions NestedVirtualization=enabled, or a .metal type.", "SDM 2A CPUID.1:ECX[5]") \
  F(VIRT_VMX_ENABLED, "virt.vmx.enabled", ANY, "VT-x enabled by firmware", "Enable \"Intel Virtualization Technology\" in firmware setup and power-cycle.", "SDM 4 IA32_FEATURE_CONTROL (3AH) bits 0, 2") \
  F(VIRT_SVM_ADVERTISED, "virt.svm.advertised", ANY, "AMD-V advertised by the processor", "On EC2: a .metal type.", "APM 3 Fn8000_0001_ECX[2]") \
  F(VIRT_SVM_ENABLED, "virt.svm.enabled", ANY, "AMD-V enabled by firmware", "Enable \"SVM Mode\" in firmware setup and power-cycle.", "APM 2 15.30.1 VM_CR (C001_0114h) bit 4 SVMDIS") \
  F(VIRT_SVM_REVISION, "virt.svm.revision", ANY, "SVM revision", "", "APM 3 Fn8000_000A_EAX[7:0]") \
  F(VIRT_SVM_ASIDS, "virt.svm.asids", ANY, "SVM address space identifiers", "", "APM 3 Fn8000_000A_EBX") \
  F(VIRT_SVM_LOCK, "virt.svm.lock", ANY, "SVM lock advertised", "", "APM 3 Fn8000_000A_EDX[2]") \
  F(VIRT_NESTED_PAGING, "virt.nested-paging", ANY, "Nested paging (NPT, EPT)", "", "APM 3 Fn8000_000A_EDX[0]; SDM 4 IA32_VMX_PROCBASED_CTLS2 (48BH) bit 33") \
  F(VIRT_NESTED, "virt.nested", ANY, "KVM lets its guests run guests", "Load the KVM module with nested=1.", "Linux arch/x86/kvm/{vmx/vmx.c,svm/svm.c} module parameter nested") \
  F(VIRT_KVM_USABLE, "virt.kvm.usable", ANY, "KVM usable by this process", "Load kvm_intel or kvm_amd; let this user open /dev/kvm (group kvm).", "Linux Documentation/virt/kvm/api.rst 4.1 KVM_GET_API_VERSION") \
  F(VIRT_IOMMU, "virt.iommu", ANY, "IOMMU active", "Enable VT-d or AMD-Vi in firmware setup; boot with intel_iommu=on where the kernel does not do so by itself.", "ABI testing/sysfs-class-iommu") \
  F(VIRT_IOMMU_GROUPS, "virt.iommu.groups", ANY, "IOMMU groups", "", "ABI testing/sysfs-kernel-iommu_groups") \
  \
  F(EC2_VM, "ec2.vm", ANY, "Says it is on Amazon EC2", "", "EC2 User Guide: identify EC2 instances; DMI is chosen by the host") \
  F(EC2_INSTANCE_ID, "ec2.instance-id", ANY, "EC2 instance id, as DMI claims", "", "DMI baseboard asset tag; chosen by the host") \
  F(EC2_INSTANCE_TYPE, "ec2.instance-type", ANY, "EC2 instance type, as DMI claims", "", "DMI product name; chosen by the host") \
  F(EC2_BARE_METAL, "ec2.bare-metal", ANY, "EC2 bare metal, as DMI claims", "", "DMI product name ends .metal or .metal-<size>, and no hypervisor bit") \
  \
  F(MEM_SME_ADVERTISED, "mem.sme.advertised", ANY, "SME advertised by the processor", "", "APM 3 Fn8000_001F_EAX[0]") \
  F(MEM_SME_ENABLED, "mem.sme.enabled", ANY, "AMD memory encryption enabled by firmware", "Enable SMEE (Secure Memory Encryption) in firmware setup.", "APM 2 SYSCFG (C001_0010h) bit 23 MemEncryptionModEn") \
  F(MEM_SEV_ADVERTISED, "mem.sev.advertised", ANY, "SEV advertised by the processor", "", "APM 3 Fn8000_001F_EAX[1]") \
  F(MEM_SEV_ENABLED, "mem.sev.enabled", ANY, "This host can run SEV guests", "On an EPYC host: enable SMEE in firmware setup and load kvm_amd with sev=1.", "Linux arch/x86/kvm/svm/sev.c module parameter sev") \
  F(MEM_SEV_GUEST, "mem.sev.guest", ANY, "This is an SEV guest", "", "APM 2 15.34.10 SEV_STATUS (C001_0131h) bit 0") \
  F(MEM_SEV_GUEST_FEATURES, "mem.sev.guest.features", ANY, "Features active in this SEV guest", "", "APM 2 15.34.10 SEV_STATUS; MSRH MSR_AMD64_SEV_*") \
  F(MEM_SEV_ES_ADVERTISED, "mem.sev-es.advertised", ANY, "SEV-ES advertised by the processor", "", "APM 3 Fn8000_001F_EAX[3]") \
  F(MEM_SEV_ES_ENABLED, "mem.sev-es.enabled", ANY, "This host can run SEV-ES guests", "Reserve ASIDs for SEV-ES in firmware setup (minimum SEV ASID) and load kvm_amd with sev_es=1.", "Linux arch/x86/kvm/svm/sev.c module parameter sev_es") \
  F(MEM_SEV_ES_GUEST, "mem.sev-es.guest", ANY, "This is an SEV-ES guest", "", "APM 2 SEV_STATUS bit 1") \
  F(MEM_SEV_SNP_ADVERTISED, "mem.sev-snp.advertised", ANY, "SEV-SNP advertised by the processor", "", "APM 3 Fn8000_001F_EAX[4]") \
  F(MEM_SEV_SNP_ENABLED, "mem.sev-snp.enabled", ANY, "This host can run SEV-SNP guests", "Enable SEV-SNP and RMP coverage in firmware setup; load kvm_amd with sev_snp=1 on a kernel from 6.11 on.", "Linux arch/x86/kvm/svm/sev.c module parameter sev_snp; SYSCFG bit 24") \
  F(MEM_SEV_SNP_GUEST, "mem.sev-snp.guest", PRESENT, "This is an SEV-SNP guest", "On EC2: launch an m6a, c6a or r6a type with CpuOptions AmdSevSnp=enabled.", "APM 2 SEV_STATUS bit 2") \
  F(MEM_SEV_C_BIT, "mem.sev.c-bit", ANY, "Position of the encryption bit in a page table entry", "", "APM 3 Fn8000_001F_EBX[5:0]") \
  F(MEM_SEV_ADDRESS_REDUCTION, "mem.sev.address-reduction", ANY, "Physical address bits lost to encryption", "", "APM 3 Fn8000_001F_EBX[11:6]") \
  F(MEM_SEV_ASIDS, "mem.sev.asids", ANY, "Encrypted guests at a time", "", "APM 3 Fn8000_001F_ECX") \
  F(MEM_SEV_MIN_ASID, "mem.sev.min-asid", ANY, "Lowest ASID for SEV without ES", "", "APM 3 Fn8000_001F_EDX") \
  F(MEM_SEV_CAPACITY, "mem.sev.capacity", ANY, "Encrypted guests the kernel has room for", "", "Linux Documentation/admin-guide/cgroup-v2.rst misc.capacity") \
  F(MEM_VMPL_ADVERTISED, "mem.vmpl.advertised", ANY, "VM privilege levels advertised", "", "APM 3 Fn8000_001F_EAX[5]; levels in EBX[15:12]") \
  F(MEM_SECURE_TSC_ADVERTISED, "mem.secure-tsc.advertised", ANY, "Secure TSC advertised", "", "APM 3 Fn8000_001F_EAX[8]") \
  F(MEM_SECURE_TSC_GUEST, "mem.secure-tsc.guest", ANY, "Secure TSC active in this guest", "", "APM 2 SEV_STATUS bit 11") \
  F(MEM_VTE_ADVERTISED, "mem.vte.advertised", ANY, "Virtual transparent encryption advertised", "", "APM 3 Fn8000_001F_EAX[16]") \
  F(MEM_HMK_ADVERTISED, "mem.hmk.advertised", ANY, "AMD host multi-key encryption advertised", "", "APM 3 Fn8000_0023_EAX[0], keys in EBX[15:0]") \
  F(MEM_TME_ADVERTISED, "mem.tme.advertised", ANY, "TME advertised by the processor", "", "SDM 2A CPUID.7.0:ECX[13]") \
  F(MEM_TME_ENABLED, "mem.tme.enabled", ANY, "TME encrypts memory", "Enable Total Memory Encryption in firmware setup; leave its bypass off.", "SDM 4 IA32_TME_ACTIVATE (982H) bits 0, 1, 31") \
  F(MEM_TME_BYPASS, "mem.tme.bypass", ABSENT, "TME is switched on but bypassed", "Switch the TME bypass off in firmware setup.", "SDM 4 IA32_TME_ACTIVATE (982H) bit 31") \
  F(MEM_MKTME_ENABLED, "mem.mktme.enabled", ANY, "Multi-key TME enabled", "Enable multi-key TME (TME-MT) in firmware setup.", "SDM 4 IA32_TME_ACTIVATE (982H) bits 35:32; IA32_MKTME_KEYID_PARTITIONING (87H)") \
  F(MEM_MKTME_KEYS, "mem.mktme.keys", ANY, "Multi-key TME keys", "", "SDM 4 IA32_TME_CAPABILITY (981H) bits 50:36") \
  F(MEM_PCONFIG_ADVERTISED, "mem.pconfig.advertised", ANY, "PCONFIG advertised (programs memory keys)", "", "SDM 2A CPUID.7.0:EDX[18]") \
  F(MEM_TDX_ENABLED, "mem.tdx.enabled", ANY, "Firmware enabled TDX on this host", "Enable TDX (and multi-key TME) in firmware setup.", "Linux Documentation/arch/x86/tdx.rst; IA32_MKTME_KEYID_PARTITIONING (87H) bits 63:32") \
  F(MEM_TDX_USABLE, "mem.tdx.usable", ANY, "KVM can run TDX guests here", "Load kvm_intel with tdx=1 on a kernel with TDX host support.", "Linux arch/x86/kvm/vmx/tdx.c module parameter tdx") \
  F(MEM_TDX_MODULE_VERSION, "mem.tdx.module-version", ANY, "Version of the TDX module", "", "ABI testing/sysfs-devices-faux-tdx-host") \
  F(MEM_TDX_GUEST, "mem.tdx.guest", ANY, "This is a TDX guest", "", "Intel TDX module base specification: CPUID leaf 21H \"IntelTDX    \"") \
  F(MEM_SGX_ADVERTISED, "mem.sgx.advertised", ANY, "SGX advertised by the processor", "", "SDM 2A CPUID.7.0:EBX[2]") \
  F(MEM_SGX_SGX1, "mem.sgx.sgx1", ANY, "SGX1 instructions available", "Enable SGX in firmware setup.", "SDM 2A CPUID.12.0:EAX[0]") \
  F(MEM_SGX_SGX2, "mem.sgx.sgx2", ANY, "SGX2 instructions available", "", "SDM 2A CPUID.12.0:EAX[1]") \
  F(MEM_SGX_LAUNCH_CONTROL, "mem.sgx.launch-control", ANY, "SGX launch control advertised", "", "SDM 2A CPUID.7.0:ECX[30]") \
  F(MEM_SGX_ENABLED, "mem.sgx.enabled", ANY, "SGX enabled by firmware", "Enable SGX in firmware setup.", "SDM 4 IA32_FEATURE_CONTROL (3AH) bits 0, 18") \
  F(MEM_SGX_EPC, "mem.sgx.epc", ANY, "SGX memory in bytes", "Give SGX some PRMRR memory in firmware setup.", "SDM 2A CPUID.12.2 and on") \
  F(MEM_SGX_USABLE, "mem.sgx.usable", ANY, "SGX enclaves usable by this process", "Enable SGX in firmware setup; let this user open /dev/sgx_enclave.", "Linux Documentation/arch/x86/sgx.rst") \
  F(MEM_SWAP, "mem.swap", ANY, "Memory may be written to swap", "", "proc_swaps: Linux mm/swapfile.c; sysfs dm/uuid: dm-crypt's CRYPT- prefix") \
  F(MEM_SWAP_PLAIN, "mem.swap.plain", ABSENT, "Memory may be written to swap in the clear", "swapoff, or put the swap on dm-crypt with a random key (crypttab: swap,cipher=aes-xts-plain64,size=512).", "as mem.swap") \
  F(MEM_HIBERNATION, "mem.hibernation", ABSENT, "Memory may be written out by hibernation", "Boot with nohibernate, or mask hibernate.target.", "ABI testing/sysfs-power: /sys/power/state, /sys/power/disk") \
  \
  F(ATTEST_SEV_GUEST_DEVICE, "attest.sev-guest", ANY, "/dev/sev-guest is there (SNP reports)", "modprobe sev-guest.", "Linux Documentation/virt/coco/sev-guest.rst") \
  F(ATTEST_TDX_GUEST_DEVICE, "attest.tdx-guest", ANY, "/dev/tdx_guest is there (TD reports)", "modprobe tdx_guest.", "Linux Documentation/virt/coco/tdx-guest.rst") \
  F(ATTEST_TSM, "attest.tsm", ANY, "Kernel gives attestation reports (configfs-tsm)", "Linux from 6.7 on with CONFIG_TSM_REPORTS; mount configfs; load sev-guest or tdx_guest.", "ABI testing/configfs-tsm-report") \
  F(ATTEST_SEV_HOST_DEVICE, "attest.sev-host", ANY, "/dev/sev is there (AMD secure processor)", "modprobe ccp.", "Linux Documentation/virt/kvm/x86/amd-memory-encryption.rst") \
  F(ATTEST_TDX_EVENT_LOG, "attest.tdx-event-log", ANY, "TDX event log (ACPI CCEL)", "", "ACPI 6.5: CCEL table") \
  \
  F(ARM_CCA_REALM, "arm.cca.realm", ANY, "This is an Arm CCA realm", "No Graviton type offers realms.", "Linux drivers/virt/coco/arm-cca-guest; systemd confidential-virt.c") \
  F(ARM_PKVM, "arm.pkvm", ANY, "Host runs protected KVM", "Boot the host with kvm-arm.mode=protected.", "Linux Documentation/admin-guide/kernel-parameters.txt: kvm-arm.mode") \
  F(ARM_EL2, "arm.el2", ANY, "Kernel has EL2 (can run guests)", "On EC2: a .metal type.", "Linux arch/arm64/kvm: /dev/kvm is there only with EL2") \
  F(ARM_MEMORY_ENCRYPTION, "arm.memory-encryption", ANY, "Memory encryption under an Arm guest", "", "AWS Graviton: always on from Graviton2 on, by AWS's word; nothing enumerable") \
  \
  F(TPM_PRESENT, "tpm.present", PRESENT, "TPM", "On EC2: register the AMI with --tpm-support v2.0 and --boot-mode uefi.", "ABI stable/sysfs-class-tpm") \
  F(TPM_VERSION, "tpm.version", ANY, "TPM major version", "", "ABI stable/sysfs-class-tpm: tpm_version_major") \
  F(TPM_MANUFACTURER, "tpm.manufacturer", ANY, "TPM manufacturer", "", "TCG TPM 2.0 part 2, TPM_PT_MANUFACTURER (0x105)") \
  \
  F(BOOT_UEFI, "boot.uefi", ANY, "Booted by UEFI", "On EC2: an AMI registered with --boot-mode uefi.", "Linux Documentation/filesystems/efivarfs.rst") \
  F(BOOT_SECURE_BOOT, "boot.secure-boot", PRESENT, "Secure Boot on", "Enrol keys and switch Secure Boot on; on EC2 register the AMI with --uefi-data.", "UEFI 2.10 3.3 SecureBoot") \
  F(BOOT_SETUP_MODE, "boot.setup-mode", ABSENT, "Firmware in setup mode (keys can be enrolled)", "Enrol a platform key.", "UEFI 2.10 3.3 SetupMode") \
  F(KERNEL_RELEASE, "kernel.release", ANY, "Kernel release", "", "proc_sys_kernel: osrelease") \
  F(KERNEL_LOCKDOWN, "kernel.lockdown", PRESENT, "Kernel lockdown", "Boot with lockdown=integrity, or with Secure Boot on a distribution that ties the two.", "kernel_lockdown(7)") \
  F(KERNEL_VULNERABILITIES, "kernel.vulnerabilities", ABSENT, "Processor vulnerabilities without mitigation", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/*") \
  CM_VULNERABILITY_LIST(F) \
  F(DUMP_CORE_PATTERN, "dump.core-pattern", ANY, "Where core dumps go", "", "core(5)") \
  F(DUMP_CORE_ENABLED, "dump.core-enabled", ABSENT, "This process can leave a core dump", "ulimit -c 0, or LimitCORE=0 in the unit.", "core(5), getrlimit(2)") \
  F(DUMP_SUID, "dump.suid", ABSENT, "Privileged processes can leave a core dump", "sysctl fs.suid_dumpable=0.", "proc_sys_fs(5): suid_dumpable") \
  F(DUMP_KDUMP, "dump.kdump", ABSENT, "A crash kernel is loaded (writes memory to disk)", "Encrypt the dump target, or kdump-config unload.", "ABI testing/sysfs-kernel-kexec-kdump: kexec_crash_loaded") \
  \
  F(CONTRADICTION_VENDOR, "contradiction.vendor", ABSENT, "CPUID and kernel name different vendors", "", "comparison") \
  F(CONTRADICTION_HYPERVISOR, "contradiction.hypervisor", ABSENT, "Sources differ about a hypervisor", "", "comparison") \
  F(CONTRADICTION_VIRTUALIZATION, "contradiction.virtualization", ABSENT, "Kernel shows a virtualization flag that CPUID does not have", "", "comparison") \
  F(CONTRADICTION_SEV_LEAF, "contradiction.sev-leaf", ABSENT, "The SEV leaf does not hold together", "Do not trust this processor's SEV claims: an emulator or a trimmed CPU model answers.", "APM 3 Fn8000_001F: SEV needs a C-bit position and ASIDs; EAX, EBX, ECX, EDX of another leaf") \
  F(CONTRADICTION_SEV_GUEST, "contradiction.sev-guest", ABSENT, "Sources differ about this being an SEV guest", "", "comparison of SEV_STATUS, /dev/sev-guest, kernel") \
  F(CONTRADICTION_TDX_GUEST, "contradiction.tdx-guest", ABSENT, "Sources differ about this being a TDX guest", "", "comparison of CPUID 0x21, /dev/tdx_guest, kernel") \
  F(CONTRADICTION_EC2, "contradiction.ec2", ABSENT, "DMI says EC2, the processor shows another hypervisor", "", "EC2 runs Nitro (KVM), Xen, or bare metal") \
  F(CONTRADICTION_KVM, "contradiction.kvm", ABSENT, "KVM and the processor differ about virtualization", "", "comparison of CPUID, module parameters and /dev/kvm") \
  F(CONTRADICTION_SWAP, "contradiction.encrypted-memory-plain-swap", ABSENT, "Memory is encrypted, and swapped out in the clear", "swapoff, or put the swap on dm-crypt with a random key.", "mem.swap.plain with a memory encryption that is in force")

/*
 * The files under /sys/devices/system/cpu/vulnerabilities that Linux has had so far; the file name is the
 * last part of the id with '_' for '-'. A file that is not in this list is counted in
 * kernel.vulnerabilities and named there. */
#define CM_VULNERABILITY_LIST(F) \
  F(VULNERABILITY_MELTDOWN, "kernel.vulnerability.meltdown", ABSENT, "Vulnerable: meltdown", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/meltdown") \
  F(VULNERABILITY_SPECTRE_V1, "kernel.vulnerability.spectre-v1", ABSENT, "Vulnerable: spectre-v1", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/spectre_v1") \
  F(VULNERABILITY_SPECTRE_V2, "kernel.vulnerability.spectre-v2", ABSENT, "Vulnerable: spectre-v2", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/spectre_v2") \
  F(VULNERABILITY_SPEC_STORE_BYPASS, "kernel.vulnerability.spec-store-bypass", ABSENT, "Vulnerable: spec-store-bypass", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/spec_store_bypass") \
  F(VULNERABILITY_L1TF, "kernel.vulnerability.l1tf", ABSENT, "Vulnerable: l1tf", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/l1tf") \
  F(VULNERABILITY_MDS, "kernel.vulnerability.mds", ABSENT, "Vulnerable: mds", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/mds") \
  F(VULNERABILITY_TSX_ASYNC_ABORT, "kernel.vulnerability.tsx-async-abort", ABSENT, "Vulnerable: tsx-async-abort", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/tsx_async_abort") \
  F(VULNERABILITY_ITLB_MULTIHIT, "kernel.vulnerability.itlb-multihit", ABSENT, "Vulnerable: itlb-multihit", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/itlb_multihit") \
  F(VULNERABILITY_SRBDS, "kernel.vulnerability.srbds", ABSENT, "Vulnerable: srbds", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/srbds") \
  F(VULNERABILITY_MMIO_STALE_DATA, "kernel.vulnerability.mmio-stale-data", ABSENT, "Vulnerable: mmio-stale-data", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/mmio_stale_data") \
  F(VULNERABILITY_RETBLEED, "kernel.vulnerability.retbleed", ABSENT, "Vulnerable: retbleed", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/retbleed") \
  F(VULNERABILITY_GATHER_DATA_SAMPLING, "kernel.vulnerability.gather-data-sampling", ABSENT, "Vulnerable: gather-data-sampling", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/gather_data_sampling") \
  F(VULNERABILITY_SPEC_RSTACK_OVERFLOW, "kernel.vulnerability.spec-rstack-overflow", ABSENT, "Vulnerable: spec-rstack-overflow", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/spec_rstack_overflow") \
  F(VULNERABILITY_REG_FILE_DATA_SAMPLING, "kernel.vulnerability.reg-file-data-sampling", ABSENT, "Vulnerable: reg-file-data-sampling", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/reg_file_data_sampling") \
  F(VULNERABILITY_GHOSTWRITE, "kernel.vulnerability.ghostwrite", ABSENT, "Vulnerable: ghostwrite", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/ghostwrite") \
  F(VULNERABILITY_INDIRECT_TARGET_SELECTION, "kernel.vulnerability.indirect-target-selection", ABSENT, "Vulnerable: indirect-target-selection", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/indirect_target_selection") \
  F(VULNERABILITY_OLD_MICROCODE, "kernel.vulnerability.old-microcode", ABSENT, "Vulnerable: old-microcode", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/old_microcode") \
  F(VULNERABILITY_TSA, "kernel.vulnerability.tsa", ABSENT, "Vulnerable: tsa", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/tsa") \
  F(VULNERABILITY_VMSCAPE, "kernel.vulnerability.vmscape", ABSENT, "Vulnerable: vmscape", "Update kernel and microcode; drop mitigations=off.", "ABI testing/sysfs-devices-system-cpu: vulnerabilities/vmscape")
/* clang-format on */

#endif
