/** The worker died: nothing that it still tries reaches anybody. */
export class WorkerKilled extends Error {
  override readonly name = 'WorkerKilled';
}

/**
 * Counts the effects of a worker on the outside and can kill it after any one of them, so that a test can
 * visit every place between two effects.
 */
export interface Effects {
  /** Runs one effect. */
  write<T>(name: string, effect: () => T): Promise<T>;
  read(): Promise<void>;
  /** Kills the worker right after its nth effect from now (1 is the first). */
  killAfter(n: number): void;
  /** A new worker starts. */
  revive(): void;
  readonly names: readonly string[];
}

export function countEffects(): Effects {
  const names: string[] = [];
  let dead = false;
  let remaining = Number.POSITIVE_INFINITY;
  const alive = async () => {
    await Promise.resolve();
    if (dead) throw new WorkerKilled();
  };
  return {
    names,
    async write(name, effect) {
      await alive();
      const result = effect();
      names.push(name);
      remaining -= 1;
      if (remaining <= 0) {
        dead = true;
        throw new WorkerKilled(); // the effect happened; the worker never hears of it
      }
      return result;
    },
    read: alive,
    killAfter(n) {
      remaining = n;
    },
    revive() {
      dead = false;
      remaining = Number.POSITIVE_INFINITY;
    },
  };
}
