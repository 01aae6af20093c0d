import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createIdentityIssuer } from '../../bin/local/identity-issuer.ts';
import { verifyCommand } from '../../bin/verify/index.ts';
import { processShell, type Shell } from '../../bin/verify/shell.ts';
import { makeDocument, makeNitro, timestamp, usualPcrs } from '../domain/evidence/forge/nitro.ts';
import { pem } from '../domain/evidence/forge/pki.ts';
import { makeAmd, makeLeaf, makeReport } from '../domain/evidence/forge/snp.ts';
import { makeCollateral, makeIntel, makeQuote, at as tdxAt } from '../domain/evidence/forge/tdx.ts';
import { akKeys, makeAttest, makeSerialized, makeSignature } from '../domain/evidence/forge/tpm.ts';
import { recorded, vectorJson } from '../domain/evidence/vectors.ts';

const amd = makeAmd();
const nitro = makeNitro();
const intel = makeIntel();
const issuer = await createIdentityIssuer('eu-central-1');
const attest = makeAttest();
const document = {
  accountId: '111122223333',
  architecture: 'x86_64',
  availabilityZone: 'eu-central-1a',
  imageId: 'ami-0123456789abcdef0',
  instanceId: 'i-0123456789abcdef0',
  instanceType: 'm6a.large',
  pendingTime: '2026-11-01T08:00:00Z',
  privateIp: '10.0.0.7',
  region: 'eu-central-1',
  version: '2017-09-30',
};
const zeroPcrs = usualPcrs('enclave').set(0, new Uint8Array(48));
const files: Readonly<Record<string, string | Uint8Array>> = {
  'report.bin': makeReport(),
  'chain.pem': pem(makeLeaf(amd), amd.ask.Milan.der, amd.ark.Milan.der),
  'vcek.der': makeLeaf(amd),
  'ask.der': amd.ask.Milan.der,
  'ark.pem': pem(amd.ark.Milan.der),
  'document.cbor': makeDocument(nitro, { fields: { nonce: new Uint8Array(4).fill(1) } }),
  'debug.cbor': makeDocument(nitro, { kind: 'enclave', pcrs: zeroPcrs }),
  'noise.cbor': 'noise',
  'quote.msg': attest,
  'quote.sig': makeSignature(attest),
  'quote.pcrs': makeSerialized(),
  'ak.pem': akKeys.publicKey.export({ format: 'pem', type: 'spki' }),
  'tdx.dat': makeQuote(intel),
  'collateral.json': makeCollateral(intel),
  'rsa2048.b64': await issuer.issue(document),
  'policy.yaml': 'nitro:\n  allowDebug: true\n  kinds: [enclave]\n',
  'policy.json': '{"nitro": {"allowDebug": true}}',
  'unknown.yaml': 'nitro:\n  allowDebugs: true\n',
  'twice.yaml': 'nitro: {}\nnitro: {}\n',
  'broken.yaml': 'nitro: [\n',
};
let folder = '';

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'casemate-verify-'));
  await Promise.all(Object.entries(files).map(([name, content]) => writeFile(join(folder, name), content)));
});
afterAll(() => rm(folder, { recursive: true }));

interface Outcome {
  readonly code: number | undefined;
  readonly out: string;
  readonly err: string;
}

class Stopped extends Error {}

/** Runs the command in this process, with the tests' own roots. */
async function run(args: readonly string[], changes: Partial<Shell> = {}): Promise<Outcome> {
  let [out, err] = ['', ''];
  let code: number | undefined;
  const shell: Shell = {
    ...processShell(),
    write: (text) => {
      out += text;
    },
    writeError: (text) => {
      err += text;
    },
    exit: (value) => {
      code = value;
    },
    stop: (value) => {
      code = value;
      throw new Stopped();
    },
    now: () => timestamp,
    colours: false,
    roots: {
      amd: amd.roots,
      nitro: nitro.roots,
      intel: intel.roots,
      identity: new Map([['eu-central-1', [issuer.certificatePem]]]),
    },
    ...changes,
  };
  const there = args.map((arg) => (arg in files ? join(folder, arg) : arg));
  try {
    await verifyCommand(shell).parseAsync(there, { from: 'user' });
  } catch (error) {
    if (!(error instanceof Stopped)) throw error;
  }
  return { code, out, err };
}

const tpmFiles = [
  '--attest',
  'quote.msg',
  '--signature',
  'quote.sig',
  '--ak',
  'ak.pem',
  '--pcrs',
  'quote.pcrs',
];
const snpFiles = ['snp', 'report.bin', '--cert', 'vcek.der', '--cert', 'ask.der', '--cert', 'ark.pem'];

describe('casemate verify exits with 0', () => {
  test.each<[string, readonly string[]]>([
    ['an SNP report with its certificates', [...snpFiles, '--report-data', 'da'.repeat(64)]],
    ['an SNP report with its chain in one file', ['snp', 'report.bin', '--cert', 'chain.pem']],
    ['a Nitro document', ['nitro', 'document.cbor', '--nonce', '01010101']],
    [
      'a Nitro document as of a time with its zone',
      ['nitro', 'document.cbor', '--at', '2026-06-01T14:00:00+02:00'],
    ],
    ['an enclave in debug mode under a YAML policy', ['nitro', 'debug.cbor', '--policy', 'policy.yaml']],
    ['an enclave in debug mode under a JSON policy', ['nitro', 'debug.cbor', '--policy', 'policy.json']],
    ['a TPM quote', ['tpm', ...tpmFiles, '--nonce', '6e'.repeat(32)]],
    [
      'a TDX quote with collateral',
      ['tdx', 'tdx.dat', '--collateral', 'collateral.json', '--at', tdxAt.toISOString()],
    ],
  ])('for %s', async (_, args) => {
    const { code, out, err } = await run(args);
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(out).toMatch(/: accepted\n├─ pass/);
  });

  test('for an identity document of the expected Region', async () => {
    const now = () => new Date();
    expect((await run(['identity', 'rsa2048.b64', '--region', 'eu-central-1'], { now })).code).toBe(0);
  });

  test('for --help, which has examples', async () => {
    for (const format of ['snp', 'nitro', 'tdx', 'tpm', 'identity']) {
      const { code, out } = await run([format, '--help']);
      expect(code).toBe(0);
      expect(out).toContain(`$ casemate verify ${format}`);
    }
    expect((await run(['--help'])).out).toContain('Exits with 0 when it is accepted');
  });
});

describe('casemate verify exits with 1', () => {
  test('for refused evidence, and shows each check, what failed, and what to do', async () => {
    const { code, out } = await run(['nitro', 'debug.cbor']);
    expect(code).toBe(1);
    expect(out).toContain('nitro debug.cbor: refused\n');
    expect(out).toContain('├─ pass     signature over the document\n');
    expect(out).toContain('├─ fail     PCR0 to PCR2 are not zero [NITRO_DEBUG]\n');
    expect(out).toContain('Start the enclave without debug mode.');
    expect(out).toContain('└─ skipped  user data: none is expected\n');
  });

  test.each<[string, readonly string[]]>([
    ['another nonce', ['nitro', 'document.cbor', '--nonce', '02020202']],
    ['another user data', ['nitro', 'document.cbor', '--user-data', '00']],
    ['other report data', [...snpFiles, '--report-data', '00'.repeat(64)]],
    ['another Region', ['identity', 'rsa2048.b64', '--region', 'us-east-1']],
    ['a later time', ['nitro', 'document.cbor', '--at', '2026-06-02']],
    ['no collateral', ['tdx', 'tdx.dat']],
    [
      'a chain in the wrong order',
      ['snp', 'report.bin', '--cert', 'vcek.der', '--cert', 'ark.pem', '--cert', 'ask.der'],
    ],
  ])('for %s', async (_, args) => {
    expect((await run(args)).code).toBe(1);
  });

  test('for evidence under the vendors’ own roots that is not theirs', async () => {
    for (const args of [
      snpFiles,
      ['nitro', 'document.cbor'],
      ['tdx', 'tdx.dat', '--at', tdxAt.toISOString()],
    ]) {
      const { code, out } = await run(args, { roots: {} });
      expect(code).toBe(1);
      expect(out).toContain('[ROOT_NOT_PINNED]');
    }
    expect((await run(['identity', 'rsa2048.b64'], { roots: {} })).out).toContain(
      '[IDENTITY_SIGNER_NOT_PINNED]',
    );
  });
});

describe('casemate verify exits with 2', () => {
  test('for malformed evidence', async () => {
    const { code, out } = await run(['nitro', 'noise.cbor']);
    expect(code).toBe(2);
    expect(out).toMatch(/^nitro noise.cbor: malformed\n├─ fail {5}bytes: .*\[CBOR_/);
  });

  test.each<[string, readonly string[], string]>([
    ['an unknown format', ['sgx', 'report.bin'], 'unknown command'],
    ['an unknown option', ['nitro', 'document.cbor', '--jsn'], 'unknown option'],
    ['a missing file name', ['nitro'], 'missing required argument'],
    ['one file too many', ['nitro', 'document.cbor', 'debug.cbor'], 'too many arguments'],
    ['missing certificates', ['snp', 'report.bin'], '--cert'],
    ['a missing option', ['tpm', ...tpmFiles.slice(2)], '--attest'],
    ['a file that is not there', ['nitro', '/nowhere/document.cbor'], 'no such file'],
    ['a folder', ['nitro', '/'], 'is a folder'],
    ['a file without end', ['nitro', '/dev/zero'], 'more than 8388608 bytes'],
    ['a nonce that is not hex', ['nitro', 'document.cbor', '--nonce', 'xyz'], '--nonce: not hex'],
    [
      'report data of another length',
      [...snpFiles, '--report-data', '00'],
      '--report-data: 1 bytes, it has 64',
    ],
    ['a time without a zone', ['nitro', 'document.cbor', '--at', '2026-06-01T12:00:00'], '--at'],
    ['a time that is none', ['nitro', 'document.cbor', '--at', 'yesterday'], '--at'],
    ['a policy with an unknown name', ['nitro', 'document.cbor', '--policy', 'unknown.yaml'], 'allowDebugs'],
    ['a policy with a name twice', ['nitro', 'document.cbor', '--policy', 'twice.yaml'], 'twice.yaml'],
    ['a policy that is not YAML', ['nitro', 'document.cbor', '--policy', 'broken.yaml'], 'broken.yaml'],
    ['a policy that is not there', ['nitro', 'document.cbor', '--policy', '/nowhere.yaml'], 'no such file'],
  ])('for %s, with one line that says so', async (_, args, message) => {
    const { code, out, err } = await run([...args, '--json']);
    expect(code).toBe(2);
    expect(out).toBe('');
    expect(err).toMatch(/^error: [^\n]+\n$/);
    expect(err).toContain(message);
  });
});

describe('casemate verify --json', () => {
  test('prints one object of the promised shape when evidence is accepted', async () => {
    const { out } = await run(['nitro', 'document.cbor', '--json']);
    const verdict = JSON.parse(out);
    expect(Object.keys(verdict)).toEqual(['accepted', 'format', 'reasons', 'claims', 'trust']);
    expect(verdict).toMatchObject({
      accepted: true,
      format: 'nitro',
      reasons: [],
      claims: { kind: 'nitrotpm' },
    });
    expect(verdict.trust).toEqual({
      root: nitro.roots[0],
      chain: expect.any(Array),
      notBefore: '2020-01-01T00:00:00.000Z',
      notAfter: '2049-01-01T00:00:00.000Z',
    });
  });

  test('prints the same shape with nothing believed when it is refused or malformed', async () => {
    const refused = JSON.parse((await run(['nitro', 'document.cbor', '--json'], { roots: {} })).out);
    const nothing = { root: null, chain: [], notBefore: null, notAfter: null };
    expect(refused).toEqual({
      accepted: false,
      format: 'nitro',
      reasons: ['ROOT_NOT_PINNED'],
      claims: {},
      trust: nothing,
    });
    const { code, out } = await run(['nitro', 'noise.cbor', '--json']);
    expect(code).toBe(2);
    expect(JSON.parse(out)).toMatchObject({ accepted: false, claims: {}, trust: nothing });
  });
});

describe('casemate verify on a terminal', () => {
  const csi = '\u001b[';

  test('has colours there and nowhere else', async () => {
    expect((await run(['nitro', 'document.cbor'], { colours: true })).out).toContain(`${csi}32mpass`);
    expect((await run(['nitro', 'document.cbor'])).out).not.toContain(csi);
    expect((await run(['nitro', 'document.cbor', '--json'], { colours: true })).out).not.toContain(csi);
  });

  test('shows no control characters that evidence holds', async () => {
    const read = async () => makeDocument(nitro, { leafName: `${csi}31mowned` });
    expect((await run(['nitro', 'document.cbor'], { read })).out).not.toContain(csi);
  });
});

describe('casemate verify as a process of its own', () => {
  const start = async (...args: string[]): Promise<Outcome> => {
    try {
      const { stdout, stderr } = await promisify(execFile)(process.execPath, [
        'bin/verify/index.ts',
        ...args,
      ]);
      return { code: 0, out: stdout, err: stderr };
    } catch (error) {
      const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
      return { code, out: stdout, err: stderr };
    }
  };

  test('refuses, and stops on wrong usage, with its exit code', async () => {
    const [refused, wrong] = await Promise.all([
      start('nitro', join(folder, 'document.cbor'), '--json', '--at', timestamp.toISOString()),
      start('nitro', join(folder, 'document.cbor'), '--nonsense'),
    ]);
    expect(refused).toMatchObject({ code: 1, err: '' });
    expect(JSON.parse(refused.out)).toMatchObject({ accepted: false, reasons: ['ROOT_NOT_PINNED'] });
    expect(wrong).toEqual({ code: 2, out: '', err: "error: unknown option '--nonsense'\n" });
  }, 60_000);
});

describe('casemate verify on recorded evidence', () => {
  const folderOf = '../shared/vectors';
  const vendors = { roots: {} };

  interface Reports {
    readonly reports: Readonly<
      Record<string, { file: string; leaf: string; ca: string; root: string; validate_at: string }>
    >;
  }

  recorded('gives each SNP report its expected result, at its own time', async () => {
    const results: Record<string, number | undefined> = {};
    for (const [name, entry] of Object.entries(vectorJson<Reports>('snp/expected.json').reports)) {
      const certs = [entry.leaf, entry.ca, entry.root].flatMap((file) => [
        '--cert',
        `${folderOf}/snp/${file}`,
      ]);
      const args = ['snp', `${folderOf}/snp/${entry.file}`, ...certs, '--at', entry.validate_at];
      results[name] = (await run(args, vendors)).code;
    }
    expect(results).toEqual({
      'milan-v2-vcek-debug': 1,
      'milan-v2-vcek': 0,
      'milan-v3-vcek': 0,
      'turin-v5-vcek': 0,
      'aws-milan-v3-vlek-vmpl1': 1,
    });
  });

  recorded('gives each Nitro document its expected result, at its own time', async () => {
    const { documents } = vectorJson<{ documents: Record<string, { validate_at: string; expect: string }> }>(
      'nitro/expected.json',
    );
    for (const [name, entry] of Object.entries(documents)) {
      const { code } = await run(['nitro', `${folderOf}/nitro/${name}`, '--at', entry.validate_at], vendors);
      expect([name, code]).toEqual([name, entry.expect === 'accept' ? 0 : 1]);
    }
  });

  recorded('gives each TDX quote its expected result, at its own time', async () => {
    const quote = async (name: string, at: string, ...more: string[]) =>
      (await run(['tdx', `${folderOf}/tdx/${name}.dat`, '--at', at, ...more], vendors)).code;
    const collateral = (name: string) => ['--collateral', `${folderOf}/tdx/${name}.collateral.json`];
    expect(await quote('v4-uptodate', '2025-06-20T00:00:00Z', ...collateral('v4-uptodate'))).toBe(0);
    expect(await quote('v5-tcb-outdated', '2026-02-20T00:00:00Z', ...collateral('v5-tcb-outdated'))).toBe(1);
    expect(await quote('v4-debug-td', '2023-02-08T12:00:00Z')).toBe(1);
  });

  recorded('gives each TPM quote its expected result, in files and over its own nonce alone', async () => {
    interface Quote {
      readonly attest_hex: string;
      readonly signature_hex: string;
      readonly ak_spki_der_b64: string;
      readonly pcrs: object;
      readonly expected_nonce_hex: string;
    }
    for (const name of ['nitrotpm-ecc-quote', 'swtpm-rsa-quote', 'vtpm-rsa-quote-24']) {
      const quote = vectorJson<Quote>(`tpm/${name}.json`);
      const files = {
        attest: Buffer.from(quote.attest_hex, 'hex'),
        signature: Buffer.from(quote.signature_hex, 'hex'),
        ak: Buffer.from(quote.ak_spki_der_b64, 'base64'),
        pcrs: Buffer.from(JSON.stringify(quote.pcrs)),
      };
      const args = Object.entries(files).flatMap(([part, bytes]) => {
        writeFileSync(join(folder, `quote.${part}`), bytes);
        return [`--${part}`, join(folder, `quote.${part}`)];
      });
      const code = async (nonce: string) => (await run(['tpm', ...args, '--nonce', nonce], vendors)).code;
      expect([name, await code(quote.expected_nonce_hex)]).toEqual([name, 0]);
      expect([name, await code('00'.repeat(32))]).toEqual([name, 1]);
    }
  });

  recorded('gives each identity document its expected result', async () => {
    const identity = async (name: string) =>
      (await run(['identity', `${folderOf}/ec2-iid/${name}.b64`], vendors)).code;
    expect(await identity('us-west-2-2018.rsa2048')).toBe(0);
    for (const name of [
      'us-west-2-2018.pkcs7-dsa',
      'us-west-2-2018.signature-rsa1024',
      'us-west-2-2019.signature-bad',
    ]) {
      expect(await identity(name)).toBe(1);
    }
  });
});
