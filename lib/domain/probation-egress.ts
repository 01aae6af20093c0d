import * as z from 'zod';

/** What VMs in probation may reach: the interface endpoints that an agent needs, or HTTPS anywhere. */
export const probationEgress = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('endpoints'),
    securityGroupIds: z.array(z.string().startsWith('sg-')),
    prefixListIds: z.array(z.string().startsWith('pl-')),
  }),
  z.strictObject({ kind: z.literal('https-anywhere') }),
]);
export type ProbationEgress = z.infer<typeof probationEgress>;
