import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createApi, RefusedError } from '../../agent/api.ts';
import { type Caller, releaseKey } from '../../agent/disks/pipeline.ts';
import { loadOrCreateKey } from '../../agent/key.ts';
import { ACCOUNT, CREDENTIALS, REGION } from '../../bin/local/emulators.ts';
import { opens } from '../agent/disks/luks.ts';
import { missingForVms } from './prerequisites.ts';
import { sharedCloud } from './shared-cloud/ask.ts';
import {
  agent,
  type CloudVm,
  launchVm,
  reachPipeline,
  type Site,
  startAgents,
  startSite,
  stopAgents,
} from './site.ts';
import {
  diskItem,
  eventually,
  MOUNT,
  MOUNTED,
  mounted,
  open,
  plaintextKey,
  SLOW,
  volumeFile,
} from './steps.ts';
import type { Vm } from './vm.ts';

/** How long the pipeline is away at boot. */
const AWAY_MS = 120_000;

const missing = missingForVms();
const inVm = missing ? test.skip : test;
const skipped = missing ? `skipped: ${missing}: ` : '';

let site: Site;
let first: CloudVm;
let vm: Vm;
let volume: string;

beforeAll(async () => {
  if (missing) return;
  site = await startSite(await sharedCloud());
  first = await launchVm(site, { name: 'first', volumes: [MOUNTED] });
  volume = first.volumeIds[0] ?? '';
}, 900_000);
afterAll(async () => {
  await vm?.pullPlug();
  await site?.stop();
}, 60_000);

describe('a boot by systemd', () => {
  inVm(
    `${skipped}for the first time, without a pipeline for two minutes, comes up, says what it waits for, and opens`,
    async () => {
      // The image has the configuration before anything of Casemate runs.
      vm = await first.boot({ pipelineAway: true });
      await vm.shutDown();
      const back = Date.now() + AWAY_MS;
      vm = await first.boot({ init: 'systemd', pipelineAway: true });
      await eventually(vm, 'systemctl is-active systemd-user-sessions.service');
      await eventually(vm, 'journalctl -u casemate-disks | grep "waiting for disks.*unreachable"');
      expect(vm.console()).toContain('waiting for disks');
      await sleep(back - Date.now());
      expect((await vm.run(`findmnt ${MOUNT}`)).status).toBe(1);
      expect(await vm.ok('systemctl list-jobs --no-legend --plain')).toMatch(
        / after-disks\.service +start +waiting/,
      );
      await reachPipeline(vm, site);
      await mounted(vm);
      await eventually(vm, 'systemctl is-active after-disks.service');
      expect(await vm.ok('cat /run/mounted-before')).toMatch(/^ext4 .*\bnosuid,nodev\b/);
      await vm.ok(`echo kept > ${MOUNT}/file && sync`);
    },
    2 * SLOW,
  );

  inVm(
    `${skipped}from then on keeps back nobody but who needs the mount`,
    async () => {
      await vm.pullPlug();
      vm = await first.boot({ init: 'systemd', pipelineAway: true });
      await eventually(vm, 'systemctl is-active systemd-user-sessions.service');
      expect(await vm.ok('systemctl list-jobs --no-legend --plain')).toMatch(
        / consumer\.service +start +waiting/,
      );
      await reachPipeline(vm, site);
      await eventually(vm, 'systemctl is-active consumer.service');
      expect(await vm.ok('cat /run/consumed')).toBe('kept\n');
    },
    2 * SLOW,
  );
});

describe('another VM', () => {
  let second: CloudVm;
  let copied = '';
  let keysFolder = '';

  beforeAll(async () => {
    if (missing) return;
    await vm.shutDown();
    // A copy of the first VM's root volume, agent key and all, and a copy of its disk on a volume of its own.
    second = await launchVm(site, { name: 'second', volumes: [MOUNTED], clonedFrom: first });
    copied = second.volumeIds[0] ?? '';
    await promisify(execFile)('cp', [
      '--sparse=always',
      volumeFile(first.machine),
      volumeFile(second.machine),
    ]);
    vm = await second.boot();
    keysFolder = mkdtempSync(join(site.folder, 'keys-'));
    const cloned = await vm.ok('cat /var/lib/casemate/agent-key.json');
    await startAgents(vm);
    await eventually(vm, `grep ${copied} /var/log/disks.log`);
    await stopAgents(vm);
    writeFileSync(join(keysFolder, 'cloned.json'), cloned);
    writeFileSync(join(keysFolder, 'own.json'), await vm.ok('cat /var/lib/casemate/agent-key.json'));
  }, 3 * SLOW);
  afterAll(() => vm?.pullPlug(), 60_000);

  /** A stranger who knows the protocol, with a key from this VM's root volume. */
  function stranger(keyFile: string): Caller {
    const { cloud } = site;
    const stateDir = mkdtempSync(join(keysFolder, 'state-'));
    const { privateKey } = JSON.parse(readFileSync(join(keysFolder, keyFile), 'utf8')) as {
      privateKey: string;
    };
    const { instanceId } = second;
    writeFileSync(join(stateDir, 'agent-key.json'), JSON.stringify({ instanceId, privateKey }));
    return {
      config: { apiUrl: cloud.apiUrl } as Caller['config'],
      identity: { instanceId, accountId: ACCOUNT, region: REGION },
      key: loadOrCreateKey(stateDir, instanceId),
      api: createApi(cloud.apiUrl, REGION, CREDENTIALS),
    };
  }

  inVm(
    `${skipped}with the stolen disk, whole, is told that it is another disk's`,
    async () => {
      expect(await open(vm, copied)).toMatchObject({ state: 'failed', reason: 'HEADER_OTHER_DISK' });
      const own = await diskItem(second, copied);
      expect(opens(volumeFile(second.machine), await plaintextKey(site, own, 1))).toBe(false);
    },
    SLOW,
  );

  inVm(
    `${skipped}is not given the key of the stolen disk, though it asks with its enrolled key and knows the protocol`,
    async () => {
      const own = await diskItem(second, copied);
      const stolen = await diskItem(first, volume);
      const active = stolen.generations.find(({ state }) => state === 'active')?.generation ?? 0;
      // The same request for its own disk is answered: it is not for its form that the other is refused.
      (await releaseKey(stranger('own.json'), own.disk, 1))[Symbol.dispose]();
      await expect(releaseKey(stranger('own.json'), stolen.disk, active)).rejects.toMatchObject({
        reason: 'RELEASE_REFUSED',
      });
      await site.cloud.until(30, () =>
        site.cloud
          .announced()
          .some(
            ({ 'detail-type': type, detail }) =>
              type === 'Key Release Decided' &&
              detail['instanceId'] === second.instanceId &&
              detail['disk'] === stolen.disk &&
              detail['outcome'] === 'refused' &&
              String(detail['reasons']) === 'DISK_NOT_ATTACHED',
          )
          ? undefined
          : 'the operator is not told why',
      );
    },
    SLOW,
  );

  inVm(
    `${skipped}that was cloned makes a key of its own, and gets nowhere with the one that it was cloned with`,
    async () => {
      const enrolled = new Map(
        (await site.cloud.items()).map(({ pk, publicKey }) => [String(pk), publicKey] as const),
      );
      const own = stranger('own.json').key.publicKey.toString('base64');
      const cloned = stranger('cloned.json').key.publicKey.toString('base64');
      expect(enrolled.get(`enrol#${first.instanceId}`)).toBe(cloned);
      expect(enrolled.get(`enrol#${second.instanceId}`)).toBe(own);
      expect(own).not.toBe(cloned);
      const disk = await diskItem(second, copied);
      await expect(releaseKey(stranger('cloned.json'), disk.disk, 1)).rejects.toBeInstanceOf(RefusedError);
      // Nor can it be enrolled in place of the other.
      await vm.ok(`cat > /root/agent-key.json <<'END'
${JSON.stringify({ ...JSON.parse(readFileSync(join(keysFolder, 'cloned.json'), 'utf8')), instanceId: second.instanceId })}
END
        mv /root/agent-key.json /var/lib/casemate/agent-key.json; rm /var/lib/casemate/enrolled`);
      const { status, stderr } = await vm.run(agent('enrol'), 300);
      expect(status).toBe(1);
      expect(stderr).toContain('ENROL_OTHER_KEY');
    },
    SLOW,
  );
});
