import * as z from 'zod';

/** One line of `cryptsetup reencrypt --progress-json`: numbers as strings. */
const line = z.object({
  device_bytes: z.coerce.number(),
  device_size: z.coerce.number(),
  speed: z.coerce.number(),
  eta_ms: z.coerce.number(),
});

export interface Progress {
  /** A line of `--progress-json`; anything else is passed over. */
  report(text: string): void;
  end(): void;
}

const BAR = 30;
const MIB = 1024 * 1024;

/** A bar with rate and remaining time on a terminal; in a pipe one line a tenth. Nothing for what is over at once. */
export function createProgress(title: string, out: NodeJS.WriteStream): Progress {
  let drawn = false;
  let tenths = 0;
  return {
    report(text) {
      if (!text.startsWith('{')) return;
      const parsed = line.safeParse(JSON.parse(text));
      if (!parsed.success || parsed.data.device_size === 0) return;
      const { device_bytes, device_size, speed, eta_ms } = parsed.data;
      const part = Math.min(1, device_bytes / device_size);
      const rate = `${(speed / MIB).toFixed(0)} MiB/s`;
      const left = `${Math.ceil(eta_ms / 1000)} s left`;
      if (out.isTTY) {
        const full = Math.round(part * BAR);
        const bar = `${'█'.repeat(full)}${'░'.repeat(BAR - full)}`;
        out.write(`\r\x1b[K${title} ${bar} ${(part * 100).toFixed(0)} %  ${rate}  ${left}`);
        drawn = true;
      } else if (Math.floor(part * 10) > tenths) {
        tenths = Math.floor(part * 10);
        out.write(`${title} ${tenths * 10} %  ${rate}  ${left}\n`);
      }
    },
    end() {
      if (drawn) out.write('\n');
      drawn = false;
    },
  };
}

/** Nothing is shown of what is over at once. */
const QUIET_MS = 2000;

/**
 * Shows for how long something is at work that does not say how far it is: mkfs and the growing of file systems. On a
 * terminal the seconds; elsewhere one line that it goes on.
 */
export async function whileWaiting<T>(
  title: string,
  out: { readonly isTTY?: boolean; write(text: string): unknown },
  work: () => Promise<T>,
  tickMs = 1000,
): Promise<T> {
  const began = performance.now();
  let drawn = false;
  const ticking = setInterval(() => {
    const elapsed = performance.now() - began;
    if (elapsed < QUIET_MS) return;
    if (out.isTTY) out.write(`\r\x1b[K${title} for ${Math.floor(elapsed / 1000)} s`);
    else if (!drawn) out.write(`${title}, which takes a while\n`);
    drawn = true;
  }, tickMs);
  try {
    return await work();
  } finally {
    clearInterval(ticking);
    if (drawn && out.isTTY) out.write('\n');
  }
}
