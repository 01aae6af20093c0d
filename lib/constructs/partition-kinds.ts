/** What the partition keys of the state table start with; IAM keeps each function to its kinds. */
export type PartitionKind =
  | 'vm'
  | 'disk'
  | 'posture'
  | 'isolation'
  | 'enrol'
  | 'tpm'
  | 'nonce'
  | 'collateral'
  | 'operator'
  | 'release'
  | 'guard'
  | 'credential'
  | 'quota';
