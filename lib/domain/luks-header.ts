import * as z from 'zod';
import { diskUuid } from './ids.ts';
import type { Reason } from './reasons.ts';

/**
 * The LUKS2 header as `cryptsetup luksDump --dump-json-metadata` prints it, judged as what it is: something that
 * whoever could write the volume wrote (PROTOCOL.md "The header is hostile"). The format is LUKS2 On-Disk Format
 * Specification 1.1.1 §3. Sizes and offsets are decimal strings there.
 */
const bytes = z
  .string()
  .regex(/^\d{1,15}$/)
  .transform(Number);

/** Everything a data segment may say; one more member (integrity, flags) is another kind of segment. */
const plainSegment = z.strictObject({
  type: z.literal('crypt'),
  offset: bytes,
  size: z.literal('dynamic'),
  iv_tweak: z.literal('0'),
  encryption: z.string(),
  sector_size: z.number(),
});

const pbkdf2 = z.looseObject({ type: z.literal('pbkdf2'), iterations: z.number() });
const argon2 = z.looseObject({
  type: z.enum(['argon2i', 'argon2id']),
  time: z.number(),
  memory: z.number(),
  cpus: z.number(),
});
const keyslot = z.looseObject({
  type: z.literal('luks2'),
  key_size: z.number(),
  area: z.looseObject({
    type: z.literal('raw'),
    offset: bytes,
    size: bytes,
    encryption: z.string(),
    key_size: z.number(),
  }),
  kdf: z.discriminatedUnion('type', [pbkdf2, argon2]),
});

const digest = z.looseObject({
  type: z.literal('pbkdf2'),
  keyslots: z.array(z.string()),
  segments: z.array(z.string()),
  iterations: z.number(),
});

const metadata = z.looseObject({
  keyslots: z.record(z.string(), z.unknown()),
  tokens: z.record(z.string(), z.looseObject({ type: z.string(), keyslots: z.array(z.string()) })),
  segments: z.record(z.string(), z.unknown()),
  digests: z.record(z.string(), z.unknown()),
  config: z.looseObject({
    json_size: bytes,
    keyslots_size: bytes,
    flags: z.array(z.string()).optional(),
    requirements: z.looseObject({ mandatory: z.array(z.string()) }).optional(),
  }),
});

/** The type of the tokens that name a keyslot for people and tools. They are trusted for nothing. */
export const TOKEN_TYPE = 'casemate';
export const headerToken = z.strictObject({
  type: z.literal(TOKEN_TYPE),
  keyslots: z.array(z.string()),
  disk: diskUuid,
  generation: z.number().int().positive(),
  /** What is in the keyslot: the disk's key of that generation, or the recovery key made with it. */
  role: z.enum(['disk-key', 'recovery']),
});
export type HeaderToken = z.infer<typeof headerToken>;

export const CIPHER = 'aes-xts-plain64';
/** Two AES-256 keys: XTS. */
export const VOLUME_KEY_BYTES = 64;
/**
 * How much of the device is its header area: what `luksFormat` leaves for it, and all that is ever copied. A header
 * that claims more is none of ours.
 */
export const HEADER_AREA_BYTES = 16 * 1024 * 1024;

/** cryptsetup's own default for a keyslot is 1 GiB at most; more is somebody wasting this machine's memory. */
const ARGON2_MAX = { memoryKiB: 1_048_576, time: 64, cpus: 4 };
const PBKDF2_MAX_ITERATIONS = 10_000_000;

export interface HeaderKeyslot {
  readonly slot: number;
  /** What the token says of it; a hint for people. */
  readonly claims: Pick<HeaderToken, 'generation' | 'role'> | undefined;
}

export type HeaderVerdict =
  | {
      readonly kind: 'sound';
      readonly keyslots: readonly HeaderKeyslot[];
      /** A re-encryption of this agent's own is under way. */
      readonly reencrypting: boolean;
    }
  | { readonly kind: 'refuse'; readonly reason: Reason; readonly detail: string };

export interface HeaderFacts {
  /** The disk that the pipeline says this volume carries. */
  readonly disk: string;
  /** LUKS UUID in the header. */
  readonly uuid: string;
  readonly deviceBytes: number;
  /** This agent began a re-encryption of the disk and has not ended it, by its own record on this machine. */
  readonly reencrypting: boolean;
}

/**
 * Whether a header may be opened. Nothing of it is believed; it must be exactly what this agent makes: one `crypt`
 * segment to the end of the device in aes-xts-plain64, keyslots that cost a bounded amount to try, no requirement and
 * no flag. Re-encryption metadata is accepted only when this agent started it: cryptsetup binds it to the volume key
 * (`online-reencrypt-v2`, CVE-2021-4122), and a forged one must not even be tried.
 */
export function judgeHeader(json: unknown, facts: HeaderFacts): HeaderVerdict {
  const parsed = metadata.safeParse(json);
  if (!parsed.success) return refuse('HEADER_UNREADABLE', z.prettifyError(parsed.error));
  const header = parsed.data;
  if (facts.uuid !== facts.disk) return refuse('HEADER_OTHER_DISK', `it is of disk ${facts.uuid}`);
  const mandatory = header.config.requirements?.mandatory ?? [];
  const reencryptSlots = Object.values(header.keyslots).filter(isReencryptKeyslot).length;
  const reencryption =
    reencryptSlots > 0 ||
    mandatory.some((r) => r.includes('reencrypt')) ||
    Object.values(header.segments).some(hasBackupFlag);
  if (reencryption) {
    const ours = facts.reencrypting && mandatory.length === 1 && mandatory[0] === 'online-reencrypt-v2';
    if (!ours) return refuse('HEADER_REENCRYPTION', mandatory.join(' ') || 'a segment or keyslot of it');
  } else if (mandatory.length > 0) return refuse('HEADER_REQUIREMENTS', mandatory.join(' '));
  if (header.config.flags?.length) return refuse('HEADER_REQUIREMENTS', header.config.flags.join(' '));
  return (
    segmentFault(header, facts, reencryption) ??
    digestFault(header, reencryption) ??
    keyslotFault(header) ??
    tokenFault(header) ?? { kind: 'sound', keyslots: keyslotsOf(header), reencrypting: reencryption }
  );
}

type Metadata = z.infer<typeof metadata>;

function refuse(reason: Reason, detail: string): HeaderVerdict & { kind: 'refuse' } {
  return { kind: 'refuse', reason, detail: detail.replace(/\s+/g, ' ').slice(0, 300) };
}

const reencryptKeyslot = z.looseObject({ type: z.literal('reencrypt') });
const isReencryptKeyslot = (slot: unknown): boolean => reencryptKeyslot.safeParse(slot).success;

const backupSegment = z.looseObject({ flags: z.array(z.string()).min(1) });
const hasBackupFlag = (segment: unknown): boolean => backupSegment.safeParse(segment).success;

function segmentFault(header: Metadata, facts: HeaderFacts, reencryption: boolean) {
  const segments = Object.values(header.segments);
  if (!reencryption && segments.length !== 1) return refuse('HEADER_SEGMENTS', `${segments.length} segments`);
  for (const segment of segments) {
    const cipher = z.looseObject({ encryption: z.string() }).safeParse(segment);
    if (cipher.success && cipher.data.encryption !== CIPHER) {
      return refuse('HEADER_CIPHER', `data is in ${cipher.data.encryption}`);
    }
    // While a re-encryption goes on, segments have sizes and flags of their own, which cryptsetup authenticates.
    if (reencryption) continue;
    const parsed = plainSegment.safeParse(segment);
    if (!parsed.success) return refuse('HEADER_SEGMENTS', z.prettifyError(parsed.error));
    const { offset, sector_size } = parsed.data;
    const { json_size, keyslots_size } = header.config;
    const area = 2 * (json_size + 4096) + keyslots_size;
    if (offset < area || offset > HEADER_AREA_BYTES || offset >= facts.deviceBytes || offset % 4096 !== 0) {
      return refuse('HEADER_GEOMETRY', `data begins at ${offset} of ${facts.deviceBytes} bytes`);
    }
    if (sector_size !== 512 && sector_size !== 4096)
      return refuse('HEADER_GEOMETRY', `sectors of ${sector_size} bytes`);
  }
  return undefined;
}

function digestFault(header: Metadata, reencryption: boolean) {
  const digests = Object.values(header.digests);
  if (!reencryption && digests.length !== 1) return refuse('HEADER_DIGEST', `${digests.length} digests`);
  for (const each of digests) {
    const parsed = digest.safeParse(each);
    if (!parsed.success) return refuse('HEADER_DIGEST', z.prettifyError(parsed.error));
    if (parsed.data.iterations > PBKDF2_MAX_ITERATIONS)
      return refuse('HEADER_DIGEST', `${parsed.data.iterations} iterations`);
    // A segment that no digest covers would take any volume key.
    if (!reencryption && parsed.data.segments.join() !== Object.keys(header.segments).join()) {
      return refuse('HEADER_DIGEST', 'it does not cover the segment');
    }
  }
  return undefined;
}

function keyslotFault(header: Metadata) {
  const end = 2 * (header.config.json_size + 4096) + header.config.keyslots_size;
  for (const [slot, each] of Object.entries(header.keyslots)) {
    if (isReencryptKeyslot(each)) continue; // there only when the re-encryption is ours, see above
    const parsed = keyslot.safeParse(each);
    if (!parsed.success) return refuse('HEADER_KEYSLOTS', `${slot}: ${z.prettifyError(parsed.error)}`);
    const { area, kdf, key_size } = parsed.data;
    if (area.encryption !== CIPHER || key_size !== VOLUME_KEY_BYTES || area.key_size !== VOLUME_KEY_BYTES) {
      return refuse('HEADER_CIPHER', `keyslot ${slot} is in ${area.encryption}`);
    }
    if (area.offset + area.size > end)
      return refuse('HEADER_GEOMETRY', `keyslot ${slot} ends beyond its area`);
    const costly =
      kdf.type === 'pbkdf2'
        ? kdf.iterations > PBKDF2_MAX_ITERATIONS
        : kdf.memory > ARGON2_MAX.memoryKiB || kdf.time > ARGON2_MAX.time || kdf.cpus > ARGON2_MAX.cpus;
    if (costly) return refuse('HEADER_KEYSLOTS', `keyslot ${slot} costs too much to try`);
  }
  return undefined;
}

function tokenFault(header: Metadata) {
  const foreign = Object.values(header.tokens).find((token) => !headerToken.safeParse(token).success);
  return foreign ? refuse('HEADER_FOREIGN_TOKEN', `a token of type ${foreign.type}`) : undefined;
}

function keyslotsOf(header: Metadata): HeaderKeyslot[] {
  const tokens = Object.values(header.tokens).map((token) => headerToken.parse(token));
  return Object.entries(header.keyslots)
    .filter(([, each]) => !isReencryptKeyslot(each))
    .map(([slot]) => {
      const token = tokens.find((each) => each.keyslots.includes(slot));
      const claims = token && { generation: token.generation, role: token.role };
      return { slot: Number(slot), claims };
    })
    .sort((a, b) => a.slot - b.slot);
}
