/**
 * The facts that policies may read: policies/schema.cedarschema declares exactly these, and every one of
 * them is in every request, `unknown` when nobody said.
 */
export const POLICY_FACTS = [
  'attest.nitrotpm',
  'attest.tpm-quote',
  'ec2.amd-sev-snp',
  'ec2.nested-virtualization',
  'mem.sev-snp.guest',
  'mem.sev.guest',
  'mem.swap',
  'mem.tdx.guest',
  'tpm.version',
  'virt.hypervisor',
  'virt.kvm.usable',
  'virt.svm.advertised',
  'virt.vmx.advertised',
] as const;
export type PolicyFactId = (typeof POLICY_FACTS)[number];
