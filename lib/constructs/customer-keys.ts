import { RemovalPolicy, Stack, Validations } from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as kms from 'aws-cdk-lib/aws-kms';
import { Construct } from 'constructs';

/** The encryption context that every wrapped disk key is bound to (PROTOCOL.md, "Disks and keys"). */
const DISK_KEY_CONTEXT = ['casemate:disk', 'casemate:generation', 'casemate:vm'] as const;

/**
 * What each service asks of KMS in the caller's name.
 * https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html
 * https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html
 */
const STATE_USES = {
  table: {
    sid: 'StateKeyThroughTable',
    service: 'dynamodb',
    actions: [
      'kms:Decrypt',
      'kms:DescribeKey',
      'kms:Encrypt',
      'kms:GenerateDataKey',
      'kms:ReEncryptFrom',
      'kms:ReEncryptTo',
    ],
  },
  'table-to-read': {
    sid: 'StateKeyThroughTable',
    service: 'dynamodb',
    actions: ['kms:Decrypt', 'kms:DescribeKey'],
  },
  bucket: {
    sid: 'StateKeyThroughBucket',
    service: 's3',
    actions: ['kms:GenerateDataKey'],
  },
  queues: {
    sid: 'StateKeyThroughQueues',
    service: 'sqs',
    actions: ['kms:Decrypt', 'kms:GenerateDataKey'],
  },
} as const;

/** A role, or a policy that is for roles. */
export interface Grantee {
  addToPolicy(statement: iam.PolicyStatement): unknown;
}

/**
 * The customer keys. "May decrypt state" is an everyday power of every function, "may unwrap a disk key" is the
 * power that everything here guards, and recovery keys are opened by operators alone: a key each.
 */
export class CustomerKeys extends Construct {
  /** Wraps the data keys of disks, and nothing else. */
  readonly disks: kms.Key;
  /** Encrypts the state table, the queues and the header backups. */
  readonly state: kms.Key;
  /** Recovery keys are sealed to its public half by the agents. No role of the pipeline opens them. */
  readonly recovery: kms.Key;
  /** For the roles of operators: open recovery keys. */
  readonly recoveryPolicy: iam.ManagedPolicy;

  constructor(scope: Construct, id: string) {
    super(scope, id);
    this.disks = retainedKey(this, 'Disks', 'Casemate: wraps the data keys of disks');
    this.disks.addToResourcePolicy(
      new iam.PolicyStatement({
        sid: 'RefuseWithoutDiskAndVm',
        effect: iam.Effect.DENY,
        principals: [new iam.AnyPrincipal()],
        actions: [
          'kms:Decrypt',
          'kms:Encrypt',
          'kms:GenerateDataKey',
          'kms:GenerateDataKeyWithoutPlaintext',
          'kms:ReEncryptFrom',
          'kms:ReEncryptTo',
        ],
        resources: ['*'],
        // One statement with all three would refuse only a request that lacks all three; the VM's id is the
        // binding that matters, the others are asked of our own role.
        conditions: { Null: { 'kms:EncryptionContext:casemate:vm': 'true' } },
      }),
    );
    this.state = retainedKey(this, 'State', 'Casemate: encrypts the state table and the queues');
    this.recovery = new kms.Key(this, 'Recovery', {
      description: 'Casemate: recovery keys of disks are sealed to it; operators open them',
      keySpec: kms.KeySpec.RSA_4096,
      keyUsage: kms.KeyUsage.ENCRYPT_DECRYPT,
      removalPolicy: RemovalPolicy.RETAIN,
    });
    Validations.of(this.recovery).acknowledge({
      id: 'AwsSolutions-KMS5',
      reason: 'KMS does not rotate asymmetric keys; what is sealed to it has to open for years.',
    });
    this.recoveryPolicy = new iam.ManagedPolicy(this, 'OpenRecoveryKeys', {
      description: 'Casemate: open the recovery keys of disks; for operators alone',
      statements: [
        new iam.PolicyStatement({
          sid: 'OpenRecoveryKeys',
          actions: ['kms:Decrypt'],
          resources: [this.recovery.keyArn],
          conditions: { StringEquals: { 'kms:EncryptionAlgorithm': 'RSAES_OAEP_SHA_256' } },
        }),
      ],
    });
    for (const key of [this.disks, this.state, this.recovery]) refuseDeletion(key);
  }

  /** Read the public half that agents seal recovery keys to. */
  grantRecoveryPublicKey(role: iam.Role): void {
    role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'ReadRecoveryPublicKey',
        actions: ['kms:GetPublicKey'],
        resources: [this.recovery.keyArn],
      }),
    );
  }

  /** Wrap a disk key for another VM, inside of KMS. */
  grantRewrap(role: iam.Role): void {
    this.grantInContext(role, 'RewrapDiskKey', 'kms:ReEncryptFrom', 'kms:ReEncryptTo');
  }

  /** Wrap a new data key for a disk of a VM, without ever seeing it. */
  grantWrap(role: iam.Role): void {
    this.grantInContext(role, 'WrapDiskKey', 'kms:GenerateDataKeyWithoutPlaintext');
  }

  /** Unwrap a disk key: the power that everything here guards, and that one function has. */
  grantUnwrap(role: iam.Role): void {
    this.grantInContext(role, 'UnwrapDiskKey', 'kms:Decrypt');
  }

  private grantInContext(role: iam.Role, sid: string, ...actions: string[]): void {
    role.addToPolicy(
      new iam.PolicyStatement({
        sid,
        actions,
        resources: [this.disks.keyArn],
        conditions: {
          'ForAllValues:StringEquals': { 'kms:EncryptionContextKeys': [...DISK_KEY_CONTEXT] },
          // ForAllValues holds for an empty context too, so each key has to be there.
          Null: Object.fromEntries(DISK_KEY_CONTEXT.map((key) => [`kms:EncryptionContext:${key}`, 'false'])),
        },
      }),
    );
  }

  /** Use the state key, but only through the service that holds the encrypted thing. */
  grantStateThrough(role: Grantee, use: keyof typeof STATE_USES): void {
    const { sid, service, actions } = STATE_USES[use];
    role.addToPolicy(
      new iam.PolicyStatement({
        sid,
        actions: [...actions],
        resources: [this.state.keyArn],
        conditions: { StringEquals: { 'kms:ViaService': viaService(this, service) } },
      }),
    );
  }

  /** Lets EventBridge put events of this account's rules into the encrypted queues. */
  allowRulesToFillQueues(): void {
    const stack = Stack.of(this);
    this.state.addToResourcePolicy(
      new iam.PolicyStatement({
        sid: 'RulesFillQueues',
        principals: [new iam.ServicePrincipal('events.amazonaws.com')],
        actions: ['kms:Decrypt', 'kms:GenerateDataKey'],
        resources: ['*'],
        conditions: { StringEquals: { 'aws:SourceAccount': stack.account } },
      }),
    );
  }
}

function viaService(scope: Construct, service: string): string {
  const stack = Stack.of(scope);
  // Always amazonaws.com, in every partition:
  // https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html#conditions-kms-via-service
  return `${service}.${stack.region}.amazonaws.com`;
}

function retainedKey(scope: Construct, id: string, description: string): kms.Key {
  return new kms.Key(scope, id, {
    description,
    enableKeyRotation: true,
    removalPolicy: RemovalPolicy.RETAIN,
  });
}

/**
 * Deleting one of these keys makes every disk, or the record of them, unreadable for good. Whoever really
 * means it first takes this statement away, which is a second call and a line in CloudTrail of its own.
 */
function refuseDeletion(key: kms.Key): void {
  key.addToResourcePolicy(
    new iam.PolicyStatement({
      sid: 'RefuseDeletion',
      effect: iam.Effect.DENY,
      principals: [new iam.AnyPrincipal()],
      actions: ['kms:ScheduleKeyDeletion'],
      resources: ['*'],
    }),
  );
}
