import { S3Client } from '@aws-sdk/client-s3';
import { realSignedDeps, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realSignedDeps(config),
  s3: new S3Client(retrying),
  bucket: config.HEADER_BUCKET,
});
