import type { Writable } from 'node:stream';

/** Nothing is shown of what is over at once. */
const QUIET_MS = 2000;
const REDRAW_MS = 200;
const BAR = 30;

export interface ByteProgress {
  /** So many bytes more are done. */
  tell(bytes: number): void;
  end(): void;
}

/** `1.5 GiB`, `12 MiB`. */
export function sizeText(bytes: number): string {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${(bytes / 2 ** 20).toFixed(0)} MiB`;
}

/** `2 h 05 min`, `3 min 10 s`, `8 s`. */
export function timeText(seconds: number): string {
  const s = Math.ceil(seconds);
  const two = (n: number) => String(n).padStart(2, '0');
  if (s >= 3600) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
  return s >= 60 ? `${Math.floor(s / 60)} min ${two(s % 60)} s` : `${s} s`;
}

/**
 * A bar with rate and remaining time on a terminal; elsewhere a line each tenth.
 *
 * @param done what was done before, by another process; it does not count into the rate
 */
export function byteProgress(
  title: string,
  out: Writable & { readonly isTTY?: boolean },
  total: number,
  done = 0,
  now: () => number = () => performance.now(),
): ByteProgress {
  const began = now();
  let bytes = done;
  let drawnAt = -Infinity;
  let drawn = false;
  let tenths = Math.floor((done / total) * 10);
  return {
    tell(more) {
      bytes += more;
      const elapsed = now() - began;
      if (elapsed < QUIET_MS) return;
      const rate = ((bytes - done) / elapsed) * 1000;
      const part = bytes / total;
      const text = `${sizeText(rate)}/s, ${timeText((total - bytes) / rate)} left`;
      if (out.isTTY) {
        if (now() - drawnAt < REDRAW_MS && bytes < total) return;
        drawnAt = now();
        drawn = true;
        const full = Math.floor(part * BAR);
        const bar = `${'█'.repeat(full)}${'░'.repeat(BAR - full)}`;
        out.write(`\r\x1b[K${title} ${bar} ${Math.floor(part * 100)} %  ${text}`);
      } else if (Math.floor(part * 10) > tenths) {
        tenths = Math.floor(part * 10);
        out.write(`${title} ${tenths * 10} %, ${text}\n`);
      }
    },
    end() {
      if (drawn) out.write('\n');
      drawn = false;
    },
  };
}
