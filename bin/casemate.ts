/** The CDK app. Settings come from the context: `npx cdk deploy -c mode=enforce …`, see docs/deploy.md. */
import { App, Validations } from 'aws-cdk-lib';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import * as sns from 'aws-cdk-lib/aws-sns';
import { AwsSolutionsChecks } from 'cdk-nag';
import { CasemateStack } from '../lib/casemate-stack.ts';
import { SettingsError } from '../lib/constructs/casemate-settings.ts';
import { ContextError, readContext } from '../lib/constructs/context.ts';
import { OperationsStack } from '../lib/operations-stack.ts';

const app = new App();
Validations.of(app).addPlugins(new AwsSolutionsChecks(app));

try {
  const context = readContext(app.node);
  const env = {
    ...(process.env['CDK_DEFAULT_ACCOUNT'] ? { account: process.env['CDK_DEFAULT_ACCOUNT'] } : {}),
    ...(process.env['CDK_DEFAULT_REGION'] ? { region: process.env['CDK_DEFAULT_REGION'] } : {}),
  };
  const { alarmTopicArn, architecture, logLevel, apiGatewayCloudWatchRole } = context;
  const { casemate } = new CasemateStack(app, 'Casemate', {
    env,
    terminationProtection: context.terminationProtection,
    casemate: (scope) => ({
      ...context.settings,
      ...(alarmTopicArn ? { alarmTopic: sns.Topic.fromTopicArn(scope, 'AlarmTopic', alarmTopicArn) } : {}),
      ...(architecture === 'x86_64' ? { architecture: lambda.Architecture.X86_64 } : {}),
      ...(logLevel ? { logLevel } : {}),
      ...(apiGatewayCloudWatchRole === undefined ? {} : { apiGatewayCloudWatchRole }),
    }),
  });
  new OperationsStack(app, 'CasemateOperations', { env, casemate });
} catch (error) {
  if (!(error instanceof ContextError || error instanceof SettingsError)) throw error;
  process.stderr.write(`${error.message}\n`);
  // At once: the app would synthesize half a stack before it ends by itself.
  process.exit(1);
}
