import { resolve } from 'node:path';
import { Annotations, Aws, Duration, Stack, Token, Validations } from 'aws-cdk-lib';
import * as events from 'aws-cdk-lib/aws-events';
import * as targets from 'aws-cdk-lib/aws-events-targets';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import * as logs from 'aws-cdk-lib/aws-logs';
import type * as sns from 'aws-cdk-lib/aws-sns';
import type * as sqs from 'aws-cdk-lib/aws-sqs';
import { Construct } from 'constructs';
import type { ContainmentSettings } from '../domain/containment.ts';
import { LAUNCH_HOOK } from '../domain/launch.ts';
import { AgentAccess } from './agent-access.ts';
import { AgentApi } from './agent-api.ts';
import {
  adoptionBody,
  challengeBody,
  confirmationBody,
  diskListBody,
  enrolmentBody,
  headerBody,
  releaseBody,
  rotationBody,
  tpmActivationBody,
} from './agent-api-bodies.ts';
import {
  type CasemateSettings,
  DEFAULT_AMD_KEY_SERVER,
  DEFAULT_GUARD_MINIMUM,
  DEFAULT_GUARD_SHARE,
  DEFAULT_GUARD_WINDOW,
  DEFAULT_OBSERVE_BATCH_WINDOW,
  DEFAULT_REPLACEMENTS_PER_HOUR,
  DEFAULT_REPORT_MAX_AGE,
  type ProbationEgress,
  SettingsError,
  settingFaults,
} from './casemate-settings.ts';
import { CredentialDenial } from './credential-denial.ts';
import { CustomerKeys } from './customer-keys.ts';
import { Ec2Events } from './ec2-events.ts';
import { AGENT_SOURCE, EventBus, OWN_SOURCE } from './event-bus.ts';
import { HeaderBucket } from './header-bucket.ts';
import { Health, type WatchedFunction } from './health.ts';
import { asFindingsName, IsolationPowers } from './isolation-powers.ts';
import { OperatorAccess } from './operator-access.ts';
import { PipelineFunction } from './pipeline-function.ts';
import {
  POLICY_FOLDER,
  PROFILES_FILE,
  validateEvidencePolicies,
  validatePolicies,
  validateProfiles,
} from './policies.ts';
import { StateTable } from './state-table.ts';
import { encryptedQueue, grantSend, WorkQueue } from './work-queue.ts';

export interface CasemateProps extends CasemateSettings {
  /** Where alarms go. @default - they ring in CloudWatch alone */
  readonly alarmTopic?: sns.ITopic;
  /** @default Architecture.ARM_64 */
  readonly architecture?: lambda.Architecture;
  /** How long the logs of functions and API are kept. @default one month */
  readonly logRetention?: logs.RetentionDays;
  /** @default 'INFO' */
  readonly logLevel?: 'DEBUG' | 'INFO' | 'WARN' | 'ERROR';
  /**
   * Set the account's role that API Gateway writes logs with.
   * @default true; false where another stack has set it
   */
  readonly apiGatewayCloudWatchRole?: boolean;
}

/** In observe mode nothing has to be reached from a fence that is not there. */
const NO_EGRESS = { kind: 'endpoints', securityGroupIds: [], prefixListIds: [] } as const;

/** The account that emulators speak for; no real account has it. */
const NO_ACCOUNT = '000000000000';

/** As long as a batch of VMs may take; its queue waits six times that. */
const QUEUE_FUNCTION_TIMEOUT = Duration.minutes(1);

/** agent/config.ts */
const DEFAULT_REPORT_INTERVAL_SECONDS = 300;

/** Describe calls for 1,000 launches: 104 so, 834 in batches of ten (docs/bench.md). */
const ISOLATION_BATCH_WINDOW = Duration.seconds(1);

const SWEEP_EVERY = Duration.minutes(5);

/** Delays are of days. */
const RETIRE_EVERY = Duration.hours(1);

/** Lists hold for weeks; a revocation is to count the same day. */
const REFRESH_EVERY = Duration.hours(6);

/** A quota that was lowered is to count within the hour. */
const READ_QUOTAS_EVERY = Duration.hours(1);

/**
 * The pipeline that makes every VM earn its disk key: state, keys, bus, functions and the API that agents
 * call, in one account and Region.
 */
export class Casemate extends Construct {
  readonly keys: CustomerKeys;
  readonly state: StateTable;
  readonly headers: HeaderBucket;
  readonly bus: EventBus;
  readonly api: AgentApi;
  readonly mode: 'observe' | 'enforce';
  /** Of the VMs, the share that `enforce` counts for. */
  readonly enforceShare: number;
  /** What containing a VM does. */
  readonly containment: ContainmentSettings;
  /** Scheme and host that agents are configured with. */
  readonly apiOrigin: string;
  readonly agents: AgentAccess;
  readonly operators: OperatorAccess;
  readonly health: Health;
  /** Malformed input, each with its reason. */
  readonly rejected: sqs.Queue;
  readonly queues: Readonly<Record<QueueFunctionName, WorkQueue>>;
  readonly functions: Readonly<Record<FunctionName, PipelineFunction>>;

  constructor(scope: Construct, id: string, props: CasemateProps = {}) {
    super(scope, id);
    this.refuseWrongSettings(props);
    const policiesFolder = resolve(props.policiesFolder ?? POLICY_FOLDER);
    validatePolicies(policiesFolder);
    validateEvidencePolicies(policiesFolder);
    const shadowPoliciesFolder = props.shadowPoliciesFolder && resolve(props.shadowPoliciesFolder);
    if (shadowPoliciesFolder) validatePolicies(shadowPoliciesFolder);
    const probationEgress = props.probationEgress ?? NO_EGRESS;
    const profilesFile = resolve(props.profilesFile ?? PROFILES_FILE);
    const profiles = validateProfiles(profilesFile, copied(probationEgress));
    this.mode = props.mode ?? 'observe';

    this.keys = new CustomerKeys(this, 'Keys');
    this.keys.allowRulesToFillQueues();
    this.state = new StateTable(this, 'State', { keys: this.keys });
    this.headers = new HeaderBucket(this, 'Headers', { keys: this.keys });
    this.bus = new EventBus(this, 'Events');
    this.rejected = encryptedQueue(this, 'Rejected', this.keys, {});
    Validations.of(this.rejected).acknowledge({
      id: 'AwsSolutions-SQS3',
      reason:
        'The queue is where input ends that nothing can process; nothing consumes it, an alarm watches it.',
    });
    const logRetention = props.logRetention ?? logs.RetentionDays.ONE_MONTH;
    this.api = new AgentApi(this, 'Api', {
      logRetention,
      vpcEndpointIds: props.apiVpcEndpointIds ?? [],
      cloudWatchRole: props.apiGatewayCloudWatchRole ?? true,
    });
    this.apiOrigin = props.apiOrigin ?? this.api.defaultOrigin;

    const window = props.observeBatchWindow ?? DEFAULT_OBSERVE_BATCH_WINDOW;
    const queue = (name: string, batchWindow: Duration) =>
      new WorkQueue(this, `${name}Queue`, {
        keys: this.keys,
        functionTimeout: QUEUE_FUNCTION_TIMEOUT,
        batchWindow,
      });
    const none = Duration.seconds(0);
    this.queues = {
      'observe-vm': queue('ObserveVm', window),
      'issue-disk-keys': queue('IssueDiskKeys', none),
      'ingest-report': queue('IngestReport', none),
      'apply-isolation': queue('ApplyIsolation', ISOLATION_BATCH_WINDOW),
      'complete-launch': queue('CompleteLaunch', none),
    };

    const common = {
      architecture: props.architecture ?? lambda.Architecture.ARM_64,
      logRetention,
      logLevel: props.logLevel ?? 'INFO',
      policiesFolder,
    };
    const table = { TABLE_NAME: this.state.table.tableName };
    const onBus = { ...table, BUS_NAME: this.bus.bus.eventBusName };
    const fromQueue = { ...onBus, REJECTED_QUEUE_URL: this.rejected.queueUrl };
    const fromApi = {
      ...table,
      API_ORIGIN: this.apiOrigin,
      CALLER_IDENTITY: props.callerIdentity ?? 'iam',
    };
    const mode = { MODE: this.mode };
    const diskKey = { DISK_KEY_ID: this.keys.disks.keyArn };
    const apiFunction = { timeout: Duration.seconds(10), memorySize: 512 };
    this.enforceShare = props.enforceShare ?? 1;
    this.containment = {
      probationEgress: copied(probationEgress),
      cutTrackedFlows: props.cutTrackedFlows ?? false,
      detachElasticIps: props.detachElasticIps ?? false,
      standby: props.standby ?? false,
      denyCredentialsOfRoles: [...(props.denyCredentialsOfRoles ?? [])],
    };
    const enforcement = { ...mode, ENFORCE_SHARE: String(this.enforceShare) };
    const queueFunction = { timeout: QUEUE_FUNCTION_TIMEOUT, memorySize: 512 };
    this.functions = {
      'observe-vm': new PipelineFunction(this, 'ObserveVm', {
        ...common,
        ...queueFunction,
        name: 'observe-vm',
        description: 'looks at the VMs that events hint at',
        environment: fromQueue,
        decidesByPolicy: true,
      }),
      'issue-disk-keys': new PipelineFunction(this, 'IssueDiskKeys', {
        ...common,
        ...queueFunction,
        name: 'issue-disk-keys',
        description: 'makes sure that every disk in scope has a wrapped key',
        environment: { ...fromQueue, ...diskKey },
        decidesByPolicy: true,
      }),
      'ingest-report': new PipelineFunction(this, 'IngestReport', {
        ...common,
        ...queueFunction,
        name: 'ingest-report',
        description: 'verifies what agents report and decides the posture',
        environment: {
          ...fromQueue,
          API_ORIGIN: this.apiOrigin,
          REPORT_MAX_AGE_SECONDS: String((props.reportMaxAge ?? DEFAULT_REPORT_MAX_AGE).toSeconds()),
        },
        decidesByPolicy: true,
        ...(shadowPoliciesFolder ? { shadowPoliciesFolder } : {}),
      }),
      'apply-isolation': new PipelineFunction(this, 'ApplyIsolation', {
        ...common,
        ...queueFunction,
        name: 'apply-isolation',
        description: 'puts every network interface into the groups of its profile',
        environment: {
          ...fromQueue,
          ...enforcement,
          PROBATION_EGRESS: JSON.stringify(probationEgress),
          GUARDS: JSON.stringify({
            share: props.guardShare ?? DEFAULT_GUARD_SHARE,
            minimum: props.guardMinimum ?? DEFAULT_GUARD_MINIMUM,
            windowSeconds: (props.guardWindow ?? DEFAULT_GUARD_WINDOW).toSeconds(),
            protected: {
              instanceIds: props.protectedInstanceIds ?? [],
              autoScalingGroups: props.protectedAutoScalingGroups ?? [],
            },
          }),
          CUT_TRACKED_FLOWS: String(props.cutTrackedFlows ?? false),
          DETACH_ELASTIC_IPS: String(props.detachElasticIps ?? false),
          STANDBY: String(props.standby ?? false),
          REPLACEMENTS_PER_HOUR: String(props.replacementsPerHour ?? DEFAULT_REPLACEMENTS_PER_HOUR),
          OWN_QUEUE_URL: this.queues['apply-isolation'].queue.queueUrl,
        },
        decidesByPolicy: false,
        profilesFile,
      }),
      'complete-launch': new PipelineFunction(this, 'CompleteLaunch', {
        ...common,
        ...queueFunction,
        name: 'complete-launch',
        description: 'lets VMs that left probation into their Auto Scaling group',
        environment: { ...table, REJECTED_QUEUE_URL: this.rejected.queueUrl },
        decidesByPolicy: false,
      }),
      'issue-challenge': new PipelineFunction(this, 'IssueChallenge', {
        ...common,
        name: 'issue-challenge',
        description: 'gives an agent a fresh challenge',
        ...apiFunction,
        environment: fromApi,
        decidesByPolicy: false,
      }),
      'enrol-agent': new PipelineFunction(this, 'EnrolAgent', {
        ...common,
        name: 'enrol-agent',
        description: 'binds an agent key to a VM, once',
        ...apiFunction,
        environment: { ...fromApi, ...onBus, IDENTITY_ISSUERS: props.identityIssuers ?? 'aws' },
        decidesByPolicy: false,
      }),
      'list-disks': new PipelineFunction(this, 'ListDisks', {
        ...common,
        ...apiFunction,
        name: 'list-disks',
        description: 'tells an agent which volumes of its VM are covered',
        environment: { ...fromApi, ...mode, RECOVERY_KEY_ID: this.keys.recovery.keyArn },
        decidesByPolicy: false,
      }),
      'release-disk-key': new PipelineFunction(this, 'ReleaseDiskKey', {
        ...common,
        ...apiFunction,
        name: 'release-disk-key',
        description: 'gives a disk key to the one VM that it is for, if policy says so',
        environment: { ...fromApi, ...onBus, ...mode, ...diskKey },
        decidesByPolicy: true,
      }),
      'confirm-disk-key': new PipelineFunction(this, 'ConfirmDiskKey', {
        ...common,
        ...apiFunction,
        name: 'confirm-disk-key',
        description: 'makes a generation active that the agent opened the disk with',
        environment: { ...fromApi, ...onBus },
        decidesByPolicy: false,
      }),
      'rotate-disk-key': new PipelineFunction(this, 'RotateDiskKey', {
        ...common,
        ...apiFunction,
        name: 'rotate-disk-key',
        description: 'issues the next generation of a disk key',
        environment: { ...fromApi, ...onBus, ...diskKey },
        decidesByPolicy: true,
      }),
      'adopt-disk': new PipelineFunction(this, 'AdoptDisk', {
        ...common,
        ...apiFunction,
        name: 'adopt-disk',
        description: 'wraps the keys of a disk anew for the VM that it came to, if policy says so',
        environment: { ...fromApi, ...onBus, ...diskKey },
        decidesByPolicy: true,
      }),
      'store-header': new PipelineFunction(this, 'StoreHeader', {
        ...common,
        ...apiFunction,
        name: 'store-header',
        description: 'keeps backups of LUKS headers',
        environment: { ...fromApi, HEADER_BUCKET: this.headers.bucket.bucketName },
        decidesByPolicy: false,
      }),
      'retire-disk-keys': new PipelineFunction(this, 'RetireDiskKeys', {
        ...common,
        name: 'retire-disk-keys',
        description: 'retires keys after their delay, and never while a volume or snapshot is left',
        timeout: Duration.minutes(4),
        memorySize: 512,
        environment: { ...onBus, HEADER_BUCKET: this.headers.bucket.bucketName },
        decidesByPolicy: false,
      }),
      'activate-tpm': new PipelineFunction(this, 'ActivateTpm', {
        ...common,
        name: 'activate-tpm',
        description: 'binds an attestation key to the TPM that EC2 reports',
        timeout: Duration.seconds(10),
        memorySize: 512,
        environment: { ...fromApi, ...onBus },
        decidesByPolicy: false,
      }),
      'refresh-collateral': new PipelineFunction(this, 'RefreshCollateral', {
        ...common,
        name: 'refresh-collateral',
        description: "fetches AMD's CA certificates and revocation lists",
        timeout: Duration.minutes(1),
        memorySize: 256,
        environment: { ...table, AMD_KEY_SERVER: props.amdKeyServer ?? DEFAULT_AMD_KEY_SERVER },
        decidesByPolicy: false,
      }),
      'refresh-quotas': new PipelineFunction(this, 'RefreshQuotas', {
        ...common,
        name: 'refresh-quotas',
        description: 'reads how many groups an interface and how many rules a group takes',
        timeout: Duration.minutes(1),
        memorySize: 256,
        environment: table,
        decidesByPolicy: false,
      }),
      sweep: new PipelineFunction(this, 'Sweep', {
        ...common,
        name: 'sweep',
        description: 'looks at everything, and drives again what did not converge',
        timeout: Duration.minutes(4),
        memorySize: 1024,
        environment: {
          ...table,
          ...enforcement,
          OBSERVE_QUEUE_URL: this.queues['observe-vm'].queue.queueUrl,
          DENIES_CREDENTIALS: String((props.denyCredentialsOfRoles ?? []).length > 0),
        },
        decidesByPolicy: false,
        profilesFile,
      }),
    };

    this.wakeFunctions(window, props.observeMaxConcurrency ?? 2);
    this.grantPowers();
    new IsolationPowers(this, 'IsolationPowers', {
      role: this.functions['apply-isolation'].role,
      opensGroups:
        (props.cutTrackedFlows ?? false) ||
        Object.values(profiles.profiles).some((p) => p.ingress.length > 0 || p.sameTenant),
      movesElasticIps: props.detachElasticIps ?? false,
      standsBy: props.standby ?? false,
    });
    if (props.cutTrackedFlows) {
      grantSend(
        this.functions['apply-isolation'].role,
        'LookAgain',
        this.queues['apply-isolation'].queue,
        this.keys,
      );
    }
    const roleNames = props.denyCredentialsOfRoles ?? [];
    const denial =
      roleNames.length === 0
        ? undefined
        : new CredentialDenial(this, 'DenyCredentials', {
            defaults: { ...common, ...queueFunction },
            roleNames,
            keys: this.keys,
            state: this.state,
            bus: this.bus,
            rejected: this.rejected,
          });
    this.api.addRoute('challenges', this.functions['issue-challenge'].fn, challengeBody);
    this.api.addRoute('enrolments', this.functions['enrol-agent'].fn, enrolmentBody);
    this.api.addRoute('disks', this.functions['list-disks'].fn, diskListBody);
    this.api.addRoute('releases', this.functions['release-disk-key'].fn, releaseBody);
    this.api.addRoute('confirmations', this.functions['confirm-disk-key'].fn, confirmationBody);
    this.api.addRoute('rotations', this.functions['rotate-disk-key'].fn, rotationBody);
    this.api.addRoute('adoptions', this.functions['adopt-disk'].fn, adoptionBody);
    this.api.addRoute('headers', this.functions['store-header'].fn, headerBody);
    this.api.addRoute('tpm-activations', this.functions['activate-tpm'].fn, tpmActivationBody);
    this.agents = new AgentAccess(this, 'Agents', {
      api: this.api,
      bus: this.bus,
      roleNames: props.agentRoleNames ?? [],
    });
    this.operators = new OperatorAccess(this, 'Operators', { state: this.state, bus: this.bus });
    this.health = new Health(this, 'Health', {
      functions: [
        ...FUNCTION_NAMES.map((name): WatchedFunction => {
          const watched = { name, fn: this.functions[name].fn };
          return isQueueFunction(name) ? { ...watched, queue: this.queues[name] } : watched;
        }),
        ...(denial ? [denial.watched] : []),
      ],
      rejected: this.rejected,
      api: this.api.api,
      ...(props.alarmTopic ? { topic: props.alarmTopic } : {}),
    });
  }

  /** @throws SettingsError */
  private refuseWrongSettings(props: CasemateProps): void {
    const faults = settingFaults(props).map(({ setting, message }) => `${setting} ${message}`);
    const { account, region } = Stack.of(this);
    if (props.callerIdentity === 'embedded' && !Token.isUnresolved(account) && account !== NO_ACCOUNT) {
      faults.push(
        `callerIdentity "embedded" believes callers that nobody authorised, and ${account} is a real account: use "iam"`,
      );
    }
    // The table's customer key is a setting of its replica, which has to be named.
    if (Token.isUnresolved(region))
      faults.push('env.region is missing on the stack: say which Region it is for');
    if (faults.length > 0) throw new SettingsError(`${this.node.path}:\n  ${faults.join('\n  ')}`);
    const maxAge = props.reportMaxAge;
    if (maxAge && !maxAge.isUnresolved() && maxAge.toSeconds() < 2 * DEFAULT_REPORT_INTERVAL_SECONDS) {
      Annotations.of(this).addWarningV2(
        'casemate:report-max-age',
        `reportMaxAge is ${maxAge.toSeconds()} s and agents report every ${DEFAULT_REPORT_INTERVAL_SECONDS} s unless configured: one report that is late would put VMs back into probation`,
      );
    }
  }

  private wakeFunctions(observeWindow: Duration, observeMaxConcurrency: number): void {
    const none = Duration.seconds(0);
    // As many VMs as one DescribeInstances filter takes. The others make calls for each message, and have
    // to end within their timeout.
    const batches = {
      'observe-vm': { size: 200, window: observeWindow, maxConcurrency: observeMaxConcurrency },
      'issue-disk-keys': { size: 10, window: none, maxConcurrency: 10 },
      'ingest-report': { size: 10, window: none, maxConcurrency: 10 },
      // EC2 throttles by account, Region and API: a second's wait for a batch costs an eighth of the calls.
      'complete-launch': { size: 10, window: none, maxConcurrency: 2 },
      'apply-isolation': { size: 100, window: ISOLATION_BATCH_WINDOW, maxConcurrency: 2 },
    };
    for (const name of QUEUE_FUNCTION_NAMES) {
      const { fn, role } = this.functions[name];
      // A batch size above 10 demands a window of at least one second.
      const batch = batches[name];
      const size = batch.window.toSeconds() === 0 ? Math.min(batch.size, 10) : batch.size;
      this.queues[name].drive(fn, role, { ...batch, size });
    }

    new Ec2Events(this, 'Ec2Events', { target: this.queues['observe-vm'] });
    const onBus = (name: string, target: WorkQueue, source: string, detailType: string[]) =>
      new events.Rule(this, name, {
        eventBus: this.bus.bus,
        description: `Casemate: ${detailType.join(', ')} of ${source}`,
        eventPattern: { source: [source], detailType },
        targets: [target.targetOf()],
      });
    onBus('DisksOfChangedVms', this.queues['issue-disk-keys'], OWN_SOURCE, ['VM Changed']);
    onBus('Reports', this.queues['ingest-report'], AGENT_SOURCE, ['Capability Report']);
    onBus('PosturesOfChangedVms', this.queues['ingest-report'], OWN_SOURCE, ['VM Changed']);
    onBus('Isolation', this.queues['apply-isolation'], OWN_SOURCE, [
      'VM Changed',
      'Posture Changed',
      'Operator Decided',
    ]);
    onBus('Launches', this.queues['complete-launch'], OWN_SOURCE, ['Isolation Changed']);
    new events.Rule(this, 'WaitingLaunches', {
      description: 'Casemate: a VM has begun to wait in its launch hook',
      eventPattern: {
        source: ['aws.autoscaling'],
        detailType: ['EC2 Instance-launch Lifecycle Action'],
        detail: { LifecycleHookName: [LAUNCH_HOOK] },
      },
      targets: [this.queues['complete-launch'].targetOf()],
    });
    new events.Rule(this, 'SweepSchedule', {
      description: 'Casemate: look at everything',
      schedule: events.Schedule.rate(SWEEP_EVERY),
      // The next sweep is the retry.
      targets: [new targets.LambdaFunction(this.functions.sweep.fn, { retryAttempts: 0 })],
    });
    new events.Rule(this, 'CollateralSchedule', {
      description: "Casemate: fetch AMD's CA certificates and revocation lists",
      schedule: events.Schedule.rate(REFRESH_EVERY),
      targets: [new targets.LambdaFunction(this.functions['refresh-collateral'].fn, { retryAttempts: 2 })],
    });
    new events.Rule(this, 'QuotaSchedule', {
      description: 'Casemate: read the quotas of security groups',
      schedule: events.Schedule.rate(READ_QUOTAS_EVERY),
      targets: [new targets.LambdaFunction(this.functions['refresh-quotas'].fn, { retryAttempts: 2 })],
    });
    new events.Rule(this, 'RetirementSchedule', {
      description: 'Casemate: begin and complete the retirement of keys',
      schedule: events.Schedule.rate(RETIRE_EVERY),
      targets: [new targets.LambdaFunction(this.functions['retire-disk-keys'].fn, { retryAttempts: 0 })],
    });
  }

  /** docs/architecture.md, "Functions": one power each. */
  private grantPowers(): void {
    const { 'observe-vm': observe, 'issue-disk-keys': issue, 'ingest-report': ingest } = this.functions;
    const {
      'apply-isolation': isolate,
      'complete-launch': launch,
      'issue-challenge': challenge,
      'enrol-agent': enrol,
      'activate-tpm': activate,
      'refresh-collateral': refresh,
      'refresh-quotas': quotas,
      sweep,
    } = this.functions;
    const {
      'list-disks': list,
      'release-disk-key': release,
      'confirm-disk-key': confirm,
      'rotate-disk-key': rotate,
      'adopt-disk': adopt,
      'store-header': store,
      'retire-disk-keys': retire,
    } = this.functions;

    this.state.grant(observe.role, { reads: ['vm', 'operator'], puts: ['vm'] });
    this.state.grant(issue.role, { reads: ['vm', 'disk'], puts: ['disk'] });
    this.state.grant(ingest.role, {
      reads: ['vm', 'enrol', 'tpm', 'posture', 'nonce', 'collateral'],
      puts: ['posture', 'collateral'],
      updates: ['nonce'],
    });
    this.state.grant(isolate.role, {
      reads: ['vm', 'posture', 'isolation', 'operator', 'guard', 'quota'],
      puts: ['isolation', 'guard'],
    });
    this.state.grant(launch.role, { reads: ['vm', 'isolation'], puts: [] });
    grantContinueLaunch(launch);
    this.state.grant(challenge.role, { reads: [], puts: ['nonce'] });
    this.state.grant(enrol.role, {
      reads: ['vm', 'disk', 'enrol', 'nonce', 'operator'],
      puts: ['enrol'],
      updates: ['nonce'],
    });
    const signed = { reads: ['vm', 'disk', 'enrol', 'nonce'], updates: ['nonce'] } as const;
    this.state.grant(list.role, { ...signed, reads: [...signed.reads, 'release', 'operator'], puts: [] });
    this.state.grant(release.role, {
      ...signed,
      reads: [...signed.reads, 'posture', 'isolation', 'operator', 'release'],
      puts: ['release'],
    });
    this.state.grant(confirm.role, { ...signed, puts: ['disk'] });
    this.state.grant(rotate.role, { ...signed, puts: ['disk'] });
    this.state.grant(adopt.role, { ...signed, reads: [...signed.reads, 'operator'], puts: ['disk'] });
    this.state.grant(store.role, { ...signed, puts: [] });
    this.state.grant(activate.role, {
      reads: ['vm', 'enrol', 'tpm', 'nonce'],
      puts: ['tpm', 'nonce'],
      updates: ['nonce'],
    });
    this.state.grant(refresh.role, { reads: ['collateral'], puts: ['collateral'] });
    this.state.grant(quotas.role, { reads: ['quota'], puts: ['quota'] });
    this.state.grantScan(sweep.role);
    this.state.grantScan(retire.role, ['disk']);

    this.bus.grantAnnounce(observe.role, ['VM Changed']);
    this.bus.grantAnnounce(issue.role, ['Disk Key Issued']);
    this.bus.grantAnnounce(ingest.role, ['Posture Changed', 'Report Refused']);
    this.bus.grantAnnounce(isolate.role, ['Isolation Changed']);
    this.bus.grantAnnounce(enrol.role, ['Enrolment Refused']);
    this.bus.grantAnnounce(release.role, ['Key Release Decided']);
    this.bus.grantAnnounce(confirm.role, ['Disk Key Retired']);
    this.bus.grantAnnounce(rotate.role, ['Disk Key Issued']);
    this.bus.grantAnnounce(adopt.role, ['Disk Key Issued']);
    this.bus.grantAnnounce(retire.role, ['Disk Key Retired']);
    this.bus.grantAnnounce(activate.role, ['Enrolment Refused']);

    this.keys.grantWrap(issue.role);
    this.keys.grantWrap(rotate.role);
    this.keys.grantUnwrap(release.role);
    this.keys.grantRewrap(adopt.role);
    this.keys.grantRecoveryPublicKey(list.role);
    this.headers.grantStore(store.role);
    this.headers.grantShred(retire.role);
    grantDescribe(retire, ['ec2:DescribeSnapshots', 'ec2:DescribeVolumes']);
    grantDescribe(adopt, ['ec2:DescribeSnapshots']);
    grantDescribe(observe, ['ec2:DescribeInstances', 'ec2:DescribeNetworkInterfaces', 'ec2:DescribeVolumes']);
    grantDescribe(sweep, ['ec2:DescribeInstances']);
    grantEndorsementKeys(activate);
    grantReadQuotas(quotas);

    for (const name of QUEUE_FUNCTION_NAMES) {
      grantSend(this.functions[name].role, 'RejectMalformedInput', this.rejected, this.keys);
    }
    grantSend(sweep.role, 'HintAtVms', this.queues['observe-vm'].queue, this.keys);
  }
}

const QUEUE_FUNCTION_NAMES = [
  'observe-vm',
  'issue-disk-keys',
  'ingest-report',
  'apply-isolation',
  'complete-launch',
] as const;
type QueueFunctionName = (typeof QUEUE_FUNCTION_NAMES)[number];
const FUNCTION_NAMES = [
  ...QUEUE_FUNCTION_NAMES,
  'issue-challenge',
  'enrol-agent',
  'list-disks',
  'release-disk-key',
  'confirm-disk-key',
  'rotate-disk-key',
  'adopt-disk',
  'store-header',
  'retire-disk-keys',
  'activate-tpm',
  'refresh-collateral',
  'refresh-quotas',
  'sweep',
] as const;
type FunctionName = (typeof FUNCTION_NAMES)[number];

function isQueueFunction(name: FunctionName): name is QueueFunctionName {
  return (QUEUE_FUNCTION_NAMES as readonly string[]).includes(name);
}

function copied(egress: ProbationEgress) {
  if (egress.kind === 'https-anywhere') return { ...egress };
  return {
    kind: egress.kind,
    securityGroupIds: [...egress.securityGroupIds],
    prefixListIds: [...egress.prefixListIds],
  };
}

/** Of any instance of this account and Region: which VM asks is known only from its request. */
function grantEndorsementKeys(fn: PipelineFunction): void {
  const instances = Stack.of(fn).formatArn({ service: 'ec2', resource: 'instance', resourceName: '*' });
  fn.role.addToPolicy(
    new iam.PolicyStatement({
      sid: 'ReadEndorsementKeys',
      actions: ['ec2:GetInstanceTpmEkPub'],
      resources: [instances],
    }),
  );
  Validations.of(fn.role).acknowledge({
    id: `AwsSolutions-IAM5[Resource::${asFindingsName(fn, instances)}]`,
    reason: 'VMs come and go; the key that is read is public.',
  });
}

function grantReadQuotas(fn: PipelineFunction): void {
  fn.role.addToPolicy(
    new iam.PolicyStatement({
      sid: 'ReadQuotas',
      actions: ['servicequotas:GetAWSDefaultServiceQuota', 'servicequotas:GetServiceQuota'],
      resources: ['*'],
      conditions: { StringEquals: { 'aws:RequestedRegion': Aws.REGION } },
    }),
  );
  Validations.of(fn.role).acknowledge({
    id: 'AwsSolutions-IAM5[Resource::*]',
    reason: 'Reading a quota has no resource to limit it to, and neither have the X-Ray calls.',
  });
}

function grantContinueLaunch(fn: PipelineFunction): void {
  const groups = Stack.of(fn).formatArn({
    service: 'autoscaling',
    resource: 'autoScalingGroup:*:autoScalingGroupName',
    resourceName: '*',
  });
  fn.role.addToPolicy(
    new iam.PolicyStatement({
      sid: 'ContinueLaunches',
      actions: ['autoscaling:CompleteLifecycleAction'],
      resources: [groups],
    }),
  );
  Validations.of(fn.role).acknowledge({
    id: `AwsSolutions-IAM5[Resource::${asFindingsName(fn, groups)}]`,
    reason: 'Any Auto Scaling group may have the launch hook; the call names the hook.',
  });
}

function grantDescribe(fn: PipelineFunction, actions: string[]): void {
  fn.role.addToPolicy(
    new iam.PolicyStatement({
      sid: 'LookAtVms',
      actions,
      resources: ['*'],
      conditions: { StringEquals: { 'aws:RequestedRegion': Aws.REGION } },
    }),
  );
  Validations.of(fn.role).acknowledge({
    id: 'AwsSolutions-IAM5[Resource::*]',
    reason: 'Describe calls of EC2 and the X-Ray calls have no resource to limit them to.',
  });
}
