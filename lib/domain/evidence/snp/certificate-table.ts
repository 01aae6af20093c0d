import { hex, requireSize } from '../bytes.ts';
import { createReader } from '../reader.ts';
import { EvidenceError } from '../reasons.ts';

// GHCB specification (56421), "certificate table"; the kernel's buffer for it has 16 kB.
const maxTableBytes = 65_536;
const maxEntries = 16;

/** GUID of an entry, as text, to the place that its certificate has in a chain. */
const places: ReadonlyMap<string, 'leaf' | 'intermediate' | 'root'> = new Map([
  ['63da758d-e664-4564-adc5-f4b93be8accd', 'leaf'], // VCEK
  ['a8074bc2-a25a-483e-aae6-39c045a0b8a1', 'leaf'], // VLEK
  ['4ab7b379-bbac-4fe4-a02f-05aef327c782', 'intermediate'], // ASK or ASVK
  ['c0b406a4-a803-4952-9743-3fb6014cd0ae', 'root'], // ARK
]);

/**
 * The certificates of the table that comes with an extended report (`auxblob` in configfs-tsm), leaf first, as
 * verifySnp takes them. The host wrote the table, so nothing in it is believed: it only saves looking for
 * certificates elsewhere. EC2's has the VLEK alone; ASVK and ARK then come by configuration.
 */
export function parseCertificateTable(bytes: Uint8Array): readonly Uint8Array[] {
  requireSize(bytes, maxTableBytes);
  const reader = createReader(bytes, 'little', 'SNP_CERTIFICATE_TABLE_MALFORMED');
  const found = new Map<string, Uint8Array>();
  for (let entry = 0; ; entry++) {
    const guid = guidText(reader.bytes(16));
    const offset = reader.uint(4);
    const length = reader.uint(4);
    if (/^[0-]+$/.test(guid)) break;
    if (entry >= maxEntries) throw odd(`more than ${maxEntries} entries`);
    if (length === 0 || offset + length > bytes.length) throw odd(`${guid} lies outside the table`);
    const place = places.get(guid);
    // Hosts may add entries of their own kinds.
    if (place === undefined) continue;
    if (found.has(place)) throw odd(`two certificates for the ${place}`);
    found.set(place, bytes.subarray(offset, offset + length));
  }
  return ['leaf', 'intermediate', 'root'].flatMap((place) => found.get(place) ?? []);
}

/** AMD's tools write a GUID in the order of its text (uuid_parse), not in the mixed order of UEFI. */
function guidText(bytes: Uint8Array): string {
  const text = hex(bytes);
  return [text.slice(0, 8), text.slice(8, 12), text.slice(12, 16), text.slice(16, 20), text.slice(20)].join(
    '-',
  );
}

function odd(detail: string): EvidenceError {
  return new EvidenceError('SNP_CERTIFICATE_TABLE_MALFORMED', detail);
}
