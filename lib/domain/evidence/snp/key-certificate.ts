import { contents, decodeAsn1, smallInteger, tag } from '../asn1.ts';
import type { Certificate } from '../certificate.ts';
import { EvidenceError } from '../reasons.ts';
import type { Product } from './tcb.ts';

/** What AMD says in a VCEK or VLEK certificate (57230, "VCEK/VLEK certificate extensions"). */
export interface KeyCertificate {
  readonly kind: 'VCEK' | 'VLEK';
  readonly product: Product;
  /** The levels that the key was derived for, laid out as TCB_VERSION of the product. */
  readonly tcb: Uint8Array;
  /** VCEK: the chip. */
  readonly hardwareId: Uint8Array | undefined;
  /** VLEK: the cloud, e.g. `CN=cc-eu-west-1.amazonaws.com`. */
  readonly cspId: string | undefined;
}

const arc = '1.3.6.1.4.1.3704.1';
const products: readonly string[] = ['Milan', 'Genoa', 'Turin'] satisfies Product[];

/** Whether it says of which product it is, as a VCEK or VLEK does and an authority does not. */
export function isKeyCertificate({ extensions }: Certificate): boolean {
  return extensions.has(`${arc}.2`);
}

/** Reads AMD's extensions; a certificate without them is not a VCEK or VLEK. */
export function readKeyCertificate(certificate: Certificate): KeyCertificate {
  const { extensions, publicKey } = certificate;
  const value = (id: string) => extensions.get(`${arc}.${id}`)?.value;
  const level = (id: string): number => {
    const bytes = value(id);
    if (!bytes) throw odd(`no ${arc}.${id}`);
    const number = smallInteger(decodeAsn1(bytes, 'der'));
    if (number > 255) throw odd(`${arc}.${id} is ${number}`);
    return number;
  };
  const optional = (id: string) => (value(id) ? level(id) : 0);

  if (publicKey.asymmetricKeyDetails?.namedCurve !== 'secp384r1') throw odd('not a P-384 key');
  const hardwareId = value('4');
  const cspId = value('5');
  const name = value('2');
  if (!name || (hardwareId === undefined) === (cspId === undefined)) throw odd('neither VCEK nor VLEK');
  // "Milan-B0" and "Milan" are the same product.
  const product = ia5(name).split('-', 1)[0] ?? '';
  if (!products.includes(product)) throw new EvidenceError('SNP_PRODUCT_UNKNOWN', product);
  const spl = { bootloader: level('3.1'), tee: level('3.2'), snp: level('3.3'), microcode: level('3.8') };
  return {
    kind: hardwareId ? 'VCEK' : 'VLEK',
    product: product as Product,
    tcb:
      product === 'Turin'
        ? // biome-ignore format: the layout
          Uint8Array.of(level('3.9'), spl.bootloader, spl.tee, spl.snp, optional('3.5'), optional('3.6'), optional('3.7'), spl.microcode)
        : // biome-ignore format: the layout
          Uint8Array.of(spl.bootloader, spl.tee, optional('3.4'), optional('3.5'), optional('3.6'), optional('3.7'), spl.snp, spl.microcode),
    hardwareId: hardwareId && unwrapped(hardwareId),
    cspId: cspId && ia5(cspId),
  };
}

/** hwID stands raw in the extension; some makers wrapped it into an OCTET STRING. */
function unwrapped(bytes: Uint8Array): Uint8Array {
  const isWrapped = [2 + 8, 2 + 64].includes(bytes.length) && bytes[0] === tag.octetString;
  return isWrapped ? bytes.subarray(2) : bytes;
}

function ia5(der: Uint8Array): string {
  return Buffer.from(contents(decodeAsn1(der, 'der'), tag.ia5String)).toString('latin1');
}

function odd(detail: string): EvidenceError {
  return new EvidenceError('SNP_KEY_CERTIFICATE_MALFORMED', detail);
}
