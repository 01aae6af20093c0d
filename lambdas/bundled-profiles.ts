import { readFileSync } from 'node:fs';
import { type ProbationEgress, type Profiles, parseProfiles } from '../lib/domain/profiles.ts';

/** The isolation profiles out of the file that lies beside the bundle. @throws ProfilesError */
export function bundledProfiles(egress: ProbationEgress): Profiles {
  const file: unknown = JSON.parse(readFileSync(new URL('./profiles.json', import.meta.url), 'utf8'));
  return parseProfiles(file, egress);
}
