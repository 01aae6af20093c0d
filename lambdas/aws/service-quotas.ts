import {
  GetAWSDefaultServiceQuotaCommand,
  GetServiceQuotaCommand,
  NoSuchResourceException,
  type ServiceQuota,
  type ServiceQuotasClient,
} from '@aws-sdk/client-service-quotas';
import * as z from 'zod';

/** "Security groups per network interface" and "Inbound or outbound rules per security group", of the service `vpc`. */
export const GROUPS_PER_INTERFACE = 'L-2AFB9258';
export const RULES_PER_GROUP = 'L-0EA8095F';

/** Service Quotas answered, and not with a number that can be one of these quotas. Retryable. */
export class QuotaError extends Error {
  override readonly name = 'QuotaError';
}

const quotaValue = z.number().int().min(1);

/**
 * What is applied of a quota of Amazon VPC in this account and Region.
 *
 * @throws QuotaError
 */
export async function vpcQuota(client: ServiceQuotasClient, QuotaCode: string): Promise<number> {
  const quota = await appliedOrDefault(client, QuotaCode);
  if (quota?.ErrorReason) {
    throw new QuotaError(`${QuotaCode}: ${quota.ErrorReason.ErrorCode} ${quota.ErrorReason.ErrorMessage}`);
  }
  const value = quotaValue.safeParse(quota?.Value);
  if (!value.success) throw new QuotaError(`${QuotaCode}: ${z.prettifyError(value.error)}`);
  return value.data;
}

/**
 * Where nobody ever applied a value, GetServiceQuota knows none, and AWS's default is in force.
 * https://docs.aws.amazon.com/servicequotas/2019-06-24/apireference/API_GetServiceQuota.html
 */
async function appliedOrDefault(
  client: ServiceQuotasClient,
  QuotaCode: string,
): Promise<ServiceQuota | undefined> {
  const asked = { ServiceCode: 'vpc', QuotaCode };
  try {
    return (await client.send(new GetServiceQuotaCommand(asked))).Quota;
  } catch (error) {
    if (!(error instanceof NoSuchResourceException)) throw error;
    return (await client.send(new GetAWSDefaultServiceQuotaCommand(asked))).Quota;
  }
}
