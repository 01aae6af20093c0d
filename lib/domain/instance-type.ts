/**
 * Families whose memory the platform always encrypts, by AWS's word. A guest cannot see it, so the fact is EC2's
 * to assert; a family that is not here is `unknown`.
 *
 * Sources: EC2 User Guide, "Starting with AMD EPYC (Milan), AWS Graviton2, and Intel Xeon Scalable (Ice Lake)
 * processors, instance memory is always encrypted" (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/sev-snp.html),
 * and by example in "Data protection in Amazon EC2": M6i and M7i (TME), M6a and M7a (SME)
 * (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/data-protection.html). Which processor a family has: "Instance
 * type specifications" of the EC2 instance types guide (https://docs.aws.amazon.com/ec2/latest/instancetypes/).
 */
const MEMORY_ENCRYPTED: ReadonlySet<string> = new Set([
  // Graviton2, 3, 4
  ...['t4g', 'm6g', 'm6gd', 'c6g', 'c6gd', 'c6gn', 'r6g', 'r6gd', 'x2gd', 'im4gn', 'is4gen', 'g5g'],
  ...['m7g', 'm7gd', 'c7g', 'c7gd', 'c7gn', 'r7g', 'r7gd', 'hpc7g'],
  ...['m8g', 'm8gd', 'c8g', 'c8gd', 'r8g', 'r8gd', 'x8g', 'i8g'],
  // Intel Ice Lake, Sapphire Rapids, and Granite Rapids
  ...['m6i', 'm6id', 'm6in', 'm6idn', 'c6i', 'c6id', 'c6in', 'r6i', 'r6id', 'r6in', 'r6idn'],
  ...['x2idn', 'x2iedn', 'i4i', 'm7i', 'm7i-flex', 'c7i', 'c7i-flex', 'r7i', 'r7iz'],
  ...['m8i', 'm8i-flex', 'c8i', 'c8i-flex', 'r8i', 'r8i-flex'],
  // AMD Milan, Genoa, Turin
  ...['m6a', 'c6a', 'r6a', 'hpc6a', 'm7a', 'c7a', 'r7a', 'hpc7a', 'm8a', 'c8a', 'r8a'],
]);

/** Whether EC2 encrypts the memory of this type whatever its guest does; undefined where AWS does not say so. */
export function memoryEncrypted(instanceType: string): true | undefined {
  const [family = ''] = instanceType.split('.');
  return MEMORY_ENCRYPTED.has(family) || undefined;
}
