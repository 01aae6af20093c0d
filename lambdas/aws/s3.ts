import {
  DeleteObjectCommand,
  ListObjectVersionsCommand,
  PutObjectCommand,
  type S3Client,
} from '@aws-sdk/client-s3';

/** Stores an object; the bucket encrypts it and keeps what was there before as a version. */
export async function putObject(
  client: S3Client,
  bucket: string,
  key: string,
  body: Uint8Array,
): Promise<void> {
  await client.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: body }));
}

/** Deletes every version of every object below a prefix, and the marks of earlier deletions. */
export async function deleteAllVersions(client: S3Client, bucket: string, prefix: string): Promise<void> {
  for (let more = true; more; ) {
    // What was listed is deleted, so the next page is again the first.
    const page = await client.send(new ListObjectVersionsCommand({ Bucket: bucket, Prefix: prefix }));
    const versions = [...(page.Versions ?? []), ...(page.DeleteMarkers ?? [])];
    for (const { Key, VersionId } of versions)
      await client.send(new DeleteObjectCommand({ Bucket: bucket, Key, VersionId }));
    more = page.IsTruncated === true && versions.length > 0;
  }
}
