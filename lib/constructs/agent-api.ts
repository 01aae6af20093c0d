import { RemovalPolicy, Stack, Validations } from 'aws-cdk-lib';
import * as apigateway from 'aws-cdk-lib/aws-apigateway';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as iam from 'aws-cdk-lib/aws-iam';
import type * as lambda from 'aws-cdk-lib/aws-lambda';
import * as logs from 'aws-cdk-lib/aws-logs';
import { Construct } from 'constructs';

/**
 * The stage is the version in the path: `{origin}/v1/challenges` is the same URL on API Gateway's own
 * domain, where the stage stands there, and on a custom one, where a base path `v1` does.
 */
const STAGE = 'v1';

/** For all agents together. A VM enrols once and asks for one challenge to do so. */
const REQUESTS_PER_SECOND = 50;
const BURST = 100;

export interface AgentApiProps {
  readonly logRetention: logs.RetentionDays;
  /** Make the API private, reachable through these `execute-api` interface endpoints alone. */
  readonly vpcEndpointIds: readonly string[];
  /** Set the role that API Gateway writes logs with; it is one setting of the whole account and Region. */
  readonly cloudWatchRole: boolean;
}

/** What agents call: REST, IAM-authorised, for VMs only. */
export class AgentApi extends Construct {
  readonly api: apigateway.RestApi;
  /** Where agents find it on API Gateway's own domain. */
  readonly defaultOrigin: string;
  private readonly validator: apigateway.RequestValidator;
  private readonly routes: string[] = [];

  constructor(scope: Construct, id: string, props: AgentApiProps) {
    super(scope, id);
    const stack = Stack.of(this);
    const accessLog = new logs.LogGroup(this, 'AccessLog', {
      retention: props.logRetention,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    const endpoints = props.vpcEndpointIds.map((endpoint, i) =>
      ec2.InterfaceVpcEndpoint.fromInterfaceVpcEndpointAttributes(this, `Endpoint${i}`, {
        vpcEndpointId: endpoint,
        port: 443,
      }),
    );
    this.api = new apigateway.RestApi(this, 'Api', {
      description: 'Casemate: what agents call',
      endpointConfiguration:
        endpoints.length > 0
          ? { types: [apigateway.EndpointType.PRIVATE], vpcEndpoints: endpoints }
          : { types: [apigateway.EndpointType.REGIONAL] },
      policy: resourcePolicy(stack, props.vpcEndpointIds),
      cloudWatchRole: props.cloudWatchRole,
      ...(props.cloudWatchRole ? { cloudWatchRoleRemovalPolicy: RemovalPolicy.RETAIN } : {}),
      defaultMethodOptions: { authorizationType: apigateway.AuthorizationType.IAM },
      deployOptions: {
        stageName: STAGE,
        throttlingRateLimit: REQUESTS_PER_SECOND,
        throttlingBurstLimit: BURST,
        tracingEnabled: true,
        metricsEnabled: true,
        loggingLevel: apigateway.MethodLoggingLevel.ERROR,
        // Bodies carry identity documents, which are bearer tokens: they go into no log.
        dataTraceEnabled: false,
        accessLogDestination: new apigateway.LogGroupLogDestination(accessLog),
        accessLogFormat: apigateway.AccessLogFormat.custom(
          JSON.stringify({
            requestId: '$context.requestId',
            time: '$context.requestTimeEpoch',
            route: '$context.httpMethod $context.resourcePath',
            status: '$context.status',
            caller: '$context.identity.userArn',
            sourceIp: '$context.identity.sourceIp',
            latencyMs: '$context.responseLatency',
            error: '$context.error.messageString',
          }),
        ),
      },
    });
    // The stack says the origin; the CDK's own output would say it a second time, with the stage.
    this.api.node.tryRemoveChild('Endpoint');
    this.validator = this.api.addRequestValidator('Bodies', {
      validateRequestBody: true,
      validateRequestParameters: true,
    });
    this.defaultOrigin = `https://${this.api.restApiId}.execute-api.${stack.region}.${stack.urlSuffix}`;
    Validations.of(this.api).acknowledge(
      {
        id: 'AwsSolutions-APIG3',
        reason:
          'Callers are authorised by IAM before a function runs and must come from an EC2 instance role; the stage is throttled. A web ACL would add cost and no check.',
      },
      {
        id: 'AwsSolutions-COG4',
        reason: 'Callers are machines with an instance role: IAM authorises them, there is no user pool.',
      },
      {
        id: 'AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs]',
        reason: 'The policy that AWS made for this one account-wide role of API Gateway.',
      },
    );
  }

  /** Adds `POST /v1/<path>`, its body checked against the schema before the function is woken. */
  addRoute(path: string, fn: lambda.Function, body: apigateway.JsonSchema): void {
    const model = this.api.addModel(`${path}Body`, { contentType: 'application/json', schema: body });
    this.api.root
      .addResource(path)
      .addMethod('POST', new apigateway.LambdaIntegration(fn, { allowTestInvoke: false }), {
        requestModels: { 'application/json': model },
        requestValidator: this.validator,
      });
    this.routes.push(path);
  }

  /** ARNs of the routes, for the policy of those who may call them. */
  routeArns(): string[] {
    return this.routes.map((path) => this.api.arnForExecuteApi('POST', `/${path}`, STAGE));
  }
}

/**
 * Refuses whoever is not an EC2 instance. A session name alone can be chosen by whoever may assume the
 * role; `ec2:SourceInstanceARN` is put into the session by EC2 and cannot.
 *
 * There is no Allow for a public API: with IAM authorisation, in the same account, an Allow here would let
 * in callers whose own policy does not. A private API demands one; it names the account, which leaves the
 * decision to the callers' own policies.
 * https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-authorization-flow.html
 */
function resourcePolicy(stack: Stack, vpcEndpointIds: readonly string[]): iam.PolicyDocument {
  const statements = [
    new iam.PolicyStatement({
      sid: 'OnlyInstances',
      effect: iam.Effect.DENY,
      principals: [new iam.AnyPrincipal()],
      actions: ['execute-api:Invoke'],
      resources: ['execute-api:/*'],
      conditions: { Null: { 'ec2:SourceInstanceARN': 'true' } },
    }),
  ];
  if (vpcEndpointIds.length > 0) {
    statements.push(
      new iam.PolicyStatement({
        sid: 'OnlyThroughEndpoints',
        effect: iam.Effect.DENY,
        principals: [new iam.AnyPrincipal()],
        actions: ['execute-api:Invoke'],
        resources: ['execute-api:/*'],
        conditions: { StringNotEquals: { 'aws:SourceVpce': [...vpcEndpointIds] } },
      }),
      new iam.PolicyStatement({
        sid: 'CallersOfThisAccount',
        principals: [new iam.AccountPrincipal(stack.account)],
        actions: ['execute-api:Invoke'],
        resources: ['execute-api:/*'],
      }),
    );
  }
  return new iam.PolicyDocument({ statements });
}
