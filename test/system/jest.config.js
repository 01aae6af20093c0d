import { fileURLToPath } from 'node:url';
import base from '../../jest.config.js';

/** Real VMs: `npm run test:system`. One suite after another, since each VM takes what processors there are. */
export default {
  ...base,
  rootDir: fileURLToPath(new URL('../..', import.meta.url)),
  testMatch: ['<rootDir>/test/system/**/*.test.ts'],
  testPathIgnorePatterns: ['/node_modules/'],
  maxWorkers: 1,
  testTimeout: 120_000,
};
