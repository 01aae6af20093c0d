/* The MSRs that facts are made of: M(index, name, source). A recording keeps these and reads over others. */
#ifndef CASEMATE_MSR_LIST_H
#define CASEMATE_MSR_LIST_H

#define CM_MSR_LIST(M) \
  M(0x0000003au, "IA32_FEATURE_CONTROL", "SDM 4 table 2-2") \
  M(0x00000087u, "IA32_MKTME_KEYID_PARTITIONING", "Linux arch/x86/include/asm/msr-index.h") \
  M(0x0000048bu, "IA32_VMX_PROCBASED_CTLS2", "SDM 3D appendix A.3.3") \
  M(0x00000981u, "IA32_TME_CAPABILITY", "SDM 4 table 2-2") \
  M(0x00000982u, "IA32_TME_ACTIVATE", "SDM 4 table 2-2") \
  M(0xc0010010u, "SYSCFG", "APM 2 7.9.4; Linux msr-index.h MSR_AMD64_SYSCFG") \
  M(0xc0010114u, "VM_CR", "APM 2 15.30.1") \
  M(0xc0010131u, "SEV_STATUS", "APM 2 15.34.10")

#endif
