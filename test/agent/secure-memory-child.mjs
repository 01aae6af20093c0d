/**
 * A process with a key, for the tests to look at from outside. argv: the addon, how it ends ("return", "throw",
 * "exit", "abort"), and the file to leave address and size in. The key goes to standard output, straight from
 * the pages. Plain JavaScript, so that any Node can be looked at.
 */
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const [addon, ending, addressFile] = process.argv.slice(2);
const { SecureMemory } = createRequire(import.meta.url)(addon);
const memory = new SecureMemory(48);
memory.randomize();
// In the heap on purpose: a dump that does not have this shows nothing by not having the key.
export const control = Buffer.from('casemate control pattern, in the heap').toString('latin1').repeat(3);
memory.writeTo(1);
writeFileSync(addressFile, `${memory.address} ${memory.size.toString(16)}`);
if (ending === 'throw') {
  setImmediate(() => {
    throw new Error('uncaught, on purpose');
  });
}
if (ending === 'exit') process.exit(3);
if (ending === 'abort') process.abort();
