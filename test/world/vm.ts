import type { WorldVm } from './ec2.ts';
import type { World } from './world.ts';

/** Launches a VM into the world: in scope, one data volume, one interface, unless told otherwise. */
export function launch(world: World, n: number, overrides: Partial<WorldVm> = {}): WorldVm {
  const hex = n.toString(16).padStart(8, '0');
  const vm: WorldVm = {
    id: `i-${hex}`,
    state: 'running',
    tags: { 'casemate:protect': 'true' },
    launchTime: world.now(),
    amdSevSnp: undefined,
    interfaces: [{ id: `eni-${hex}`, groups: ['sg-0000aaaa', 'sg-0000bbbb'] }],
    volumes: [
      { id: `vol-a${hex.slice(1)}`, device: '/dev/xvda' },
      { id: `vol-b${hex.slice(1)}`, device: '/dev/sdf' },
    ],
    ...overrides,
  };
  world.vms.set(vm.id, vm);
  return vm;
}
