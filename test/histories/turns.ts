/**
 * Lets workers that run at once take turns, one AWS call a turn, in an order that a history chooses. What comes
 * between two calls of a worker is not interrupted, as in the one thread of a real one.
 */
export interface Turns {
  /** Waits for the caller's turn; at once when no others run. */
  turn(): Promise<void>;
  /** Runs workers at once until each has ended. `choose` says which of so many goes next. */
  run(workers: readonly (() => Promise<void>)[], choose: (among: number) => number): Promise<void>;
}

export function createTurns(): Turns {
  const waiting: (() => void)[] = [];
  let together = false;
  return {
    async turn() {
      if (together) await new Promise<void>((resolve) => waiting.push(resolve));
    },
    async run(workers, choose) {
      let running = workers.length;
      together = true;
      const failures: unknown[] = [];
      for (const worker of workers) {
        void worker()
          .catch((error: unknown) => failures.push(error))
          .finally(() => {
            running -= 1;
          });
      }
      while (running > 0) {
        // Everybody goes on until its next call: announcements are flushed by setImmediate.
        await new Promise((resolve) => setImmediate(resolve));
        const [next] = waiting.splice(choose(waiting.length), 1);
        next?.();
      }
      together = false;
      if (failures.length > 0) throw failures[0];
    },
  };
}

/** Makes every wait of the functions end at once: a history counts time of its own. @returns what ends it */
export function withoutWaiting(): () => void {
  const real = globalThis.setTimeout;
  globalThis.setTimeout = ((run: () => void) => setImmediate(run)) as unknown as typeof setTimeout;
  return () => {
    globalThis.setTimeout = real;
  };
}
