// Powertools would print every metric of every handler run among the results.
process.env['POWERTOOLS_METRICS_DISABLED'] = 'true';
process.env['POWERTOOLS_SERVICE_NAME'] = 'test';

/**
 * Suites are chosen by folder: `test/` mirrors the source; `test/integration/` needs the embedded
 * cloud. `test/system/` needs real VMs, and has a configuration of its own.
 */
export default {
  testEnvironment: 'node',
  // A hang fails; a machine that is busy does not.
  testTimeout: 120_000,
  extensionsToTreatAsEsm: ['.ts'],
  transform: {
    '^.+\\.ts$': [
      '@swc/jest',
      { jsc: { target: 'es2024', parser: { syntax: 'typescript' } }, module: { type: 'es6' } },
    ],
  },
  testMatch: ['<rootDir>/test/**/*.test.ts'],
  testPathIgnorePatterns: ['/node_modules/', '<rootDir>/test/system/'],
  modulePathIgnorePatterns: ['<rootDir>/cdk.out', '<rootDir>/dist', '<rootDir>/.local', '<rootDir>/.venv'],
};
