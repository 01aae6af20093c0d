import { RemovalPolicy } from 'aws-cdk-lib';
import * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import * as iam from 'aws-cdk-lib/aws-iam';
import { Construct } from 'constructs';
import type { CustomerKeys, Grantee } from './customer-keys.ts';
import type { PartitionKind } from './partition-kinds.ts';

export interface StateTableProps {
  readonly keys: CustomerKeys;
}

/** What a function does with which kinds. A consumed challenge is updated; everything else is put whole. */
export interface KindsOfFunction {
  readonly reads: readonly PartitionKind[];
  readonly puts: readonly PartitionKind[];
  readonly updates?: readonly PartitionKind[];
}

/** The one table: everything that the pipeline knows, wrapped disk keys included. */
export class StateTable extends Construct {
  readonly table: dynamodb.TableV2;
  private readonly keys: CustomerKeys;

  constructor(scope: Construct, id: string, props: StateTableProps) {
    super(scope, id);
    this.keys = props.keys;
    this.table = new dynamodb.TableV2(this, 'Table', {
      partitionKey: { name: 'pk', type: dynamodb.AttributeType.STRING },
      billing: dynamodb.Billing.onDemand(),
      encryption: dynamodb.TableEncryptionV2.customerManagedKey(props.keys.state),
      timeToLiveAttribute: 'expiresAt',
      pointInTimeRecoverySpecification: { pointInTimeRecoveryEnabled: true },
      deletionProtection: true,
      removalPolicy: RemovalPolicy.RETAIN,
    });
  }

  /** Items of these kinds and no others. Nobody may delete one: a key that was wrapped is never lost. */
  grant(role: Grantee, kinds: KindsOfFunction): void {
    const { reads, puts, updates = [] } = kinds;
    const allow = (sid: string, actions: string[], of: readonly PartitionKind[]) => {
      if (of.length > 0) role.addToPolicy(this.statement(sid, actions, of));
    };
    allow('ReadItsKinds', ['dynamodb:BatchGetItem'], reads);
    allow('PutItsKinds', ['dynamodb:PutItem'], puts);
    allow('UpdateItsKinds', ['dynamodb:UpdateItem'], updates);
    this.keys.grantStateThrough(role, puts.length + updates.length > 0 ? 'table' : 'table-to-read');
  }

  /**
   * The whole table, to read, and items of these kinds to put. A Scan has no leading key that a condition could
   * look at.
   */
  grantScan(role: Grantee, puts: readonly PartitionKind[] = []): void {
    role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'ReadAllKinds',
        actions: ['dynamodb:Scan'],
        resources: [this.table.tableArn],
      }),
    );
    if (puts.length > 0) role.addToPolicy(this.statement('PutItsKinds', ['dynamodb:PutItem'], puts));
    this.keys.grantStateThrough(role, puts.length > 0 ? 'table' : 'table-to-read');
  }

  private statement(sid: string, actions: string[], kinds: readonly PartitionKind[]): iam.PolicyStatement {
    return new iam.PolicyStatement({
      sid,
      actions,
      resources: [this.table.tableArn],
      conditions: {
        'ForAllValues:StringLike': { 'dynamodb:LeadingKeys': kinds.map((kind) => `${kind}#*`) },
        // ForAllValues also holds when there is no key in the request at all.
        Null: { 'dynamodb:LeadingKeys': 'false' },
      },
    });
  }
}
