import type { Reason } from './reasons.ts';

/**
 * How the API knows its caller. `iam`: API Gateway authenticated the request by SigV4 and says who it was;
 * required on AWS. `embedded`: the embedded cloud authenticates nobody, so the caller is whom the request
 * names, and everything rests on the identity document and the agent's key.
 */
export type CallerIdentity = 'iam' | 'embedded';

/** https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-mapping-template-reference.html */
export interface RequestIdentity {
  readonly userArn?: string | null | undefined;
  readonly accountId?: string | null | undefined;
}

/**
 * An instance profile's session is named by EC2 after the instance. That whoever may assume the role can
 * choose the name too is why the API's resource policy also wants `ec2:SourceInstanceARN`.
 */
const INSTANCE_SESSION =
  /^arn:aws[a-z-]*:sts::(\d{12}):assumed-role\/[^/]+\/(i-[0-9a-f]{8}(?:[0-9a-f]{9})?)$/;

/** Undefined when the caller may act for this instance. */
export function callerRefusal(
  setting: CallerIdentity,
  identity: RequestIdentity,
  instanceId: string,
): Reason | undefined {
  if (setting === 'embedded') return undefined;
  if (!identity.userArn) return 'CALLER_UNAUTHENTICATED';
  const session = INSTANCE_SESSION.exec(identity.userArn);
  return session?.[2] === instanceId ? undefined : 'CALLER_FOREIGN';
}
