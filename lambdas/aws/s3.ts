import { PutObjectCommand, type S3Client } from '@aws-sdk/client-s3';

/** Stores an object; the bucket encrypts it and keeps what was there before as a version. */
export async function putObject(
  client: S3Client,
  bucket: string,
  key: string,
  body: Uint8Array,
): Promise<void> {
  await client.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: body }));
}
