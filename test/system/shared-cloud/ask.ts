import { type CloudAddress, type CloudView, viewCloud } from '../../integration/cloud.ts';

/** Environment variable with the address to ask at. */
export const ASK_AT = 'CASEMATE_TEST_CLOUD';

/** The cloud that all suites share. Takes as long as its start, for whoever is first. */
export async function sharedCloud(): Promise<CloudView> {
  const answer = await fetch(process.env[ASK_AT] ?? '');
  if (!answer.ok) throw new Error(await answer.text());
  return viewCloud((await answer.json()) as CloudAddress);
}
