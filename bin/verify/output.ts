import { styleText } from 'node:util';
import { REASONS } from '../../lib/domain/evidence/reasons.ts';
import type { Check, Verdict } from '../../lib/domain/evidence/verdict.ts';

/** The verdict as one JSON object; its shape is a promise (docs/evidence.md). */
export function asJson({ accepted, format, reasons, claims, trust }: Verdict): string {
  const none = { root: null, chain: [], notBefore: null, notAfter: null };
  return `${JSON.stringify({ accepted, format, reasons, claims: claims ?? {}, trust: trust ?? none }, null, 2)}\n`;
}

const colourOf = { pass: 'green', fail: 'red', skipped: 'yellow' } as const;

/** The verdict as a tree of checks; every failed one says what it means and what to do. */
export function asText(verdict: Verdict, name: string, colours: boolean): string {
  const paint = (colour: 'green' | 'red' | 'yellow' | 'dim', text: string) =>
    colours ? styleText(colour, text, { validateStream: false }) : text;
  const outcome = verdict.accepted ? 'accepted' : verdict.malformed ? 'malformed' : 'refused';
  const lines = [`${verdict.format} ${name}: ${paint(verdict.accepted ? 'green' : 'red', outcome)}`];
  verdict.checks.forEach((check, index) => {
    const isLast = index === verdict.checks.length - 1;
    const mark = paint(colourOf[check.outcome], check.outcome.padEnd(7));
    lines.push(`${isLast ? '└─' : '├─'} ${mark}  ${printable(label(check))}`);
    if (check.outcome === 'fail' && check.reason) {
      const { meaning, action } = REASONS[check.reason];
      for (const text of [meaning, action])
        lines.push(`${isLast ? '  ' : '│ '}          ${paint('dim', text)}`);
    }
  });
  return `${lines.join('\n')}\n`;
}

function label({ name, outcome, reason, detail }: Check): string {
  const said = detail === undefined ? name : `${name}: ${detail}`;
  return outcome === 'fail' ? `${said} [${reason}]` : said;
}

/** Details quote evidence, which may hold anything: control characters must not reach a terminal. */
function printable(text: string): string {
  return text.replace(/[^\P{C}]/gu, '\u{fffd}');
}
