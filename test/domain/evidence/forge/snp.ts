import { createHash, sign } from 'node:crypto';
import type { AmdRoots } from '../../../../lib/domain/evidence/snp/index.ts';
import { der, type Faults, integer, issue, keyPair, type Party } from './pki.ts';

type Product = keyof AmdRoots;
export type Levels = { fmc?: number; bootloader: number; tee: number; snp: number; microcode: number };

export interface Amd {
  readonly roots: AmdRoots;
  readonly ark: Record<Product, Party>;
  readonly ask: Record<Product, Party>;
  readonly asvk: Record<Product, Party>;
}

const products: Product[] = ['Milan', 'Genoa', 'Turin'];
const pss = { signature: 'pssSha384' } as const;
export const arkSerial = 40;
export const askSerial = 41;
export const asvkSerial = 42;
export const leafKeys = keyPair('P-384');

function perProduct<T>(make: (product: Product) => T): Record<Product, T> {
  return Object.fromEntries(products.map((product) => [product, make(product)])) as Record<Product, T>;
}

/** AMD, of our own: root, ASK and ASVK of each product. */
export function makeAmd(): Amd {
  const ark = perProduct((product) =>
    issue(`ARK-${product}`, keyPair('RSA'), undefined, { ...pss, serial: arkSerial }),
  );
  const below = (name: string, serial: number) =>
    perProduct((product) =>
      issue(`${name}-${product}`, keyPair('RSA'), ark[product], { ...pss, pathLength: 0, serial }),
    );
  const roots = perProduct((product) => createHash('sha256').update(ark[product].der).digest('hex'));
  return { roots, ark, ask: below('SEV', askSerial), asvk: below('SEV-VLEK', asvkSerial) };
}

export const milan: Levels = { bootloader: 4, tee: 0, snp: 24, microcode: 219 };
export const turin: Levels = { fmc: 1, bootloader: 1, tee: 1, snp: 4, microcode: 81 };
export const chip = Buffer.alloc(64, 0xc1);

export interface LeafOptions {
  readonly kind?: 'VCEK' | 'VLEK';
  readonly product?: Product;
  readonly productName?: string;
  readonly tcb?: Levels;
  readonly csp?: string;
  readonly hardwareId?: Buffer;
  readonly without?: string;
  readonly keys?: ReturnType<typeof keyPair>;
  readonly issuer?: Party;
  readonly faults?: Faults;
}

export function makeLeaf(amd: Amd, options: LeafOptions = {}): Buffer {
  const {
    kind = 'VCEK',
    product = 'Milan',
    tcb = milan,
    csp = 'CN=cc-eu-west-1.amazonaws.com',
    keys = leafKeys,
  } = options;
  const ia5 = (text: string) => der(0x16, Buffer.from(text));
  const levels: [string, number | undefined][] = [
    ['3.1', tcb.bootloader],
    ['3.2', tcb.tee],
    ['3.3', tcb.snp],
    ['3.8', tcb.microcode],
    ['3.9', tcb.fmc],
  ];
  const values: [string, Buffer | undefined][] = [
    ['1', integer(0)],
    ['2', ia5(options.productName ?? (kind === 'VCEK' && product === 'Milan' ? 'Milan-B0' : product))],
    ...levels.map(([id, value]): [string, Buffer | undefined] => [
      id,
      value === undefined ? undefined : integer(value),
    ]),
    [
      '4',
      kind === 'VCEK'
        ? (options.hardwareId ?? (product === 'Turin' ? chip.subarray(0, 8) : chip))
        : undefined,
    ],
    ['5', kind === 'VLEK' ? ia5(csp) : undefined],
  ];
  const extensions = values.flatMap(([id, value]) =>
    value === undefined || id === options.without ? [] : [{ oid: `1.3.6.1.4.1.3704.1.${id}`, value }],
  );
  const issuer = options.issuer ?? (kind === 'VCEK' ? amd.ask : amd.asvk)[product];
  return issue(`SEV-${kind}`, keys, issuer, {
    ...pss,
    ca: false,
    keyUsage: 'none',
    ...options.faults,
    extensions: [...extensions, ...(options.faults?.extensions ?? [])],
  }).der;
}

/** TCB_VERSION as the product lays it out. */
export function tcbBytes(tcb: Levels): Buffer {
  return tcb.fmc === undefined
    ? Buffer.from([tcb.bootloader, tcb.tee, 0, 0, 0, 0, tcb.snp, tcb.microcode])
    : Buffer.from([tcb.fmc, tcb.bootloader, tcb.tee, tcb.snp, 0, 0, 0, tcb.microcode]);
}

export interface ReportOptions {
  readonly version?: number;
  readonly policy?: bigint;
  readonly vmpl?: number;
  readonly guestSvn?: number;
  readonly algorithm?: number;
  readonly keyInfo?: number;
  readonly cpu?: readonly [number, number, number];
  readonly platform?: bigint;
  readonly reportData?: Buffer;
  readonly measurement?: Buffer;
  readonly reported?: Levels;
  readonly current?: Levels;
  readonly committed?: Levels;
  readonly chipId?: Buffer;
  /** Last change before signing. */
  readonly edit?: (report: Buffer) => void;
  /** Last change after signing. */
  readonly afterwards?: (report: Buffer) => void;
}

export const vlekReport = { keyInfo: 1 << 2, chipId: Buffer.alloc(64) } as const;

/** A report signed by the test's key. */
export function makeReport(options: ReportOptions = {}): Buffer {
  const report = Buffer.alloc(1184);
  const { version = 3, reported = milan, current = reported, committed = reported } = options;
  report.writeUInt32LE(version, 0);
  report.writeUInt32LE(options.guestSvn ?? 0, 4);
  report.writeBigUInt64LE(options.policy ?? 0x30000n, 8);
  report.writeUInt32LE(options.vmpl ?? 0, 0x30);
  report.writeUInt32LE(options.algorithm ?? 1, 0x34);
  tcbBytes(current).copy(report, 0x38);
  report.writeBigUInt64LE(options.platform ?? 0x25n, 0x40);
  report.writeUInt32LE(options.keyInfo ?? 0, 0x48);
  (options.reportData ?? Buffer.alloc(64, 0xda)).copy(report, 0x50);
  (options.measurement ?? Buffer.alloc(48, 0x3e)).copy(report, 0x90);
  tcbBytes(reported).copy(report, 0x180);
  if (version > 2) Buffer.from(options.cpu ?? [0x19, 0x01, 0x01]).copy(report, 0x188);
  (options.chipId ?? chip).copy(report, 0x1a0);
  tcbBytes(committed).copy(report, 0x1e0);
  tcbBytes(committed).copy(report, 0x1f0);
  options.edit?.(report);
  const rs = sign('sha384', report.subarray(0, 0x2a0), {
    key: leafKeys.privateKey,
    dsaEncoding: 'ieee-p1363',
  });
  Buffer.from(rs.subarray(0, 48)).reverse().copy(report, 0x2a0);
  Buffer.from(rs.subarray(48))
    .reverse()
    .copy(report, 0x2a0 + 72);
  options.afterwards?.(report);
  return report;
}
