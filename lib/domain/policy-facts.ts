/**
 * The facts that policies may read: policies/schema.cedarschema declares exactly these, and every one of
 * them is in every request, `unknown` when nobody said.
 */
export const POLICY_FACTS = [
  'attest.nitrotpm',
  'attest.tpm-quote',
  'cpu.smt',
  'ec2.amd-sev-snp',
  'ec2.memory-encryption',
  'ec2.nested-virtualization',
  'ec2.smt',
  'kernel.vulnerabilities',
  'mem.hibernation',
  'mem.sev-snp.guest',
  'mem.sev.guest',
  'mem.swap',
  'mem.swap.plain',
  'mem.tdx.guest',
  'tpm.version',
  'virt.hypervisor',
  'virt.iommu',
  'virt.kvm.usable',
  'virt.nested-paging',
  'virt.svm.advertised',
  'virt.svm.enabled',
  'virt.vmx.advertised',
  'virt.vmx.enabled',
] as const;
export type PolicyFactId = (typeof POLICY_FACTS)[number];
