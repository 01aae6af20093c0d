import { contents, decodeAsn1, elements, objectIdentifier, smallInteger, tag } from '../asn1.ts';
import { hex } from '../bytes.ts';
import type { Certificate } from '../certificate.ts';
import { EvidenceError } from '../reasons.ts';

/** What Intel says of the platform in a PCK certificate (Intel SGX PCK Certificate and CRL Profile, §1.3.5). */
export interface Platform {
  /** Lower-case hex, 6 bytes. */
  readonly fmspc: string;
  readonly pceId: string;
  /** 16 security versions. */
  readonly components: readonly number[];
  readonly pceSvn: number;
}

const arc = '1.2.840.113741.1.13.1';

/** Whether it says of which platform it is, as a PCK certificate does and an authority does not. */
export function isPck({ extensions }: Certificate): boolean {
  return extensions.has(arc);
}

/** Reads the SGX extension; a certificate without it is not a PCK certificate. */
export function readPlatform({ extensions }: Certificate): Platform {
  const value = extensions.get(arc)?.value;
  if (!value) throw new EvidenceError('TDX_PCK_MALFORMED', 'no SGX extension');
  const top = fields(decodeAsn1(value, 'der'));
  const tcb = fields(top.get(`${arc}.2`));
  return {
    fmspc: hex(contents(top.get(`${arc}.4`), tag.octetString)),
    pceId: hex(contents(top.get(`${arc}.3`), tag.octetString)),
    components: Array.from({ length: 16 }, (_, index) => smallInteger(tcb.get(`${arc}.2.${index + 1}`))),
    pceSvn: smallInteger(tcb.get(`${arc}.2.17`)),
  };
}

function fields(node: ReturnType<typeof decodeAsn1> | undefined) {
  return new Map(
    elements(node, tag.sequence).map((field) => {
      const [id, value] = elements(field, tag.sequence);
      return [objectIdentifier(id), value] as const;
    }),
  );
}
