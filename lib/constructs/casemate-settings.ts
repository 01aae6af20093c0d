import { X509Certificate } from 'node:crypto';
import { Duration } from 'aws-cdk-lib';

/** What VMs in probation may reach over HTTPS. */
export type ProbationEgress =
  /** Interface endpoints, by the security groups in front of them, and gateway endpoints, by prefix list. */
  | {
      readonly kind: 'endpoints';
      readonly securityGroupIds: readonly string[];
      readonly prefixListIds: readonly string[];
    }
  /** Port 443 of everything: a declared exception for VPCs without endpoints. */
  | { readonly kind: 'https-anywhere' };

export type Mode = 'observe' | 'enforce';
export type CallerIdentity = 'iam' | 'embedded';

export interface CasemateSettings {
  /**
   * `observe` decides, records and announces and changes no network interface; `enforce` does.
   * @default 'observe'
   */
  readonly mode?: Mode;
  /**
   * How long events of VMs are gathered before one call describes them all.
   * @default 5 seconds
   */
  readonly observeBatchWindow?: Duration;
  /**
   * How many batches of VMs are looked at together.
   * @default 2
   */
  readonly observeMaxConcurrency?: number;
  /**
   * Who vouches for the caller of the API: `iam`, or `embedded` on a machine without AWS.
   * @default 'iam'
   */
  readonly callerIdentity?: CallerIdentity;
  /**
   * Scheme and host that agents call, and that everything they sign is bound to. Set it to a custom
   * domain's (with a base path `v1` mapped to the stage); agents must be configured with the same.
   * @default - API Gateway's own domain
   */
  readonly apiOrigin?: string;
  /**
   * Certificate, PEM, of the one whose identity documents are believed instead of AWS's.
   * Only with `callerIdentity: 'embedded'`.
   * @default - AWS's own regional certificates
   */
  readonly identityIssuers?: string;
  /**
   * What VMs in probation may reach.
   * @default - required in `enforce`; in `observe` nothing, as no group is put on an interface
   */
  readonly probationEgress?: ProbationEgress;
  /**
   * After this a capability report no longer holds a posture up.
   * @default 15 minutes
   */
  readonly reportMaxAge?: Duration;
  /** Names of the roles that VMs have already and that the agent's policy is attached to. */
  readonly agentRoleNames?: readonly string[];
  /**
   * Folder of policies, with evidence.json and ca/, in place of policies/ of this package.
   * @default - that one
   */
  readonly policiesFolder?: string;
  /**
   * Folder of policies, like policies/ of this package, that are asked beside those of the deployment whenever a
   * posture is decided. They decide nothing; where they would say otherwise it is logged, counted and kept.
   * @default - none
   */
  readonly shadowPoliciesFolder?: string;
  /**
   * File of isolation profiles, like policies/profiles.json of this package.
   * @default - that one
   */
  readonly profilesFile?: string;
  /**
   * Of a VPC, an Auto Scaling group or a tenant, the share of VMs that policy may contain within `guardWindow`.
   * More wait where they are, and an alarm rings. Operators and refused keys are never held back.
   * @default 0.25
   */
  readonly guardShare?: number;
  /**
   * So many VMs may be contained within `guardWindow`, however small the group.
   * @default 5
   */
  readonly guardMinimum?: number;
  /** @default 1 hour */
  readonly guardWindow?: Duration;
  /** VMs that policy never contains. An operator still can, and their keys are refused all the same. */
  readonly protectedInstanceIds?: readonly string[];
  /** Auto Scaling groups whose VMs policy never contains. */
  readonly protectedAutoScalingGroups?: readonly string[];
  /**
   * In `enforce`, the share of VMs that it counts for; the others are as in `observe`. Which ones is decided by
   * their ids, and a larger share holds every VM of a smaller one.
   * @default 1
   */
  readonly enforceShare?: number;
  /**
   * In quarantine, cut the flows that EC2 tracks: an interface without a public address is opened for a second
   * and closed again. Without it, established connections can live on until they end.
   * @default false
   */
  readonly cutTrackedFlows?: boolean;
  /**
   * In quarantine, take Elastic IP addresses from the VM, and give them back afterwards.
   * @default false
   */
  readonly detachElasticIps?: boolean;
  /**
   * Names of the roles of instance profiles in which everything is denied to the credentials of VMs in quarantine,
   * by an inline policy that is taken away again afterwards. No other role is ever changed.
   * @default none
   */
  readonly denyCredentialsOfRoles?: readonly string[];
  /**
   * Put VMs of Auto Scaling groups into standby before they are contained, so that their group does not end them.
   * Standby that fails never keeps a VM from being contained.
   * @default false
   */
  readonly standby?: boolean;
  /**
   * In one Auto Scaling group, so many contained VMs are replaced within an hour; more are contained without, and
   * an alarm rings.
   * @default 3
   */
  readonly replacementsPerHour?: number;
  /**
   * Where AMD's CA certificates and revocation lists are fetched every six hours: the origin of its key
   * distribution service, or of a mirror. What it says is verified against AMD's roots.
   * @default 'https://kdsintf.amd.com'
   */
  readonly amdKeyServer?: string;
  /** `execute-api` interface endpoints: the API is private and reachable through these alone. */
  readonly apiVpcEndpointIds?: readonly string[];
}

/** Casemate cannot be deployed like this. The message names every wrong setting, and what to do about it. */
export class SettingsError extends Error {
  override readonly name = 'SettingsError';
}

/** A fault of the settings: which one, what is wrong and what to do. */
export interface SettingFault {
  readonly setting: keyof CasemateSettings;
  readonly message: string;
}

/** Lambda's environment holds 4 kB in all. */
const PEM_MAX = 3072;

/** Everything that is wrong with the settings; nothing when they can be deployed. */
export function settingFaults(settings: CasemateSettings): readonly SettingFault[] {
  const faults: SettingFault[] = [];
  const fault = (setting: keyof CasemateSettings, message: string) => faults.push({ setting, message });
  const { mode = 'observe', callerIdentity = 'iam' } = settings;

  if (mode !== 'observe' && mode !== 'enforce') {
    fault('mode', `is "${mode}": use "observe", or "enforce" once the decisions in observe are right`);
  }
  if (callerIdentity !== 'iam' && callerIdentity !== 'embedded') {
    fault('callerIdentity', `is "${callerIdentity}": use "iam"; "embedded" is for a machine without AWS`);
  }
  durationFault(
    'observeBatchWindow',
    settings.observeBatchWindow,
    0,
    300,
    'SQS gathers for at most 5 minutes',
  );
  durationFault('guardWindow', settings.guardWindow, 60, 86_400, 'a minute at least, a day at most');
  shareFault('guardShare', settings.guardShare);
  shareFault('enforceShare', settings.enforceShare);
  const minimum = settings.guardMinimum;
  if (minimum !== undefined && !(Number.isInteger(minimum) && minimum >= 1)) {
    fault('guardMinimum', `is ${minimum}: use a whole number from 1 on`);
  }
  const replacements = settings.replacementsPerHour;
  if (replacements !== undefined && !(Number.isInteger(replacements) && replacements >= 1)) {
    fault('replacementsPerHour', `is ${replacements}: use a whole number from 1 on`);
  }
  if (settings.enforceShare !== undefined && mode === 'observe') {
    fault('enforceShare', 'enforces nothing in "observe": set mode to "enforce", too');
  }
  durationFault('reportMaxAge', settings.reportMaxAge, 60, 86_400, 'a report a day old proves nothing');
  const concurrency = settings.observeMaxConcurrency;
  if (
    concurrency !== undefined &&
    !(Number.isInteger(concurrency) && concurrency >= 2 && concurrency <= 1000)
  ) {
    fault('observeMaxConcurrency', `is ${concurrency}: use a whole number from 2 to 1000, which SQS allows`);
  }
  originFault();
  keyServerFault();
  issuersFault();
  egressFault();
  listFault(
    'agentRoleNames',
    settings.agentRoleNames,
    /^[\w+=,.@-]{1,64}$/,
    'the name of a role, not its ARN',
  );
  listFault(
    'denyCredentialsOfRoles',
    settings.denyCredentialsOfRoles,
    /^[\w+=,.@-]{1,64}$/,
    'the name of a role without a path, not its ARN',
  );
  listFault(
    'apiVpcEndpointIds',
    settings.apiVpcEndpointIds,
    /^vpce-[0-9a-f]{8,17}$/,
    'like vpce-0123456789abcdef0',
  );
  listFault(
    'protectedInstanceIds',
    settings.protectedInstanceIds,
    /^i-[0-9a-f]{8}([0-9a-f]{9})?$/,
    'like i-0123456789abcdef0',
  );
  if ((settings.apiVpcEndpointIds?.length ?? 0) > 0 && callerIdentity === 'embedded') {
    fault('apiVpcEndpointIds', 'there are no VPC endpoints without AWS: leave it out with "embedded"');
  }
  return faults;

  function durationFault(
    setting: 'observeBatchWindow' | 'reportMaxAge' | 'guardWindow',
    value: Duration | undefined,
    min: number,
    max: number,
    why: string,
  ): void {
    if (value === undefined || value.isUnresolved()) return;
    const seconds = value.toSeconds({ integral: false });
    if (!Number.isInteger(seconds) || seconds < min || seconds > max) {
      fault(setting, `is ${seconds} s: use whole seconds from ${min} to ${max}; ${why}`);
    }
  }

  function shareFault(setting: 'guardShare' | 'enforceShare', value: number | undefined): void {
    if (value !== undefined && !(value > 0 && value <= 1)) {
      fault(setting, `is ${value}: use a number above 0, up to 1`);
    }
  }

  function originFault(): void {
    const origin = settings.apiOrigin;
    if (origin === undefined) return;
    const url = URL.parse(origin);
    if (!url || url.origin !== origin) {
      fault('apiOrigin', `is "${origin}": use scheme and host alone, like https://casemate.example.com`);
    } else if (url.protocol !== 'https:' && callerIdentity !== 'embedded') {
      fault(
        'apiOrigin',
        `is "${origin}": it must be https, agents prove themselves to the holder of that name`,
      );
    }
  }

  function keyServerFault(): void {
    const server = settings.amdKeyServer;
    if (server === undefined) return;
    const url = URL.parse(server);
    if (!url || url.origin !== server || url.protocol !== 'https:') {
      fault('amdKeyServer', `is "${server}": use https and a host alone, like https://kdsintf.amd.com`);
    }
  }

  function issuersFault(): void {
    const pem = settings.identityIssuers;
    if (pem === undefined) return;
    if (callerIdentity !== 'embedded') {
      fault(
        'identityIssuers',
        'another issuer than AWS could vouch for any VM: leave it out, or use callerIdentity "embedded" on a machine without AWS',
      );
      return;
    }
    if (!/^-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\s*$/.test(pem) || !isCertificate(pem)) {
      fault(
        'identityIssuers',
        'is not one PEM certificate: give the text from -----BEGIN CERTIFICATE----- on',
      );
    } else if (Buffer.byteLength(pem) > PEM_MAX) {
      fault(
        'identityIssuers',
        `is longer than ${PEM_MAX} bytes, which a function's environment does not hold`,
      );
    }
  }

  function egressFault(): void {
    const egress = settings.probationEgress;
    if (egress === undefined) {
      if (mode === 'enforce') {
        fault(
          'probationEgress',
          'is missing: VMs in probation could not reach the API and never leave it. Name the endpoints, or accept "https-anywhere"',
        );
      }
      return;
    }
    if (egress.kind === 'https-anywhere') return;
    if (egress.kind !== 'endpoints') {
      fault('probationEgress', 'has no such kind: use "endpoints" or "https-anywhere"');
      return;
    }
    const groups = egress.securityGroupIds ?? [];
    const lists = egress.prefixListIds ?? [];
    const wrong = [
      ...groups.filter((id) => !/^sg-[0-9a-f]{8,17}$/.test(id)),
      ...lists.filter((id) => !/^pl-[0-9a-f]{8,17}$/.test(id)),
    ];
    if (wrong.length > 0) {
      fault('probationEgress', `${wrong.join(', ')}: use sg-… in securityGroupIds and pl-… in prefixListIds`);
    } else if (groups.length === 0 && mode === 'enforce') {
      fault(
        'probationEgress',
        'names no security group of an interface endpoint: VMs in probation could not reach the API',
      );
    }
  }

  function listFault(
    setting: 'agentRoleNames' | 'apiVpcEndpointIds' | 'denyCredentialsOfRoles' | 'protectedInstanceIds',
    values: readonly string[] | undefined,
    pattern: RegExp,
    what: string,
  ): void {
    const wrong = (values ?? []).filter((value) => !pattern.test(value));
    if (wrong.length > 0) fault(setting, `${wrong.map((w) => `"${w}"`).join(', ')}: each must be ${what}`);
  }
}

function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).subject !== undefined;
  } catch {
    return false;
  }
}

export const DEFAULT_OBSERVE_BATCH_WINDOW = Duration.seconds(5);
export const DEFAULT_AMD_KEY_SERVER = 'https://kdsintf.amd.com';
export const DEFAULT_REPORT_MAX_AGE = Duration.minutes(15);
export const DEFAULT_REPLACEMENTS_PER_HOUR = 3;
export const DEFAULT_GUARD_SHARE = 0.25;
export const DEFAULT_GUARD_MINIMUM = 5;
export const DEFAULT_GUARD_WINDOW = Duration.hours(1);
