import type { HeaderToken } from '../../lib/domain/luks-header.ts';
import { CIPHER, HEADER_AREA_BYTES, VOLUME_KEY_BYTES } from '../../lib/domain/luks-header.ts';
import type { SecureMemory } from '../secure-memory.ts';
import { DiskError } from './error.ts';
import { type RunTool, ToolError, type ToolOptions } from './tool.ts';

/** cryptsetup(8) RETURN CODES. */
const EXIT = { wrongParameters: 1, doesNotOpen: 2, noMemory: 3, wrongDevice: 4, busy: 5 } as const;

/**
 * The keys are 256 or 512 uniformly random bits: there is nothing to stretch, and more iterations only make every
 * boot slower (docs/adr/0200).
 */
const KEYSLOT = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
/**
 * Eight keyslots, where a rotation takes four, and what re-encryption needs to checksum 128 MiB at a time; more would
 * only be noise in each backup. Data begins where cryptsetup puts it by itself.
 */
const AREA = [
  '--luks2-metadata-size',
  '16k',
  '--luks2-keyslots-size',
  '2m',
  '--offset',
  String(HEADER_AREA_BYTES / 512),
];
/** BitLocker stretches a secret by 2^20 rounds of SHA-256: a second, or minutes on an emulated processor. */
const BITLK_SECONDS = 600;
/** Tokens are trusted for nothing: no plug-in of theirs is loaded, and none is asked for a key. */
const QUIET = ['--batch-mode', '--disable-external-tokens'];

export interface Cryptsetup {
  format(device: string, key: SecureMemory, luks: { uuid: string; sectorSize: number }): Promise<void>;
  /** The header's metadata as JSON, of a copy; undefined when cryptsetup finds none that is whole. */
  metadata(header: string): Promise<unknown>;
  /** Writes the header area, as `cryptsetup luksHeaderRestore` takes it, into a new file. */
  backUp(header: string, file: string): Promise<void>;
  /** LUKS UUID; undefined when there is no LUKS header. */
  uuid(header: string): Promise<string | undefined>;
  /** The keyslot that a key opens, proven by opening it; undefined when it opens none. */
  keyslotOf(device: string, header: string, key: SecureMemory): Promise<number | undefined>;
  /** Maps the device. @returns the keyslot; undefined when the key opens none */
  open(mapping: Mapping, key: SecureMemory): Promise<number | undefined>;
  close(name: string): Promise<void>;
  /** @returns the new keyslot */
  addKey(device: string, authority: SecureMemory, added: SecureMemory): Promise<number>;
  /** Removes a keyslot; another key that opens the disk shows that one is left. */
  killSlot(device: string, authority: SecureMemory, slot: number): Promise<void>;
  /** A name for a keyslot, in place of the token with that number. */
  importToken(device: string, id: number, token: HeaderToken): Promise<void>;
  removeToken(device: string, id: number): Promise<void>;
  resize(name: string, key: SecureMemory): Promise<void>;
  /** Begins, or goes on with, replacing the volume key; `active` is the open mapping, undefined for a file. */
  reencrypt(
    device: string,
    active: string | undefined,
    key: SecureMemory,
    how: { slot: number; resume: boolean; onLine?: (line: string) => void; stop?: AbortSignal },
  ): Promise<void>;
  /** Whether a BitLocker secret opens the volume. */
  provesBitlk(device: string, secret: SecureMemory): Promise<boolean>;
  /** Maps a BitLocker volume. @returns whether the secret opens it */
  openBitlk(device: string, name: string, secret: SecureMemory): Promise<boolean>;
}

export interface Mapping {
  readonly device: string;
  /** A copy of the header that was judged; undefined during a re-encryption, which writes the device's own. */
  readonly header: string | undefined;
  readonly name: string;
  readonly discards: boolean;
}

/** cryptsetup, by the tool that runs it. Every failure is a DiskError that says what to do. */
export function createCryptsetup(run: RunTool): Cryptsetup {
  const call = async (args: readonly (string | SecureMemory)[], options: ToolOptions = {}) => {
    try {
      return await run('cryptsetup', [...QUIET, ...args], options);
    } catch (error) {
      throw asDiskError(error);
    }
  };
  /** Of a wrong recovery password cryptsetup 2.6 says nothing but 1, where of a wrong passphrase it says 2. */
  const openBitlk = async (args: readonly (string | SecureMemory)[]): Promise<boolean> => {
    const { code, stderr } = await call(['open', '--type', 'bitlk', ...args], {
      answers: [0, EXIT.wrongParameters, EXIT.doesNotOpen],
      timeoutSeconds: BITLK_SECONDS,
    });
    const said = stderr.trim();
    if (code === EXIT.wrongParameters && said !== '') throw new DiskError('DEVICE_FAILED', said);
    return code === 0;
  };
  return {
    async format(device, key, { uuid, sectorSize }) {
      await call(
        [
          'luksFormat',
          ...['--type', 'luks2', '--cipher', CIPHER, '--key-size', String(VOLUME_KEY_BYTES * 8)],
          ...['--hash', 'sha256', ...KEYSLOT, '--uuid', uuid, '--label', `casemate-${uuid.slice(0, 8)}`],
          ...AREA,
          ...['--sector-size', String(sectorSize), '--key-file', key, device],
        ],
        { timeoutSeconds: 300 },
      );
    },
    async metadata(header) {
      const { code, stdout } = await call(['luksDump', '--dump-json-metadata', header], {
        answers: [0, EXIT.wrongParameters, EXIT.wrongDevice],
      });
      if (code !== 0) return undefined;
      try {
        return JSON.parse(stdout);
      } catch {
        return undefined; // what the judgement calls unreadable
      }
    },
    async backUp(header, file) {
      await call(['luksHeaderBackup', '--header-backup-file', file, header]);
    },
    async uuid(header) {
      const { code, stdout } = await call(['luksUUID', header], {
        answers: [0, EXIT.wrongParameters, EXIT.wrongDevice],
      });
      return code === 0 ? stdout.trim() : undefined;
    },
    async keyslotOf(device, header, key) {
      const { code, stdout } = await call(
        ['open', '--test-passphrase', '--verbose', '--header', header, '--key-file', key, device],
        { answers: [0, EXIT.doesNotOpen] },
      );
      if (code !== 0) return undefined;
      return slotIn(stdout, 'unlocked');
    },
    async open({ device, header, name, discards }, key) {
      const { code, stdout } = await call(
        [
          ...['open', '--verbose', '--type', 'luks2', '--key-file', key],
          ...(header === undefined ? [] : ['--header', header]),
          ...(discards ? ['--allow-discards'] : []),
          ...[device, name],
        ],
        { answers: [0, EXIT.doesNotOpen] },
      );
      return code === 0 ? slotIn(stdout, 'unlocked') : undefined;
    },
    async close(name) {
      await call(['close', name]);
    },
    async addKey(device, authority, added) {
      const { stdout } = await call([
        ...['luksAddKey', '--verbose', ...KEYSLOT],
        ...['--key-file', authority, device, added],
      ]);
      return slotIn(stdout, 'created');
    },
    async killSlot(device, authority, slot) {
      await call(['luksKillSlot', '--key-file', authority, device, String(slot)]);
    },
    async importToken(device, id, token) {
      await call(
        ['token', 'import', '--json-file', '-', '--token-id', String(id), '--token-replace', device],
        {
          input: JSON.stringify(token),
        },
      );
    },
    async removeToken(device, id) {
      await call(['token', 'remove', '--token-id', String(id), device]);
    },
    async resize(name, key) {
      await call(['resize', '--key-file', key, name]);
    },
    async reencrypt(device, active, key, { slot, resume, onLine, stop }) {
      await call(
        [
          'reencrypt',
          // What goes on has a keyslot for each of the two volume keys, and finds them by itself.
          ...(resume
            ? ['--resume-only']
            : ['--resilience', 'checksum', ...KEYSLOT, '--key-slot', String(slot)]),
          ...['--key-file', key, '--progress-json', '--progress-frequency', '1'],
          // A file is nobody's open device, which cryptsetup cannot see by itself.
          ...(active === undefined ? ['--force-offline-reencrypt', device] : ['--active-name', active]),
        ],
        { timeoutSeconds: 2_000_000, ...(onLine ? { onLine } : {}), ...(stop ? { stop } : {}) },
      );
    },
    provesBitlk: (device, secret) => openBitlk(['--test-passphrase', '--key-file', secret, device]),
    openBitlk: (device, name, secret) => openBitlk(['--key-file', secret, device, name]),
  };
}

/** The keyslot that `--verbose` names. */
function slotIn(stdout: string, done: 'unlocked' | 'created'): number {
  const slot = new RegExp(`^Key slot (\\d+) ${done}`, 'm').exec(stdout)?.[1];
  if (slot === undefined) throw new DiskError('DEVICE_FAILED', 'cryptsetup did not say which keyslot');
  return Number(slot);
}

/** Which of our reasons a failure of cryptsetup is; what is no failure of a tool stays what it is. */
function asDiskError(error: unknown): unknown {
  if (!(error instanceof ToolError)) return error;
  const reason = error.code === EXIT.doesNotOpen ? 'KEY_DOES_NOT_OPEN' : 'DEVICE_FAILED';
  return new DiskError(reason, error.message, { cause: error });
}
