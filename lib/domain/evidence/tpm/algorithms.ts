/** TPM_ALG_ID of hashes that count (TCG Algorithm Registry §3.1); SHA-1 is known and refused. */
export const sha1 = 0x0004;

export const hashes: ReadonlyMap<number, { name: 'sha256' | 'sha384' | 'sha512'; bytes: number }> = new Map([
  [0x000b, { name: 'sha256', bytes: 32 }],
  [0x000c, { name: 'sha384', bytes: 48 }],
  [0x000d, { name: 'sha512', bytes: 64 }],
]);

export type HashName = 'sha256' | 'sha384' | 'sha512';

export const scheme = { rsassa: 0x0014, rsapss: 0x0016, ecdsa: 0x0018 } as const;
