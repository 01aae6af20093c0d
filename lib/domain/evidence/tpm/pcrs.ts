import * as z from 'zod';
import { isZero, requireSize } from '../bytes.ts';
import { parseJson } from '../json.ts';
import { createReader, type Reader } from '../reader.ts';
import { EvidenceError } from '../reasons.ts';
import { type HashName, hashes } from './algorithms.ts';
import { type PcrSelection, selected } from './bytes.ts';

/** PCR values by bank and index; what a quote covers is known only once its digest was compared. */
export type PcrBanks = ReadonlyMap<HashName, ReadonlyMap<number, Uint8Array>>;

const maxPcrFileBytes = 16_384;
const byteLengths = new Map([...hashes.values()].map(({ name, bytes }) => [name, bytes]));

const bankSchema = z.enum(['sha256', 'sha384', 'sha512']);
const valuesSchema = z.record(
  z.string().regex(/^(?:\d|1\d|2[0-3])$/),
  // Hex in one case: a letter in the other one would be a change that no digest covers.
  z
    .string()
    .regex(/^(?:0x)?(?:[0-9a-f]+|[0-9A-F]+)$/)
    .refine((text) => [64, 96, 128].includes(text.replace(/^0x/, '').length)),
);
/** `{"sha256": {"0": hex}}`, `{"bank": "sha256", "pcrs": {"0": hex}}`, or `{"0": hex}` for the one quoted bank. */
const jsonSchema = z.union([
  z
    .partialRecord(bankSchema, valuesSchema)
    .transform(Object.entries<Values>)
    .transform(named),
  z
    .strictObject({ bank: bankSchema, pcrs: valuesSchema })
    .transform(({ bank, pcrs }) => [{ bank, values: pcrs }]),
  valuesSchema.transform((values) => [{ bank: undefined, values }]),
]);

type Values = z.infer<typeof valuesSchema>;

function named(entries: [string, Values][]): { bank: HashName; values: Values }[] {
  return entries.map(([bank, values]) => ({ bank: bankSchema.parse(bank), values }));
}

/** Reads a PCR file: JSON, or as tpm2_quote writes it (`-F serialized`, the default, or `-F values`). */
export function parsePcrs(bytes: Uint8Array, selections: readonly PcrSelection[]): PcrBanks {
  requireSize(bytes, maxPcrFileBytes);
  const first = bytes.find((byte) => byte > 0x20);
  if (first === 0x7b && bytes.length !== valueBytes(selections)) return parseNamed(bytes, selections);
  if (bytes.length === valueBytes(selections)) return parseValues(bytes, selections);
  return parseSerialized(bytes);
}

function parseNamed(bytes: Uint8Array, selections: readonly PcrSelection[]): PcrBanks {
  const parsed = jsonSchema.safeParse(parseJson(bytes, 'TPM_PCRS_MALFORMED'));
  if (!parsed.success) throw odd('not PCR values by bank and index');
  const banks = new Map<HashName, ReadonlyMap<number, Uint8Array>>();
  for (const { bank = selections[0]?.bank, values } of parsed.data) {
    if (bank === undefined) throw odd('no bank is named');
    const pcrs = Object.entries(values).map(
      ([index, value]) => [Number(index), Buffer.from(value.replace(/^0x/, ''), 'hex')] as const,
    );
    if (pcrs.some(([, value]) => value.length !== byteLengths.get(bank))) throw odd(`not digests of ${bank}`);
    banks.set(bank, new Map(pcrs));
  }
  return banks;
}

function valueBytes(selections: readonly PcrSelection[]): number {
  return selections.reduce((sum, { bank, pcrs }) => sum + pcrs.length * (byteLengths.get(bank) ?? 0), 0);
}

function parseValues(bytes: Uint8Array, selections: readonly PcrSelection[]): PcrBanks {
  const reader = createReader(bytes, 'big', 'TPM_PCRS_MALFORMED');
  return new Map(
    selections.map(({ bank, pcrs }) => [
      bank,
      new Map(pcrs.map((index) => [index, reader.bytes(byteLengths.get(bank) ?? 0)])),
    ]),
  );
}

const maxSelections = 16;
const digestsPerList = 8;
const digestBufferBytes = 64;

/**
 * tpm2-tools' own file (lib/files.c, "serialized"): the structs TPML_PCR_SELECTION and TPML_DIGEST of
 * tpm2-tss as they lie in memory, little-endian; what is unused must be zero.
 */
function parseSerialized(bytes: Uint8Array): PcrBanks {
  const reader = createReader(bytes, 'little', 'TPM_PCRS_MALFORMED');
  const count = reader.uint(4);
  if (count > maxSelections) throw odd(`${count} selections`);
  const slots: { bank: HashName; index: number }[] = [];
  for (let entry = 0; entry < maxSelections; entry++) {
    if (entry < count) slots.push(...parseSelection(reader));
    else zeros(reader, 8);
  }
  const lists = reader.uint(4);
  const digests: Uint8Array[] = [];
  for (let list = 0; list < lists; list++) digests.push(...parseDigests(reader));
  reader.end();
  if (digests.length !== slots.length) throw odd(`${digests.length} digests for ${slots.length} PCRs`);
  const banks = new Map<HashName, Map<number, Uint8Array>>();
  slots.forEach(({ bank, index }, position) => {
    const digest = digests[position];
    if (!digest || digest.length !== byteLengths.get(bank)) throw odd(`not digests of ${bank}`);
    const pcrs = banks.get(bank) ?? new Map<number, Uint8Array>();
    banks.set(bank, pcrs.set(index, digest));
  });
  return banks;
}

function parseSelection(reader: Reader): { bank: HashName; index: number }[] {
  const id = reader.uint(2);
  const size = reader.uint(1);
  const bitmap = reader.bytes(4);
  zeros(reader, 1);
  if (size !== 3 || bitmap[3] !== 0) throw odd('a PCR selection has 3 bytes');
  const bank = hashes.get(id)?.name;
  if (!bank && isZero(bitmap)) return [];
  if (!bank) throw odd(`bank 0x${id.toString(16)}`);
  return selected(bitmap).map((index) => ({ bank, index }));
}

function parseDigests(reader: Reader): Uint8Array[] {
  const count = reader.uint(4);
  if (count > digestsPerList) throw odd(`${count} digests in a list`);
  const digests: Uint8Array[] = [];
  for (let entry = 0; entry < digestsPerList; entry++) {
    const size = reader.uint(2);
    const buffer = reader.bytes(digestBufferBytes);
    if (size > digestBufferBytes || (entry >= count && size > 0) || !isZero(buffer.subarray(size))) {
      throw odd('unused bytes are not zero');
    }
    if (entry < count) digests.push(buffer.subarray(0, size));
  }
  return digests;
}

function zeros(reader: Reader, length: number): void {
  if (!isZero(reader.bytes(length))) throw odd('unused bytes are not zero');
}

function odd(detail: string): EvidenceError {
  return new EvidenceError('TPM_PCRS_MALFORMED', detail);
}
