import { basename } from 'node:path';
import { Command } from 'commander';
import { awsIdentityIssuers } from '../../lib/domain/evidence/identity/aws-issuers.ts';
import { verifyIdentity } from '../../lib/domain/evidence/identity/index.ts';
import { verifyNitro } from '../../lib/domain/evidence/nitro/index.ts';
import type { EvidencePolicies } from '../../lib/domain/evidence/policy-file.ts';
import { verifySnp } from '../../lib/domain/evidence/snp/index.ts';
import { verifyTdx } from '../../lib/domain/evidence/tdx/index.ts';
import { verifyTpm } from '../../lib/domain/evidence/tpm/index.ts';
import type { Verdict } from '../../lib/domain/evidence/verdict.ts';
import { parseHex, parseTime, readPolicies } from './options.ts';
import { asJson, asText } from './output.ts';
import { processShell, type Shell, UsageError } from './shell.ts';

interface CommonOptions {
  readonly at?: string;
  readonly policy?: string;
  readonly json?: boolean;
}

interface Question {
  readonly at: Date;
  readonly policies: EvidencePolicies;
}

const examples: Readonly<Record<string, readonly string[]>> = {
  verify: [
    'verify snp report.bin --cert vlek.der --cert asvk.pem --cert ark.pem',
    'verify nitro document.cbor --nonce 00ff… --json',
    'verify identity rsa2048.b64 --region eu-central-1',
  ],
  snp: [
    'verify snp report.bin --cert vlek.der --cert asvk.pem --cert ark.pem --report-data 00ff…',
    'verify snp report.bin --cert chain.pem --crl milan.crl --at 2026-02-05T12:00:00Z --policy policy.yaml',
  ],
  nitro: ['verify nitro document.cbor', 'verify nitro document.cbor --nonce 00ff… --user-data 00ff… --json'],
  tdx: ['verify tdx quote.dat --collateral collateral.json', 'verify tdx quote.dat --report-data 00ff…'],
  tpm: ['verify tpm --attest quote.msg --signature quote.sig --ak ak.pem --pcrs quote.pcrs --nonce 00ff…'],
  identity: ['verify identity rsa2048.b64', 'verify identity rsa2048.b64 --region eu-central-1 --json'],
};

/** `verify FORMAT …`: offline, with the vendors' roots pinned. Exit 0 accepted, 1 refused, 2 malformed or wrong usage. */
export function verifyCommand(shell: Shell = processShell()): Command {
  const command = new Command('verify').description(
    'Verify attestation evidence offline, and say exactly why not.\n' +
      'Exits with 0 when it is accepted, 1 when refused, 2 when malformed or on wrong usage.',
  );
  const format = (name: string, description: string): Command =>
    behave(command.command(name).description(description), shell)
      .option('--at <time>', 'verify as of this time, ISO 8601 (default: now)')
      .option('--policy <file>', 'what to demand, JSON or YAML (default: safe for EC2)')
      .option('--json', 'print one JSON object');

  format('snp', 'AMD SEV-SNP attestation report')
    .argument('<report>', 'the report, 1184 bytes')
    .requiredOption(
      '--cert <file>',
      'certificate, DER or PEM; leaf first, then ASK or ASVK, then ARK',
      collect,
    )
    .option('--crl <file>', 'revocation list of AMD for the product, DER')
    .option('--report-data <hex>', 'the 64 bytes that the guest had to put in')
    .action(
      action(
        shell,
        async (
          path: string,
          options: { cert: string[]; crl?: string; reportData?: string },
          { at, policies },
        ) => {
          const reportData = parseHex('--report-data', options.reportData, 64);
          const [report, ...certificates] = await readAll(shell, [path, ...options.cert]);
          const crl = options.crl === undefined ? undefined : await shell.read(options.crl);
          const { snp: policy } = policies;
          return verifySnp({
            report: report ?? new Uint8Array(),
            certificates,
            crl,
            at,
            policy,
            expected: { reportData },
            roots: shell.roots.amd,
          });
        },
      ),
    );

  format('nitro', 'Nitro attestation document, of an enclave or a NitroTPM')
    .argument('<document>', 'the document, CBOR')
    .option('--nonce <hex>', 'the nonce that it must carry')
    .option('--user-data <hex>', 'the user data that it must carry')
    .action(
      action(
        shell,
        async (path: string, options: { nonce?: string; userData?: string }, { at, policies }) => {
          const nonce = parseHex('--nonce', options.nonce);
          const userData = parseHex('--user-data', options.userData);
          const document = await shell.read(path);
          const { nitro: policy } = policies;
          return verifyNitro({
            document,
            at,
            policy,
            expected: { nonce, userData },
            roots: shell.roots.nitro,
          });
        },
      ),
    );

  format('tdx', 'Intel TDX quote')
    .argument('<quote>', 'the quote, version 4 or 5')
    .option('--collateral <file>', 'TCB info, QE identity and revocation lists, JSON')
    .option('--report-data <hex>', 'the 64 bytes that the guest had to put in')
    .action(
      action(
        shell,
        async (path: string, options: { collateral?: string; reportData?: string }, { at, policies }) => {
          const reportData = parseHex('--report-data', options.reportData, 64);
          const quote = await shell.read(path);
          const collateral =
            options.collateral === undefined ? undefined : await shell.read(options.collateral);
          const { tdx: policy } = policies;
          return verifyTdx({
            quote,
            collateral,
            at,
            policy,
            expected: { reportData },
            roots: shell.roots.intel,
          });
        },
      ),
    );

  format('tpm', 'TPM 2.0 quote, in files as tpm2_quote writes them')
    .requiredOption('--attest <file>', 'what the TPM attested (tpm2_quote -m)')
    .requiredOption('--signature <file>', 'its signature (tpm2_quote -s)')
    .requiredOption('--ak <file>', 'attestation key: PEM, DER or TPM public area')
    .requiredOption('--pcrs <file>', 'PCR values: tpm2_quote -o, or JSON {"sha256": {"0": hex}}')
    .option('--nonce <hex>', 'the nonce that it must carry')
    .action(
      action(shell, async (_: undefined, options: TpmFiles, { at, policies }) => {
        const nonce = parseHex('--nonce', options.nonce);
        const attest = await shell.read(options.attest);
        const signature = await shell.read(options.signature);
        const ak = await shell.read(options.ak);
        const pcrs = await shell.read(options.pcrs);
        return verifyTpm({ attest, signature, ak, pcrs, at, policy: policies.tpm, expected: { nonce } });
      }),
    );

  format('identity', 'EC2 instance identity document')
    .argument('<pkcs7>', 'the body of /latest/dynamic/instance-identity/rsa2048')
    .option('--region <region>', 'the Region that it must be of')
    .action(
      action(shell, async (path: string, options: { region?: string }, { at, policies }) => {
        const text = Buffer.from(await shell.read(path)).toString('latin1');
        const region = options.region ?? policies.identity.region;
        const issuers = shell.roots.identity ?? awsIdentityIssuers();
        return verifyIdentity(text, { ...policies.identity, region, issuers, at });
      }),
    );

  return behave(command, shell);
}

interface TpmFiles {
  readonly attest: string;
  readonly signature: string;
  readonly ak: string;
  readonly pcrs: string;
  readonly nonce?: string;
}

/** Examples under the help, errors in one line, and exit code 2 for wrong usage. */
function behave(command: Command, shell: Shell): Command {
  const lines = (examples[command.name()] ?? []).map((example) => `  $ casemate ${example}`);
  return command
    .addHelpText('after', `\nExamples:\n${lines.join('\n')}\n`)
    .showSuggestionAfterError(false)
    .configureOutput({ writeOut: shell.write, writeErr: shell.writeError })
    .exitOverride((error) => shell.stop(error.exitCode === 0 ? 0 : 2));
}

type Verify<Options> = (path: never, options: Options, question: Question) => Promise<Verdict>;

/** Answers one question on one piece of evidence. */
function action<Options>(shell: Shell, verify: Verify<Options>) {
  // commander passes arguments, options, command; a format without an argument has only the latter two.
  return async (...received: [...paths: string[], options: Options & CommonOptions, command: Command]) => {
    const options = received.at(-2) as Options & CommonOptions;
    const path = received.length === 3 ? (received[0] as string) : undefined;
    try {
      const at = options.at === undefined ? shell.now() : parseTime(options.at);
      const policies = await readPolicies(options.policy, shell);
      const verdict = await verify(path as never, options, { at, policies });
      shell.write(options.json ? asJson(verdict) : asText(verdict, basename(path ?? 'quote'), shell.colours));
      shell.exit(verdict.accepted ? 0 : verdict.malformed ? 2 : 1);
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      shell.writeError(`error: ${error.message.replaceAll('\n', ' ')}\n`);
      shell.exit(2);
    }
  };
}

async function readAll(shell: Shell, paths: readonly string[]): Promise<Uint8Array[]> {
  return Promise.all(paths.map((path) => shell.read(path)));
}

function collect(value: string, earlier: string[] | undefined): string[] {
  return [...(earlier ?? []), value];
}

// Stands alone too: node bin/verify/index.ts snp report.bin …
if (import.meta.main) await verifyCommand().parseAsync();
