import { KMSClient } from '@aws-sdk/client-kms';
import { publicKeyOf } from '../aws/kms.ts';
import { realSignedDeps, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();
const kms = new KMSClient(retrying);
let publicKey: Buffer | undefined;

export const handler = createHandler({
  ...realSignedDeps(config),
  mode: config.MODE,
  /** Asked once: the public half of a key pair in KMS never changes. */
  async recoveryPublicKey() {
    publicKey ??= await publicKeyOf(kms, config.RECOVERY_KEY_ID);
    return publicKey;
  },
});
