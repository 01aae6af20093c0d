import { apiOrigin, common, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment({ ...common, AMD_KEY_SERVER: apiOrigin }, environment);
