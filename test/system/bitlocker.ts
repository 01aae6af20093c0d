import { execFile, execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const ARCHIVE = fileURLToPath(new URL('../../../shared/vectors/bitlk/bitlk-sample.tar.xz', import.meta.url));
const IMAGE = 'bitlk-aes-xts-128';

/** A volume that Windows made, and what opens it. */
export interface BitLockerSample {
  readonly recoveryPassword: string;
  /** Of the opened device. */
  readonly sha256: string;
  /** Writes the image in place of a file. */
  unpackTo(file: string): Promise<void>;
}

/** @returns undefined where the samples are not; they are never committed */
export function findBitLocker(): BitLockerSample | undefined {
  if (!existsSync(ARCHIVE)) return undefined;
  const settings = execFileSync('tar', ['-xJOf', ARCHIVE, 'images.conf'], { encoding: 'utf8' });
  const setting = (image: string, name: string) => {
    const section = settings.split(`[${image}]`)[1]?.split('[')[0] ?? '';
    const value = new RegExp(`^${name}=(.+)$`, 'm').exec(section)?.[1];
    if (!value) throw new Error(`images.conf has no ${name} of ${image}`);
    return value;
  };
  return {
    recoveryPassword: setting(IMAGE, 'RP'),
    sha256: setting(IMAGE, 'SHA256SUM'),
    async unpackTo(file) {
      const script = 'tar -xJOf "$1" "$2.img" | dd of="$3" bs=1M conv=sparse iflag=fullblock status=none';
      await promisify(execFile)('bash', ['-o', 'pipefail', '-c', script, 'unpack', ARCHIVE, IMAGE, file]);
    },
  };
}
