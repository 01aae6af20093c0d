import { Duration, RemovalPolicy, Validations } from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as s3 from 'aws-cdk-lib/aws-s3';
import { Construct } from 'constructs';
import type { CustomerKeys } from './customer-keys.ts';

export interface HeaderBucketProps {
  readonly keys: CustomerKeys;
}

/** Headers of a disk are rewritten at each change; these many are worth going back to. */
const VERSIONS_KEPT = 20;

/** Backups of LUKS headers, for disks whose own was damaged. */
export class HeaderBucket extends Construct {
  readonly bucket: s3.Bucket;
  private readonly keys: CustomerKeys;

  constructor(scope: Construct, id: string, props: HeaderBucketProps) {
    super(scope, id);
    this.keys = props.keys;
    this.bucket = new s3.Bucket(this, 'Bucket', {
      versioned: true,
      encryption: s3.BucketEncryption.KMS,
      encryptionKey: props.keys.state,
      bucketKeyEnabled: true,
      blockPublicAccess: s3.BlockPublicAccess.BLOCK_ALL,
      enforceSSL: true,
      removalPolicy: RemovalPolicy.RETAIN,
      lifecycleRules: [
        {
          id: 'OldVersions',
          noncurrentVersionExpiration: Duration.days(90),
          noncurrentVersionsToRetain: VERSIONS_KEPT,
          abortIncompleteMultipartUploadAfter: Duration.days(1),
        },
      ],
    });
    Validations.of(this.bucket).acknowledge({
      id: 'AwsSolutions-S1',
      reason: 'One function writes and operators read; CloudTrail data events say who, where they are on.',
    });
  }

  /** Store a header, and nothing else: not even read one back. */
  grantStore(role: iam.Role): void {
    role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'StoreHeaders',
        actions: ['s3:PutObject'],
        resources: [this.bucket.arnForObjects('headers/*')],
      }),
    );
    this.acknowledgeAllHeaders(role);
    this.keys.grantStateThrough(role, 'bucket');
  }

  /** Delete headers with all their versions, without reading one. */
  grantShred(role: iam.Role): void {
    role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'FindHeaderVersions',
        actions: ['s3:ListBucketVersions'],
        resources: [this.bucket.bucketArn],
        conditions: { StringLike: { 's3:prefix': 'headers/*' } },
      }),
    );
    role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'ShredHeaders',
        actions: ['s3:DeleteObject', 's3:DeleteObjectVersion'],
        resources: [this.bucket.arnForObjects('headers/*')],
      }),
    );
    this.acknowledgeAllHeaders(role);
  }

  private acknowledgeAllHeaders(role: iam.Role): void {
    Validations.of(role).acknowledge({
      id: `AwsSolutions-IAM5[Resource::<${this.bucket.stack.getLogicalId(this.bucket.node.defaultChild as s3.CfnBucket)}.Arn>/headers/*]`,
      reason: 'The key of a header begins with its disk, which the function checked.',
    });
  }
}
