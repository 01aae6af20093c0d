import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { baseEnvironment, freePort, type Service, startService, untilAnswering } from './process.ts';

/** No real account has this number; the stack refuses `embedded` anywhere else. */
export const ACCOUNT = '000000000000';
export const REGION = 'us-east-1';
export const CREDENTIALS = { accessKeyId: 'test', secretAccessKey: 'test' } as const;

const AWS_SERVER = fileURLToPath(new URL('./aws_server.py', import.meta.url));
const MOTO_SERVER = fileURLToPath(new URL('./moto_server.py', import.meta.url));

export interface Emulators {
  /** Everything but EC2. */
  readonly aws: string;
  /** EC2, and Service Quotas, which AWS has of its own. */
  readonly ec2: string;
  /** Where the endorsement keys of software TPMs are recorded, for EC2 to report: docs/embedded-cloud.md. */
  readonly tpms: string;
  /** Rejects when an emulator ends by itself. */
  readonly died: Promise<never>;
  stop(): Promise<void>;
}

/** What a process needs to take the emulators for AWS. */
export function awsEnvironment(emulators: Pick<Emulators, 'aws' | 'ec2'>): Record<string, string> {
  return {
    ...baseEnvironment(),
    AWS_ENDPOINT_URL: emulators.aws,
    AWS_ENDPOINT_URL_S3: emulators.aws,
    AWS_ENDPOINT_URL_EC2: emulators.ec2,
    AWS_ENDPOINT_URL_SERVICE_QUOTAS: emulators.ec2,
    AWS_REGION: REGION,
    AWS_DEFAULT_REGION: REGION,
    AWS_ACCESS_KEY_ID: CREDENTIALS.accessKeyId,
    AWS_SECRET_ACCESS_KEY: CREDENTIALS.secretAccessKey,
    AWS_EC2_METADATA_DISABLED: 'true',
  };
}

/** Where the endorsement keys of VMs are recorded that EC2 reports: `<instance id>.<key type>`, a TPMT_PUBLIC. */
export function tpmFolder(folder: string): string {
  return join(folder, 'tpms');
}

/**
 * Starts the emulators on free ports of loopback, their state and logs below `folder`.
 *
 * @param between gives the endpoints that the functions see instead of the emulators' own: tests put
 * something there that can fail a call, or end the function in the middle of one
 */
export async function startEmulators(
  python: string,
  folder: string,
  between?: (emulators: Pick<Emulators, 'aws' | 'ec2'>) => Promise<Pick<Emulators, 'aws' | 'ec2'>>,
): Promise<Emulators> {
  const [awsPort, ec2Port] = [await freePort(), await freePort()];
  const aws = `http://127.0.0.1:${awsPort}`;
  const ec2 = `http://127.0.0.1:${ec2Port}`;
  const [state, tpms] = [join(folder, 'aws'), tpmFolder(folder)];
  for (const each of [state, tpms]) mkdirSync(each, { recursive: true });
  const seenByFunctions = (await between?.({ aws, ec2 })) ?? { aws, ec2 };
  const started: Service[] = [];
  const stop = async () => {
    await Promise.all(started.map((service) => service.stop()));
  };
  try {
    const moto = startService([python, MOTO_SERVER, '-H', '127.0.0.1', '-p', String(ec2Port)], {
      log: join(folder, 'ec2.log'),
      env: { ...baseEnvironment(), MOTO_ACCOUNT_ID: ACCOUNT, CASEMATE_TPMS: tpms },
    });
    started.push(moto);
    const ministack = startService([python, AWS_SERVER], {
      log: join(folder, 'aws.log'),
      cwd: state,
      env: {
        // The functions' workers inherit this: their EC2 is moto.
        ...awsEnvironment(seenByFunctions),
        BIND_HOST: '127.0.0.1',
        MINISTACK_HOST: '127.0.0.1',
        GATEWAY_PORT: String(awsPort),
        MINISTACK_ACCOUNT_ID: ACCOUNT,
        MINISTACK_REGION: REGION,
        IOT_MTLS_ENABLED: '0', // it would listen on every interface
        PERSIST_STATE: '0',
        STATE_DIR: state,
        S3_DATA_DIR: join(state, 's3'),
        TMPDIR: state,
        HOME: state,
      },
    });
    started.push(ministack);
    await Promise.all([
      untilAnswering(`${ec2}/moto-api/`, moto, 60),
      untilAnswering(`${aws}/_ministack/health`, ministack, 60),
    ]);
    return { aws, ec2, tpms, died: Promise.race(started.map((service) => service.died)), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
