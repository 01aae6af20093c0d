/** Plays so many histories until one breaks an invariant, and says which: test/planted/run.ts starts it. */
import * as fc from 'fast-check';
import { holds } from '../histories/commands.ts';
import { withoutWaiting } from '../histories/turns.ts';

withoutWaiting();
const details = await fc.check(holds(), { numRuns: Number(process.argv[2]), endOnFailure: true });
const violation = details.failed ? { violation: String(details.errorInstance) } : {};
process.stdout.write(JSON.stringify({ histories: details.numRuns, ...violation }));
