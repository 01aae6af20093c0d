import { fileURLToPath } from 'node:url';
import base from '../../jest.config.js';

/** Real VMs: `npm run test:system`. Two suites at once: each VM takes one processor. */
export default {
  ...base,
  rootDir: fileURLToPath(new URL('../..', import.meta.url)),
  testMatch: ['<rootDir>/test/system/**/*.test.ts'],
  testPathIgnorePatterns: ['/node_modules/'],
  maxWorkers: 2,
  testTimeout: 120_000,
};
