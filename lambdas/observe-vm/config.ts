import { queueDriven, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) => readEnvironment(queueDriven, environment);
