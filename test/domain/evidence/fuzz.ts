/**
 * Changes recorded evidence in every way for as long as it is told, and measures what each change costs:
 *   npm run fuzz:evidence [-- --minutes 10] [--format tdx]
 * Ends with 1 when anything changed was accepted, was not foreseen, took a second of CPU, or 64 MiB.
 */
import { spawnSync } from 'node:child_process';
import { randomInt, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { awsIdentityIssuers } from '../../../lib/domain/evidence/identity/aws-issuers.ts';
import { verifyIdentity } from '../../../lib/domain/evidence/identity/index.ts';
import { defaultNitroPolicy, verifyNitro } from '../../../lib/domain/evidence/nitro/index.ts';
import { defaultSnpPolicy, verifySnp } from '../../../lib/domain/evidence/snp/index.ts';
import { defaultTdxPolicy, verifyTdx } from '../../../lib/domain/evidence/tdx/index.ts';
import { verifyTpm } from '../../../lib/domain/evidence/tpm/index.ts';
import type { Verdict } from '../../../lib/domain/evidence/verdict.ts';
import { vector, vectorJson } from './vector-files.ts';

interface Target {
  readonly format: string;
  /** What of the evidence is changed. */
  readonly part: string;
  readonly genuine: Buffer;
  readonly verify: (bytes: Buffer) => Verdict;
  /** Changes that change nothing, docs/evidence.md "Limits". */
  readonly isHarmless?: (changed: Buffer, genuine: Buffer) => boolean;
}

function snpTargets(): Target[] {
  interface Entry {
    readonly file: string;
    readonly leaf: string;
    readonly ca: string;
    readonly root: string;
    readonly validate_at: string;
  }
  const { reports } = vectorJson<{ reports: Record<string, Entry> }>('snp/expected.json');
  const policy = {
    ...defaultSnpPolicy,
    vmpl: [0, 1],
    allowDebug: true,
    minimumTcb: {},
    allowMigrationAgent: true,
  };
  return Object.entries(reports).flatMap(([name, entry]) => {
    const report = vector(`snp/${entry.file}`);
    const chain = [entry.leaf, entry.ca, entry.root].map((file) => vector(`snp/${file}`)).map(derOf);
    const at = new Date(entry.validate_at);
    const format = `snp ${name}`;
    return [
      {
        format,
        part: 'report',
        genuine: report,
        verify: (bytes: Buffer) => verifySnp({ report: bytes, certificates: chain, at, policy }),
      },
      ...chain.map((genuine, place) => ({
        format,
        part: `certificate ${place}`,
        genuine,
        verify: (bytes: Buffer) => verifySnp({ report, certificates: chain.with(place, bytes), at, policy }),
      })),
    ];
  });
}

function derOf(bytes: Buffer): Buffer {
  return bytes[0] === 0x30 ? bytes : new X509Certificate(bytes).raw;
}

function nitroTargets(): Target[] {
  const { documents } = vectorJson<{ documents: Record<string, { validate_at: string }> }>(
    'nitro/expected.json',
  );
  const policy = { ...defaultNitroPolicy, allowDebug: true };
  return Object.entries(documents).map(([name, { validate_at }]) => ({
    format: `nitro ${name}`,
    part: 'document',
    genuine: vector(`nitro/${name}`),
    verify: (document: Buffer) => verifyNitro({ document, at: new Date(validate_at), policy }),
  }));
}

function tdxTargets(): Target[] {
  const at = new Date('2025-06-20T00:00:00Z');
  const quote = vector('tdx/v4-uptodate.dat');
  const collateral = vector('tdx/v4-uptodate.collateral.json');
  // Real quotes that policy refuses: of a debugged guest, and of a platform that lags behind, with a service TD.
  const lenient = { ...defaultTdxPolicy, allowDebug: true, requireCollateral: false };
  const outdated = vector('tdx/v5-tcb-outdated.dat');
  const serviceTd = outdated.subarray(54 + 600, 54 + 648);
  const tolerated = [
    { name: 'v4-debug-td', genuine: vector('tdx/v4-debug-td.dat'), policy: lenient, at },
    {
      name: 'v5-tcb-outdated',
      genuine: outdated,
      policy: { ...lenient, serviceTd },
      at: new Date('2026-06-20T00:00:00Z'),
    },
  ];
  const trimmed = (bytes: Buffer) => bytes.subarray(0, bytes.findLastIndex((byte) => byte !== 0) + 1);
  return [
    ...tolerated.map(({ name, genuine, policy, at }) => ({
      format: `tdx ${name}`,
      part: 'quote',
      genuine,
      verify: (bytes: Buffer) => verifyTdx({ quote: bytes, at, policy }),
      isHarmless: (changed: Buffer) => trimmed(changed).equals(trimmed(genuine)),
    })),
    {
      format: 'tdx',
      part: 'quote',
      genuine: quote,
      verify: (bytes) => verifyTdx({ quote: bytes, collateral, at }),
      // Clouds hand out buffers padded with zeros; the certificates in it end with one that need not be there.
      isHarmless: (changed, genuine) => trimmed(changed).equals(trimmed(genuine)),
    },
    {
      format: 'tdx',
      part: 'collateral',
      genuine: collateral,
      verify: (bytes) => verifyTdx({ quote, collateral: bytes, at }),
      // White space between the members of JSON says nothing; what is signed is signed as text.
      isHarmless: (changed, genuine) => {
        try {
          return (
            JSON.stringify(lowered(JSON.parse(`${changed}`))) ===
            JSON.stringify(lowered(JSON.parse(`${genuine}`)))
          );
        } catch {
          return false;
        }
      },
    },
  ];
}

/** Hex in either case is the same bytes. */
function lowered(value: unknown): unknown {
  if (typeof value === 'string') return /^[0-9a-fA-F]+$/.test(value) ? value.toLowerCase() : value;
  if (Array.isArray(value)) return value.map(lowered);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, lowered(each)]));
}

function tpmTargets(): Target[] {
  interface Quote {
    readonly attest_hex: string;
    readonly signature_hex: string;
    readonly tpmt_signature_hex?: string;
    readonly ak_spki_der_b64: string;
    readonly pcrs: object;
  }
  return ['nitrotpm-ecc-quote', 'swtpm-rsa-quote', 'vtpm-rsa-quote-24'].flatMap((name) => {
    const quote = vectorJson<Quote>(`tpm/${name}.json`);
    const input = {
      attest: Buffer.from(quote.attest_hex, 'hex'),
      signature: Buffer.from(quote.tpmt_signature_hex ?? quote.signature_hex, 'hex'),
      ak: Buffer.from(quote.ak_spki_der_b64, 'base64'),
      pcrs: Buffer.from(JSON.stringify(quote.pcrs)),
    };
    const at = new Date('2026-06-01T00:00:00Z');
    const bare = Buffer.from(quote.signature_hex, 'hex');
    const harmless: Partial<Record<keyof typeof input, Target['isHarmless']>> = {
      // Without the header of TPMT_SIGNATURE it is the same signature in the other form.
      signature: (changed) => changed.equals(bare),
      pcrs: samePcrs,
    };
    return (Object.keys(input) as (keyof typeof input)[]).map((part) => ({
      format: `tpm ${name}`,
      part,
      genuine: input[part],
      verify: (bytes: Buffer) => verifyTpm({ ...input, [part]: bytes, at }),
      ...(harmless[part] ? { isHarmless: harmless[part] } : {}),
    }));
  });
}

/** PCR values are JSON with hex: case, white space and a name said twice say nothing new; what counts is the digest. */
function samePcrs(changed: Buffer, genuine: Buffer): boolean {
  try {
    const plain = (bytes: Buffer) => JSON.stringify(lowered(JSON.parse(`${bytes}`))).replaceAll('0x', '');
    return plain(changed) === plain(genuine);
  } catch {
    return false;
  }
}

function identityTargets(): Target[] {
  const text = vector('ec2-iid/us-west-2-2018.rsa2048.b64');
  const issuers = awsIdentityIssuers();
  const der = (bytes: Buffer) => Buffer.from(bytes.toString('latin1').replaceAll(/\s/g, ''), 'base64');
  const verify = (bytes: Buffer) =>
    verifyIdentity(bytes.toString('latin1'), { issuers, at: new Date('2026-06-01T00:00:00Z') });
  // The signature algorithm has two names, outside the signature.
  const named = (bytes: Buffer) =>
    bytes.toString('hex').replaceAll('2a864886f70d01010b', '2a864886f70d010101');
  return [
    {
      format: 'identity',
      part: 'text',
      genuine: text,
      verify,
      isHarmless: (changed, genuine) => named(der(changed)) === named(der(genuine)),
    },
    {
      format: 'identity',
      part: 'message',
      genuine: der(text),
      verify: (bytes) => verify(Buffer.from(bytes.toString('base64'))),
      isHarmless: (changed, genuine) => named(changed) === named(genuine),
    },
  ];
}

type Change = (genuine: Buffer) => Buffer;

/** One random change of each class. */
const changes: Readonly<Record<string, Change>> = {
  'bit flip': (genuine) => {
    const changed = Buffer.from(genuine);
    const at = randomInt(genuine.length);
    changed[at] = (changed[at] ?? 0) ^ (1 << randomInt(8));
    return changed;
  },
  byte: (genuine) => {
    const changed = Buffer.from(genuine);
    changed[randomInt(genuine.length)] = randomInt(256);
    return changed;
  },
  bytes: (genuine) => {
    const changed = Buffer.from(genuine);
    for (let count = 1 + randomInt(8); count > 0; count--)
      changed[randomInt(genuine.length)] = randomInt(256);
    return changed;
  },
  truncation: (genuine) => genuine.subarray(0, randomInt(genuine.length)),
  'cut in front': (genuine) => genuine.subarray(1 + randomInt(genuine.length - 1)),
  extension: (genuine) => Buffer.concat([genuine, noise(1 + randomInt(300))]),
  'itself twice': (genuine) => Buffer.concat([genuine, genuine]),
  insertion: (genuine) => spliced(genuine, randomInt(genuine.length), 0, noise(1 + randomInt(40))),
  removal: (genuine) => spliced(genuine, randomInt(genuine.length), 1 + randomInt(40), Buffer.alloc(0)),
  'moved piece': (genuine) => {
    const [from, length] = [randomInt(genuine.length), 1 + randomInt(200)];
    return spliced(genuine, randomInt(genuine.length), 0, genuine.subarray(from, from + length));
  },
  'lengths set high': (genuine) => {
    const changed = Buffer.from(genuine);
    const at = randomInt(genuine.length);
    changed.fill(0xff, at, Math.min(changed.length, at + 1 + randomInt(4)));
    return changed;
  },
  'nested deeply': (genuine) => {
    const nesting = Buffer.from(['3080', '81', 'a1', '5b', '9f', 'bf61'][randomInt(6)] ?? '', 'hex');
    return spliced(genuine, randomInt(genuine.length), 0, Buffer.alloc(randomInt(5_000), nesting));
  },
  'made large': (genuine) => Buffer.concat([genuine, Buffer.alloc(1 << (10 + randomInt(14)), genuine)]),
  noise: () => noise(1 + randomInt(4_096)),
};

function noise(length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => randomInt(256)));
}

function spliced(genuine: Buffer, at: number, remove: number, insert: Buffer): Buffer {
  return Buffer.concat([genuine.subarray(0, at), insert, genuine.subarray(at + remove)]);
}

/** Every truncation and every bit flip, once. */
function* allOf(genuine: Buffer): Generator<readonly [string, Buffer]> {
  for (let length = 0; length < genuine.length; length++) yield ['truncation', genuine.subarray(0, length)];
  for (let bit = 0; bit < 8 * genuine.length; bit++) {
    const changed = Buffer.from(genuine);
    changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    yield ['bit flip', changed];
  }
}

interface Tally {
  runs: number;
  worstMs: number;
}

const secondMs = 1_000;
const limitMib = 64;

const options = new Command('fuzz:evidence')
  .option('--minutes <minutes>', 'how long at random, after every truncation and bit flip once', Number, 10)
  .option('--format <format>', 'one format alone')
  .option('--sample <n>', 'of every truncation and bit flip, each n-th', Number, 1)
  .option('--measure <target>', 'what the piece on standard input costs in memory, in bytes')
  .parse()
  .opts<{ minutes: number; format?: string; sample: number; measure?: string }>();

const targets = [snpTargets, nitroTargets, tdxTargets, tpmTargets, identityTargets]
  .flatMap((make) => make())
  .filter(({ format }) => options.format === undefined || format.startsWith(options.format));

const nameOf = ({ format, part }: Target) => `${format}, ${part}`;
if (options.measure !== undefined) {
  const target = targets.find((each) => nameOf(each) === options.measure);
  const piece = readFileSync(0);
  // The peak over what the process has now: code that is run for the first time counts, too. The peak of getrusage(2)
  // would be that of the process that started this one, if that was larger.
  const memory = (what: 'VmRSS' | 'VmHWM') =>
    1024 *
    Number(new RegExp(`^${what}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);
  const before = memory('VmRSS');
  target?.verify(piece);
  process.stdout.write(`${memory('VmHWM') - before}\n`);
  process.exit(0);
}
for (const { format, part, genuine, verify } of targets) {
  const { accepted, reasons } = verify(genuine);
  if (!accepted) throw new Error(`${format} ${part}: the genuine one is refused: ${reasons.join(', ')}`);
}

const tallies = new Map<string, Tally>();
const faults: string[] = [];
/** The piece of each target that took longest, and the largest: their memory is measured in the end. */
const worst = new Map<string, { ms: number; slow: Buffer; large: Buffer }>();

function attempt(target: Target, kind: string, changed: Buffer): void {
  if (changed.equals(target.genuine)) return;
  const before = process.cpuUsage();
  let verdict: Verdict;
  try {
    verdict = target.verify(changed);
  } catch (error) {
    faults.push(`${target.format} ${target.part}, ${kind}: threw ${error}`);
    return;
  }
  const { user, system } = process.cpuUsage(before);
  const ms = (user + system) / 1000;
  const known = worst.get(nameOf(target)) ?? { ms: 0, slow: changed, large: changed };
  worst.set(nameOf(target), {
    ms: Math.max(ms, known.ms),
    slow: ms > known.ms ? changed : known.slow,
    large: changed.length > known.large.length ? changed : known.large,
  });
  const tally = tallies.get(`${target.format.split(' ')[0]}: ${kind}`) ?? { runs: 0, worstMs: 0 };
  tallies.set(`${target.format.split(' ')[0]}: ${kind}`, tally);
  tally.runs++;
  tally.worstMs = Math.max(tally.worstMs, ms);
  const found = (what: string) =>
    faults.push(`${nameOf(target)}, ${kind}: ${what}: ${difference(target.genuine, changed)}`);
  if (verdict.accepted && !target.isHarmless?.(changed, target.genuine)) found('accepted');
  if (verdict.reasons.includes('UNFORESEEN')) found('unforeseen');
  if (ms > secondMs) found(`${ms} ms`);
}

/** Where they begin to differ, and how, for people. */
function difference(genuine: Buffer, changed: Buffer): string {
  const at = changed.findIndex((byte, index) => byte !== genuine[index]);
  const from = at < 0 ? changed.length : at;
  const shown = (bytes: Buffer) => bytes.subarray(from, from + 16).toString('hex');
  return `from byte ${from} on ${shown(genuine)} became ${shown(changed)}, ${changed.length} bytes in all`;
}

const say = (line: string) => process.stderr.write(`${line}\n`);
let counted = 0;
for (const [place, target] of targets.entries()) {
  say(`every truncation and bit flip of ${place + 1}/${targets.length}: ${nameOf(target)}`);
  for (const [kind, changed] of allOf(target.genuine)) {
    if (counted++ % options.sample === 0) attempt(target, kind, changed);
  }
}
say(`at random for ${options.minutes} minutes`);
const until = Date.now() + options.minutes * 60_000;
while (Date.now() < until && faults.length < 20) {
  for (const target of targets) {
    for (const [kind, change] of Object.entries(changes)) attempt(target, kind, change(target.genuine));
  }
}

/** In a process of its own for each, since a heap that has grown does not show what the next piece takes. */
function costOf(name: string, piece: Buffer): number {
  const { stdout } = spawnSync(
    process.execPath,
    [
      '--no-warnings',
      fileURLToPath(import.meta.url),
      '--format',
      name.split(',')[0] ?? '',
      '--measure',
      name,
    ],
    { input: piece, encoding: 'utf8' },
  );
  return stdout === '' ? Number.POSITIVE_INFINITY : Number(stdout);
}
say('the memory of the slowest and the largest');
let mostMib = 0;
for (const [name, { slow, large }] of worst) {
  for (const piece of [slow, large]) {
    const mib = costOf(name, piece) / 1024 / 1024;
    mostMib = Math.max(mostMib, mib);
    if (mib > limitMib) faults.push(`${name}: ${mib.toFixed(0)} MiB for a piece of ${piece.length} bytes`);
  }
}

const runs = [...tallies.values()].reduce((sum, tally) => sum + tally.runs, 0);
for (const [name, tally] of [...tallies].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
  process.stdout.write(
    `${name.padEnd(32)} ${String(tally.runs).padStart(9)} ${tally.worstMs.toFixed(1).padStart(8)} ms at worst\n`,
  );
}
process.stdout.write(`${runs} changed pieces; ${mostMib.toFixed(1)} MiB at most for one\n`);
for (const fault of faults) say(fault);
process.exitCode = faults.length > 0 ? 1 : 0;
