import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import { REASONS } from '../../../lib/domain/evidence/reasons.ts';
import { judge, type Stages } from '../../../lib/domain/evidence/verdict.ts';

const stages: Stages<string, object> = {
  format: 'snp',
  parse: () => 'parsed',
  verify: () => ({ root: 'r', chain: [], notBefore: null, notAfter: null }),
  signedBytes: () => Buffer.from('signed'),
  claims: () => ({}),
  policy: (_, checks) => checks.expect('something', true, 'SNP_DEBUG'),
};

describe('a verdict', () => {
  test('is an acceptance when no check fails', () => {
    expect(judge(stages)).toMatchObject({ accepted: true, reasons: [], claims: {} });
  });

  test.each(['parse', 'verify', 'claims', 'policy'] as const)(
    'is never an acceptance when %s stumbles',
    (stage) => {
      const broken = { ...stages, [stage]: () => JSON.parse('{') };
      expect(judge(broken)).toMatchObject({ accepted: false, malformed: true, reasons: ['UNFORESEEN'] });
    },
  );

  test('says that later stages were skipped when an earlier one failed', () => {
    const verdict = judge({
      ...stages,
      verify: (parsed, checks) => {
        checks.demand('chain', false, 'ROOT_NOT_PINNED');
        return stages.verify(parsed, checks);
      },
    });
    expect(verdict.checks).toEqual([
      { name: 'bytes', outcome: 'pass' },
      { name: 'chain', outcome: 'fail', reason: 'ROOT_NOT_PINNED' },
      expect.objectContaining({ name: 'policy', outcome: 'skipped' }),
    ]);
  });
});

describe('every reason code', () => {
  const sources = readdirSync('test/domain/evidence', { withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.test.ts'))
    .map((entry) => readFileSync(`test/domain/evidence/${entry.name}`, 'utf8'))
    .join('\n');
  const page = readFileSync('docs/evidence.md', 'utf8');

  test('is provoked by a test', () => {
    expect(Object.keys(REASONS).filter((code) => !sources.includes(`'${code}'`))).toEqual([]);
  });

  test('is explained in docs/evidence.md as the code explains it, and no other is', () => {
    const rows = Object.entries(REASONS).map(
      ([code, { kind, meaning, action }]) => `| \`${code}\` | ${kind} | ${meaning} | ${action} |`,
    );
    expect(page.match(/^\| `[A-Z0-9_]+` \|.*$/gm)).toEqual(rows);
  });
});
