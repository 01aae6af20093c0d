import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import * as z from 'zod';
import { probeResult } from '../../lib/domain/fact.ts';
import { repository } from '../native/native.ts';

test('the published JSON Schema is the one that the agent checks with', () => {
  const published = JSON.parse(readFileSync(`${repository}docs/probe.schema.json`, 'utf8'));
  expect(published).toEqual({ title: 'casemate-probe --json', ...z.toJSONSchema(probeResult) });
});
