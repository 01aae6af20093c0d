import { mode } from '../../lib/domain/isolation.ts';
import { probationEgress } from '../aws/ec2.ts';
import { json, queueDriven, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment({ ...queueDriven, MODE: mode, PROBATION_EGRESS: json(probationEgress) }, environment);
