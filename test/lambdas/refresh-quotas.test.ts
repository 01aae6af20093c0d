import { Logger } from '@aws-lambda-powertools/logger';
import {
  AccessDeniedException,
  GetAWSDefaultServiceQuotaCommand,
  GetServiceQuotaCommand,
  NoSuchResourceException,
  type ServiceQuota,
  ServiceQuotasClient,
  TooManyRequestsException,
} from '@aws-sdk/client-service-quotas';
import { beforeEach, describe, expect, test } from '@jest/globals';
import { QuotaError } from '../../lambdas/aws/service-quotas.ts';
import { createHandler } from '../../lambdas/refresh-quotas/handler.ts';
import { limitsInForce, QUOTA_PK, QUOTA_SECONDS } from '../../lib/domain/quotas.ts';
import { fakeDynamoDb } from '../world/dynamodb.ts';
import { countEffects } from '../world/effects.ts';
import { later, NOW } from '../world/items.ts';
import { CONTEXT } from '../world/recorded.ts';

const GROUPS = 'L-2AFB9258';
const RULES = 'L-0EA8095F';
const fault = { message: '', $metadata: {} };

let dynamodb: ReturnType<typeof fakeDynamoDb>;
/** What Service Quotas answers, or throws, by quota code: applied in the account, and AWS's defaults. */
let applied: Record<string, ServiceQuota | Error>;
let defaults: Record<string, ServiceQuota | Error>;
let asked: string[];

beforeEach(() => {
  dynamodb = fakeDynamoDb(countEffects());
  applied = { [GROUPS]: { Value: 8 }, [RULES]: { Value: 100 } };
  defaults = { [GROUPS]: { Value: 5 }, [RULES]: { Value: 60 } };
  asked = [];
});

function serviceQuotas(): ServiceQuotasClient {
  const client = Object.create(ServiceQuotasClient.prototype) as ServiceQuotasClient;
  client.send = (async (command: unknown) => {
    const isDefault = command instanceof GetAWSDefaultServiceQuotaCommand;
    if (!isDefault && !(command instanceof GetServiceQuotaCommand)) throw new Error('not known here');
    const { ServiceCode, QuotaCode = '' } = command.input;
    asked.push(`${ServiceCode} ${QuotaCode}${isDefault ? ' default' : ''}`);
    const answer = (isDefault ? defaults : applied)[QuotaCode];
    if (answer === undefined) throw new NoSuchResourceException(fault);
    if (answer instanceof Error) throw answer;
    return { Quota: answer };
  }) as typeof client.send;
  return client;
}

const refresh = (at = NOW) =>
  createHandler({
    quotas: serviceQuotas(),
    table: { client: dynamodb.client, name: 'state' },
    logger: new Logger({ logLevel: 'SILENT' }),
    now: () => at,
  })({}, CONTEXT);
const row = () => dynamodb.rows.get(QUOTA_PK);

describe('quotas are read', () => {
  test('as they are applied in the account, and kept for a day', async () => {
    await expect(refresh()).resolves.toEqual({ groupsPerInterface: 8, rulesPerGroup: 100 });
    expect(asked.sort()).toEqual([`vpc ${RULES}`, `vpc ${GROUPS}`]);
    expect(row()).toEqual({
      pk: QUOTA_PK,
      groupsPerInterface: 8,
      rulesPerGroup: 100,
      expiresAt: NOW.getTime() / 1000 + QUOTA_SECONDS,
      version: 1,
    });
  });

  test('of AWS where the account has none applied', async () => {
    delete applied[GROUPS];
    await expect(refresh()).resolves.toEqual({ groupsPerInterface: 5, rulesPerGroup: 100 });
    expect(asked).toContain(`vpc ${GROUPS} default`);
  });

  test('again, and what shrank counts from then on', async () => {
    await refresh();
    applied[GROUPS] = { Value: 6 };
    await refresh(later(3600));
    expect(row()).toMatchObject({ groupsPerInterface: 6, version: 2 });
    expect(limitsInForce({}, row(), later(3600)).groupsPerInterface).toBe(6);
    expect(limitsInForce({}, row(), later(QUOTA_SECONDS)).groupsPerInterface).toBe(6);
  });

  test('over an item that is not what it should be', async () => {
    dynamodb.rows.set(QUOTA_PK, { pk: QUOTA_PK, version: 4, groupsPerInterface: 'many' });
    await refresh();
    expect(row()).toMatchObject({ groupsPerInterface: 8, rulesPerGroup: 100, version: 5 });
  });
});

describe('what was read before stays, and the function fails, when Service Quotas', () => {
  test.each<[string, ServiceQuota | Error, new (...rest: never[]) => Error]>([
    ['refuses the call', new AccessDeniedException(fault), AccessDeniedException],
    ['is throttled', new TooManyRequestsException(fault), TooManyRequestsException],
    ['says nothing', {}, QuotaError],
    ['says none', { Value: 0 }, QuotaError],
    ['says half a group', { Value: 7.5 }, QuotaError],
    ['says what is no number', { Value: Number.NaN }, QuotaError],
    ['says no end', { Value: Number.POSITIVE_INFINITY }, QuotaError],
    [
      'says a number and that it could not look',
      { Value: 16, ErrorReason: { ErrorCode: 'DEPENDENCY_THROTTLING_ERROR' } },
      QuotaError,
    ],
  ])('%s', async (_, answer, kind) => {
    await refresh();
    const before = row();
    applied[RULES] = answer;
    await expect(refresh(later(3600))).rejects.toThrow(kind);
    expect(row()).toEqual(before);
    expect(limitsInForce({}, row(), later(3600)).rulesPerGroup).toBe(100);
    // And not for ever.
    expect(limitsInForce({}, row(), later(QUOTA_SECONDS)).rulesPerGroup).toBe(60);
  });

  test('does not know the quota at all', async () => {
    applied = {};
    defaults = {};
    await expect(refresh()).rejects.toThrow(NoSuchResourceException);
    expect(row()).toBeUndefined();
  });
});
