import { afterEach, expect, jest, test } from '@jest/globals';
import { createAgent, sealReport } from '../world/agent.ts';
import { createApi } from '../world/api.ts';
import { CONTEXT, enveloped, RECORDED_VM, recorded, sqsEvent } from '../world/recorded.ts';
import { launch } from '../world/vm.ts';
import { createWorld } from '../world/world.ts';

afterEach(() => {
  jest.restoreAllMocks();
});

/** Everything that is written to stdout and stderr. */
function listen(): () => string {
  const written: string[] = [];
  for (const stream of [process.stdout, process.stderr]) {
    jest.spyOn(stream, 'write').mockImplementation((chunk: string | Uint8Array) => {
      written.push(typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('utf8'));
      return true;
    });
  }
  return () => written.join('');
}

test('no nonce, signature, identity document, key or wrapped key is ever logged, at any level', async () => {
  const world = createWorld({ logLevel: 'DEBUG' });
  const vm = launch(world, 1, { id: RECORDED_VM, amdSevSnp: 'disabled' });
  const agent = createAgent(vm.id);
  const heard = listen();

  world.stateChange(vm);
  await world.drain();
  const api = await createApi(world, 'iam');
  const body = await api.enrolment(agent);
  const bodies = [
    { ...body, signature: Buffer.alloc(64, 9).toString('base64') },
    { ...body, identityDocument: body.identityDocument.replace(/^M/, 'N') },
    { ...body, agentPublicKey: 'AAAA' },
    { ...body, more: 1 },
    body,
    body,
  ];
  const reasons: unknown[] = [];
  for (const each of bodies) reasons.push((await api.call('/enrolments', each)).body['reason']);
  reasons.push((await api.call('/enrolments', body, 'person')).body['reason']);
  const good = sealReport(world, agent, 1);
  const forged = sealReport(world, createAgent(vm.id), 2);
  const reports = [
    good,
    forged,
    { ...good, instanceId: 'i-00000002' },
    { ...good, payload: '{' },
    { signature: 7 },
  ];
  for (const report of reports) {
    await world.handlers['ingest-report'](
      sqsEvent(enveloped('casemate.agent', 'Capability Report', report)),
      CONTEXT,
    );
  }
  for (const call of ['PutItem', 'BatchGetItem', 'DescribeInstances', 'PutEvents']) {
    const heal = world.fail(call, new Error(`${call} failed`));
    await world.handlers['observe-vm'](sqsEvent(recorded('ec2-state-stopped')), CONTEXT);
    await api.call('/enrolments', await api.enrolment(agent).catch(() => body)).catch(() => undefined);
    heal();
  }
  const text = heard();
  jest.restoreAllMocks();

  // It did listen, and each refusal left its code and the VM.
  expect(reasons).toEqual([
    'ENROL_BAD_SIGNATURE',
    'IDENTITY_REFUSED',
    'ENROL_BAD_KEY',
    'REQUEST_MALFORMED',
    undefined,
    'CHALLENGE_USED',
    'CALLER_FOREIGN',
  ]);
  for (const word of ['ENROL_BAD_SIGNATURE', 'REPORT_BAD_SIGNATURE', 'PutItem failed', vm.id]) {
    expect(text).toContain(word);
  }
  const wrapped = [...world.rows.values()].flatMap((row) =>
    ((row['generations'] ?? []) as { wrappedKey: string }[]).map((g) => g.wrappedKey),
  );
  expect(wrapped).toHaveLength(1);
  const secrets = {
    nonce: body.nonce,
    'nonce in hex': Buffer.from(body.nonce, 'base64').toString('hex'),
    'signature of the enrolment': body.signature,
    'identity document': body.identityDocument.slice(200, 260),
    'public key': body.agentPublicKey,
    'signature of a report': good.signature,
    'payload of a report': good.payload.slice(0, 60),
    'session token': 'IQoJb3JpZ2luX2VjEXAMPLE',
    'wrapped key': wrapped[0] as string,
  };
  for (const [name, secret] of Object.entries(secrets)) {
    expect([name, text.includes(secret)]).toEqual([name, false]);
    expect([name, text.includes(JSON.stringify(secret).slice(1, -1))]).toEqual([name, false]);
  }
});
