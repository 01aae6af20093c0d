import { verifyCommand } from '../verify/index.ts';
import { createProgram, run } from './program.ts';

const program = createProgram();
program.addCommand(verifyCommand());
await run(program);
