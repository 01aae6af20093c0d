/** What the packages say of themselves, whatever their format. */
export interface About {
  readonly name: string;
  readonly version: string;
  readonly architecture: 'x64' | 'arm64';
  /** Stands where formats ask for a person. */
  readonly vendor: string;
  readonly summary: string;
  /** Lines; an empty one parts paragraphs. */
  readonly description: readonly string[];
  readonly licence: string;
  /** The oldest glibc that what is compiled in it runs on. */
  readonly glibc: string;
  /** Every file's time: https://reproducible-builds.org/specs/source-date-epoch/ */
  readonly epochSeconds: number;
}
