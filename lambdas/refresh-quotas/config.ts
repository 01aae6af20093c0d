import { common, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) => readEnvironment(common, environment);
