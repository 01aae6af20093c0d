import { describe, expect, test } from '@jest/globals';
import * as z from 'zod';
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
} from '../../lib/constructs/agent-api-bodies.ts';
import {
  adoptionRequest,
  confirmationRequest,
  diskListRequest,
  headerRequest,
  releaseRequest,
  rotationRequest,
} from '../../lib/domain/disk-api.ts';
import { challengeRequest, enrolmentRequest } from '../../lib/domain/enrolment.ts';
import { tpmActivationRequest } from '../../lib/domain/tpm-activation.ts';
import { statements, synthesize } from './synthesized.ts';

const stack = synthesize({ agentRoleNames: ['web-servers', 'databases'] });
const api = stack.only('AWS::ApiGateway::RestApi');
const stage = stack.only('AWS::ApiGateway::Stage');
const ROUTES = [
  'challenges',
  'enrolments',
  'disks',
  'releases',
  'confirmations',
  'rotations',
  'adoptions',
  'headers',
  'tpm-activations',
];
const methods = stack.ofType('AWS::ApiGateway::Method');

describe('the API that agents call', () => {
  test('is authorised by IAM on every route', () => {
    expect(methods.map((m) => [m.Properties.HttpMethod, m.Properties.AuthorizationType])).toEqual(
      ROUTES.map(() => ['POST', 'AWS_IAM']),
    );
  });

  test('refuses whoever is no EC2 instance', () => {
    const policy = statements(api.Properties.Policy);
    expect(policy).toEqual([
      {
        Sid: 'OnlyInstances',
        Effect: 'Deny',
        actions: ['execute-api:Invoke'],
        resources: ['"execute-api:/*"'],
        principals: ['{"AWS":"*"}'],
        Condition: { Null: { 'ec2:SourceInstanceARN': 'true' } },
      },
    ]);
  });

  test('lets in nobody by its own policy, so that each caller needs one', () => {
    expect(statements(api.Properties.Policy).filter((s) => s.Effect === 'Allow')).toEqual([]);
  });

  test('has the version in the path as its stage', () => {
    expect(stage.Properties.StageName).toBe('v1');
    const paths = stack.ofType('AWS::ApiGateway::Resource').map((r) => r.Properties.PathPart);
    expect(paths).toEqual(ROUTES);
  });

  test('throttles all agents together', () => {
    const [all] = stage.Properties.MethodSettings;
    expect(all).toMatchObject({ HttpMethod: '*', ThrottlingRateLimit: 50, ThrottlingBurstLimit: 100 });
  });

  test('writes no body into a log, since an identity document is a bearer token', () => {
    const [all] = stage.Properties.MethodSettings;
    expect(all).toMatchObject({ DataTraceEnabled: false, LoggingLevel: 'ERROR' });
    const format: string = stage.Properties.AccessLogSetting.Format;
    expect(Object.values(JSON.parse(format)).join(' ')).not.toMatch(/body|header|input|authorizer/i);
    expect(JSON.parse(format).caller).toBe('$context.identity.userArn');
  });

  test('checks the form of each body before a function is woken', () => {
    const validator = stack.only('AWS::ApiGateway::RequestValidator');
    expect(validator.Properties.ValidateRequestBody).toBe(true);
    for (const method of methods) {
      expect(method.Properties.RequestValidatorId).toEqual({ Ref: validator.id });
      expect(Object.keys(method.Properties.RequestModels)).toEqual(['application/json']);
    }
  });

  test.each([
    ['challenge', challengeBody, challengeRequest],
    ['enrolment', enrolmentBody, enrolmentRequest],
    ['disk list', diskListBody, diskListRequest],
    ['release', releaseBody, releaseRequest],
    ['confirmation', confirmationBody, confirmationRequest],
    ['rotation', rotationBody, rotationRequest],
    ['adoption', adoptionBody, adoptionRequest],
    ['header', headerBody, headerRequest],
    ['activation', tpmActivationBody, tpmActivationRequest],
  ] as const)('knows the fields of a %s that the function knows, and their lengths', (_, body, request) => {
    const schema = z.toJSONSchema(request) as {
      required: string[];
      properties: Record<string, { maxLength?: number }>;
    };
    expect(body.additionalProperties).toBe(false);
    expect([...(body.required ?? [])].sort()).toEqual([...schema.required].sort());
    for (const [field, { maxLength }] of Object.entries(schema.properties)) {
      const property = body.properties?.[field];
      if (property?.type === 'integer') continue;
      const allowed = property?.maxLength ?? 0;
      expect(allowed).toBeGreaterThan(0);
      if (maxLength !== undefined) expect(allowed).toBe(maxLength);
    }
  });

  test('can be private: through the named endpoints alone', () => {
    const hidden = synthesize({ apiVpcEndpointIds: ['vpce-0123456789abcdef0'] });
    const { EndpointConfiguration, Policy } = hidden.only('AWS::ApiGateway::RestApi').Properties;
    expect(EndpointConfiguration).toEqual({
      Types: ['PRIVATE'],
      VpcEndpointIds: ['vpce-0123456789abcdef0'],
    });
    const policy = statements(Policy);
    expect(policy.filter((s) => s.Effect === 'Deny').map((s) => s.Condition)).toEqual([
      { Null: { 'ec2:SourceInstanceARN': 'true' } },
      { StringNotEquals: { 'aws:SourceVpce': ['vpce-0123456789abcdef0'] } },
    ]);
    const allowed = policy.filter((s) => s.Effect === 'Allow').flatMap((s) => s.principals);
    expect(allowed).toEqual([expect.stringContaining(':iam::111122223333:root')]);
  });

  test('signs agents to its own origin, or to a custom domain', () => {
    const origins = (from: typeof stack) =>
      (['enrol-agent', 'ingest-report'] as const).map(
        (name) => from.fn(name).Properties.Environment.Variables.API_ORIGIN,
      );
    const own = JSON.stringify(origins(stack));
    expect(own).toContain(`{"Ref":"${api.id}"}`);
    expect(own).toContain('.execute-api.eu-west-1.');
    const custom = synthesize({ apiOrigin: 'https://casemate.example.com' });
    expect(origins(custom)).toEqual(['https://casemate.example.com', 'https://casemate.example.com']);
    expect(custom.template.toJSON().Outputs.ApiOrigin.Value).toBe('https://casemate.example.com');
  });
});

describe('what an agent may do', () => {
  const policy = stack.only('AWS::IAM::ManagedPolicy', 'AgentsPolicy');
  const powers = statements(policy.Properties.PolicyDocument);

  test('is to call the routes and to report', () => {
    expect(powers.flatMap((s) => s.actions)).toEqual(['execute-api:Invoke', 'events:PutEvents']);
    const [call] = powers;
    expect(call?.resources).toEqual(
      [...ROUTES].sort().map((route) => expect.stringMatching(new RegExp(`/v1/POST/${route}`))),
    );
  });

  test('is to put Capability Report of source casemate.agent on the Casemate bus, and nothing else', () => {
    const put = powers.filter((s) => s.actions.includes('events:PutEvents'));
    expect(put).toHaveLength(1);
    expect(put[0]?.resources).toEqual([
      expect.stringContaining(`"${stack.only('AWS::Events::EventBus').id}"`),
    ]);
    expect(put[0]?.Condition['ForAllValues:StringEquals']).toEqual({
      'events:source': ['casemate.agent'],
      'events:detail-type': ['Capability Report'],
    });
    expect(put[0]?.Condition['Null']).toMatchObject({
      'events:source': 'false',
      'events:detail-type': 'false',
    });
  });

  test('needs credentials that EC2 gave to an instance', () => {
    for (const statement of powers) {
      expect(statement.Condition['Null']).toMatchObject({ 'ec2:SourceInstanceARN': 'false' });
    }
  });

  test('comes with a role that EC2 alone can take', () => {
    const role = stack.only('AWS::IAM::Role', 'AgentsRole');
    const trust = statements(role.Properties.AssumeRolePolicyDocument);
    expect(trust.map((s) => [s.Effect, s.actions, s.principals])).toEqual([
      ['Allow', ['sts:AssumeRole'], ['{"Service":"ec2.amazonaws.com"}']],
    ]);
    expect(stack.powersOf(role).flatMap((s) => s.actions)).toEqual([
      'execute-api:Invoke',
      'events:PutEvents',
    ]);
  });

  test('is attached to the roles that VMs have already', () => {
    expect(policy.Properties.Roles).toEqual(['web-servers', 'databases']);
  });
});
