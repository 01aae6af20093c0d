import {
  AutoScalingClient,
  CompleteLifecycleActionCommand,
  EnterStandbyCommand,
  ExitStandbyCommand,
} from '@aws-sdk/client-auto-scaling';
import type { Effects } from './effects.ts';

export type MemberState = 'Pending:Wait' | 'InService' | 'Standby';

/** Auto Scaling at the edge of the client: which VMs a group has, and in which state. */
export function fakeAutoScaling(effects: Effects) {
  const members = new Map<string, { readonly group: string; state: MemberState }>();
  const client = Object.create(AutoScalingClient.prototype) as AutoScalingClient; // it sends nothing anywhere

  const move = (group: string | undefined, id: string | undefined, from: MemberState, to: MemberState) => {
    const member = members.get(id ?? '');
    if (member?.group !== group || member?.state !== from) {
      throw Object.assign(new Error(`${id} is not in ${from}`), { name: 'ValidationError' });
    }
    member.state = to;
    return {};
  };
  const send = async (command: unknown): Promise<unknown> => {
    if (command instanceof EnterStandbyCommand) {
      const { AutoScalingGroupName: group, InstanceIds: [id] = [] } = command.input;
      return effects.write('enter standby', () => move(group, id, 'InService', 'Standby'));
    }
    if (command instanceof ExitStandbyCommand) {
      const { AutoScalingGroupName: group, InstanceIds: [id] = [] } = command.input;
      return effects.write('exit standby', () => move(group, id, 'Standby', 'InService'));
    }
    if (command instanceof CompleteLifecycleActionCommand) {
      const { AutoScalingGroupName: group, InstanceId: id } = command.input;
      return effects.write('continue launch', () => move(group, id, 'Pending:Wait', 'InService'));
    }
    throw new Error(`Auto Scaling here does not know ${(command as object).constructor.name}`);
  };
  client.send = send as typeof client.send;
  return { client, members };
}
