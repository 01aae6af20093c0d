import { fileURLToPath } from 'node:url';
import base from '../../jest.config.js';

/**
 * Real VMs: `npm run test:system`. One suite after the other: two VMs of two processors each on two processors
 * starved each other until their kernels reported lock-ups.
 */
export default {
  ...base,
  rootDir: fileURLToPath(new URL('../..', import.meta.url)),
  testMatch: ['<rootDir>/test/system/**/*.test.ts'],
  testPathIgnorePatterns: ['/node_modules/'],
  maxWorkers: 1,
  testTimeout: 120_000,
};
