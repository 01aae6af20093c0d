import { fileURLToPath } from 'node:url';
import base from '../../jest.config.js';

/**
 * Real VMs: `npm run test:system`. Each suite has one VM of one processor at a time, and waits for it now and then:
 * three of them keep two processors busy. Two VMs of two processors each starved each other until their kernels
 * reported lock-ups.
 */
export default {
  ...base,
  rootDir: fileURLToPath(new URL('../..', import.meta.url)),
  testMatch: ['<rootDir>/test/system/**/*.test.ts'],
  testPathIgnorePatterns: ['/node_modules/'],
  globalSetup: '<rootDir>/test/system/shared-cloud/setup.js',
  globalTeardown: '<rootDir>/test/system/shared-cloud/teardown.js',
  testSequencer: '<rootDir>/test/system/longest-first.js',
  maxWorkers: 3,
  testTimeout: 120_000,
};
