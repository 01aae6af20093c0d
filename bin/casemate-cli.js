#!/usr/bin/env node
import { enableCompileCache } from 'node:module';
import { homedir } from 'node:os';
import { join } from 'node:path';

// Half of a short command's time went into reading its code. In a folder of the user's own: whoever can write there
// runs as this user already, which is not so in /tmp, where the cache lies otherwise.
enableCompileCache(join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'casemate'));

// Verifying evidence is offline, and needs none of the AWS clients.
if (process.argv[2] === 'verify') await import('./cli/verify.ts');
else await import('./cli/main.ts');
