import {
  DeleteRolePolicyCommand,
  GetRolePolicyCommand,
  type IAMClient,
  PutRolePolicyCommand,
} from '@aws-sdk/client-iam';

function isNamed(error: unknown, name: string): boolean {
  return error instanceof Error && error.name === name;
}

/** The text of a role's inline policy; undefined where there is none, or no such role. */
async function inlinePolicy(client: IAMClient, role: string, name: string): Promise<string | undefined> {
  try {
    const { PolicyDocument } = await client.send(
      new GetRolePolicyCommand({ RoleName: role, PolicyName: name }),
    );
    // IAM answers with it URL-encoded (RFC 3986).
    return PolicyDocument === undefined ? undefined : decodeURIComponent(PolicyDocument);
  } catch (error) {
    if (isNamed(error, 'NoSuchEntityException')) return undefined;
    throw error;
  }
}

/**
 * Gives a role exactly this inline policy, or none. What is so already is left.
 *
 * @returns `no-role` where there is none to give it to, `no-room` where its inline policies would be too long together
 */
export async function setInlinePolicy(
  client: IAMClient,
  role: string,
  name: string,
  text: string | undefined,
): Promise<'unchanged' | 'set' | 'no-role' | 'no-room'> {
  if ((await inlinePolicy(client, role, name)) === text) return 'unchanged';
  try {
    if (text === undefined) {
      await client.send(new DeleteRolePolicyCommand({ RoleName: role, PolicyName: name }));
    } else {
      await client.send(new PutRolePolicyCommand({ RoleName: role, PolicyName: name, PolicyDocument: text }));
    }
    return 'set';
  } catch (error) {
    if (isNamed(error, 'LimitExceededException')) return 'no-room';
    // Of a deletion: somebody was faster, or the role is gone, and the policy with it.
    if (isNamed(error, 'NoSuchEntityException')) return text === undefined ? 'set' : 'no-role';
    throw error;
  }
}
