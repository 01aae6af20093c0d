import {
  DeleteRolePolicyCommand,
  GetRolePolicyCommand,
  IAMClient,
  PutRolePolicyCommand,
} from '@aws-sdk/client-iam';
import { ROLE_POLICIES_MAX_CHARACTERS } from '../../lib/domain/credentials.ts';

const named = (name: string) => Object.assign(new Error(name), { name });

/** IAM at the edge of the client: roles and their inline policies, by name. */
export function fakeIam(roleNames: readonly string[]) {
  const roles = new Map(roleNames.map((name) => [name, new Map<string, string>()]));
  const calls: string[] = [];
  const client = Object.create(IAMClient.prototype) as IAMClient; // it sends nothing anywhere
  const send = async (command: unknown): Promise<unknown> => {
    const { RoleName = '', PolicyName = '' } = (command as PutRolePolicyCommand).input;
    calls.push(`${(command as object).constructor.name.replace(/Command$/, '')} ${RoleName}`);
    const policies = roles.get(RoleName);
    if (!policies) throw named('NoSuchEntityException');
    if (command instanceof PutRolePolicyCommand) {
      const others = [...policies].filter(([name]) => name !== PolicyName).map(([, text]) => text);
      const all = [...others, command.input.PolicyDocument ?? ''].join('').replace(/\s/g, '');
      if (all.length > ROLE_POLICIES_MAX_CHARACTERS) throw named('LimitExceededException');
      policies.set(PolicyName, command.input.PolicyDocument ?? '');
      return {};
    }
    const text = policies.get(PolicyName);
    if (text === undefined) throw named('NoSuchEntityException');
    if (command instanceof GetRolePolicyCommand) return { PolicyDocument: encodeURIComponent(text) };
    if (command instanceof DeleteRolePolicyCommand) {
      policies.delete(PolicyName);
      return {};
    }
    throw new Error(`IAM here does not know ${(command as object).constructor.name}`);
  };
  client.send = send as typeof client.send;
  return { client, roles, calls };
}
