/**
 * Memory for keys, outside the JavaScript heap.
 *
 * On memfd_secret(2) where the kernel has it, else locked pages that no dump and no child gets; between guard pages;
 * wiped on release, on exit and after an uncaught error. Nothing here ever returns the bytes as a copy: they are
 * lent ({@link SecureMemory.use}), compared in constant time, or written to a file descriptor from where they are.
 */
import { isNativeError, type NativeSecureMemory, nativeAddon } from './probe.ts';

/**
 * Codes: `CASEMATE_SECURE_MEMORY_ALLOCATE` (the pages cannot be locked: RLIMIT_MEMLOCK; retryable after others are
 * released), `…_RELEASED`, `…_USAGE` (both bugs of the caller), `…_IO` (descriptor; the message has the errno text).
 */
export class SecureMemoryError extends Error {
  override readonly name = 'SecureMemoryError';
  readonly code: string;
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

function guarded<T>(call: () => T): T {
  try {
    return call();
  } catch (cause) {
    if (isNativeError(cause, 'CASEMATE_SECURE_MEMORY_')) {
      throw new SecureMemoryError(cause.code, cause.message, { cause });
    }
    throw cause;
  }
}

export class SecureMemory implements Disposable {
  readonly #native: NativeSecureMemory;

  /** `size` zero bytes, 1 to 1,048,576. */
  constructor(size: number) {
    this.#native = guarded(() => new (nativeAddon().SecureMemory)(size));
  }

  /** Memory with `source` in it; `source` is wiped. */
  static from(source: Uint8Array): SecureMemory {
    const memory = new SecureMemory(source.length);
    memory.take(source);
    return memory;
  }

  get size(): number {
    return guarded(() => this.#native.size);
  }

  /** `locked` where the kernel has no memfd_secret. */
  get backing(): 'memfd_secret' | 'locked' {
    return guarded(() => this.#native.backing);
  }

  /** Where it is, in hexadecimal, as in /proc/self/smaps: for inspection. */
  get address(): string {
    return guarded(() => this.#native.address);
  }

  /** Moves `source` in at `offset`, and wipes `source`. */
  take(source: Uint8Array, offset = 0): void {
    guarded(() => this.#native.take(source, offset));
  }

  /** Fills it with random bytes of the kernel's, which never were anywhere else. */
  randomize(): void {
    guarded(() => this.#native.randomize());
  }

  /** Compares in a time that depends on the size alone. */
  equals(other: SecureMemory | Uint8Array): boolean {
    return guarded(() =>
      other instanceof SecureMemory ? this.#native.equalsMemory(other.#native) : this.#native.equals(other),
    );
  }

  /** Writes all of it to a descriptor (a pipe to cryptsetup), straight from the pages; waits up to 5 s a turn. */
  writeTo(fd: number): void {
    guarded(() => this.#native.writeTo(fd));
  }

  /**
   * A pipe with all of it in it, closed for writing (at most 4096 bytes): the descriptor to read from, which goes to
   * a child as `/dev/fd/N` and is then the caller's to close. A key never waits in a file, and the child needs no
   * second process to feed it.
   */
  toPipe(): number {
    return guarded(() => this.#native.toPipe());
  }

  /** Reads a descriptor to its end, straight into the pages; the count. More than fits is an error. */
  readFrom(fd: number): number {
    return guarded(() => this.#native.readFrom(fd));
  }

  /**
   * Lends the pages as a Uint8Array for the time of the call. Afterwards the array has length 0, so that no view
   * outlives the memory. The callback must not be asynchronous, and should not copy.
   */
  use<T>(callback: (view: Uint8Array<ArrayBuffer>) => T extends PromiseLike<unknown> ? never : T): T {
    return guarded(() => this.#native.use(callback as (view: Uint8Array<ArrayBuffer>) => T));
  }

  /** Wipes and unmaps. Every later use throws; releasing again does nothing. */
  release(): void {
    guarded(() => this.#native.release());
  }

  [Symbol.dispose](): void {
    this.release();
  }
}
