import { readFileSync } from 'node:fs';
import { CloudFormationClient, DescribeStacksCommand } from '@aws-sdk/client-cloudformation';
import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import * as z from 'zod';
import { type ContainmentSettings, containmentSettings } from '../../lib/domain/containment.ts';
import type { Enforcement } from '../../lib/domain/guard.ts';
import { mode } from '../../lib/domain/isolation.ts';

/** There is no deployment to talk to, or it cannot be reached; the message says what to do. */
export class ConnectionError extends Error {
  override readonly name = 'ConnectionError';
}

/** What `npm start` writes for the CLI while it runs. */
const localEnvironment = z.object({
  pid: z.number().int(),
  region: z.string(),
  endpoint: z.url(),
  ec2Endpoint: z.url(),
  /** Logs, events and the homes of the agents. */
  folder: z.string(),
  network: z.object({ imageId: z.string(), subnetId: z.string(), web: z.string(), admin: z.string() }),
  outputs: z.record(z.string(), z.string()),
});
export const LOCAL_ENVIRONMENT = new URL('../../.local/environment.json', import.meta.url);

export interface Connection {
  readonly dynamodb: DynamoDBClient;
  readonly tableName: string;
  readonly enforcement: Enforcement;
  readonly where: string;
  /** Undefined where the stack does not say it. */
  readonly containment: ContainmentSettings | undefined;
  /** What a client of any other service is made with; of EC2 with `ec2`. */
  readonly client: ClientSettings;
  readonly ec2: ClientSettings;
  /** Of the stack, by name. */
  readonly outputs: Readonly<Record<string, string>>;
}

export interface ClientSettings {
  readonly endpoint?: string;
  readonly region?: string;
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: string };
}

/**
 * The embedded cloud when one runs in this project, else the account and Region of the AWS environment.
 * Names come from the outputs of the stack.
 */
export async function connect(stackName: string): Promise<Connection> {
  const local = runningLocally();
  if (local) {
    const options = {
      endpoint: local.endpoint,
      region: local.region,
      credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
    };
    const ec2 = { ...options, endpoint: local.ec2Endpoint };
    return connection({ client: options, ec2, outputs: local.outputs, where: 'the embedded cloud' });
  }
  const cloudformation = new CloudFormationClient({});
  const describe = new DescribeStacksCommand({ StackName: stackName });
  const answer = await cloudformation.send(describe).catch((error: unknown) => {
    throw new ConnectionError(
      `no embedded cloud runs here (npm start), and stack ${stackName} cannot be read in AWS: ${error instanceof Error ? error.message : error}`,
      { cause: error },
    );
  });
  const outputs = Object.fromEntries(
    (answer.Stacks?.[0]?.Outputs ?? []).map((o) => [o.OutputKey ?? '', o.OutputValue ?? '']),
  );
  return connection({ client: {}, ec2: {}, outputs, where: `stack ${stackName}` });
}

function connection(to: Pick<Connection, 'client' | 'ec2' | 'outputs' | 'where'>): Connection {
  const { outputs, where } = to;
  const tableName = outputs['TableName'];
  const parsed = mode.safeParse(outputs['Mode']);
  const share = Number(outputs['EnforceShare'] ?? 1);
  if (!tableName || !parsed.success) {
    throw new ConnectionError(`${where} has no outputs TableName and Mode: is it a Casemate stack?`);
  }
  return {
    ...to,
    dynamodb: new DynamoDBClient(to.client),
    tableName,
    enforcement: { mode: parsed.data, share },
    containment: containmentOf(outputs['Containment'], where),
  };
}

/** A stack of before has no such output. @throws ConnectionError when it says something else */
function containmentOf(text: string | undefined, where: string): ContainmentSettings | undefined {
  if (text === undefined) return undefined;
  try {
    return containmentSettings.parse(JSON.parse(text));
  } catch (error) {
    throw new ConnectionError(`${where} has an output Containment of another version: use its own casemate`, {
      cause: error,
    });
  }
}

export type LocalEnvironment = z.infer<typeof localEnvironment>;

/** The embedded cloud that runs in this project, if one does. */
export function runningLocally(): LocalEnvironment | undefined {
  let text: string;
  try {
    text = readFileSync(LOCAL_ENVIRONMENT, 'utf8');
  } catch {
    return undefined; // none was started
  }
  const parsed = localEnvironment.safeParse(JSON.parse(text));
  if (!parsed.success) return undefined;
  try {
    process.kill(parsed.data.pid, 0);
    return parsed.data;
  } catch {
    return undefined; // it ended without tidying up
  }
}
