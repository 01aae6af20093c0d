import { readFileSync } from 'node:fs';
import { Annotations, Stack } from 'aws-cdk-lib';
import * as ssm from 'aws-cdk-lib/aws-ssm';
import { Construct } from 'constructs';

export interface AgentAssociationProps {
  /** Where the packages are, without the slash at its end: `s3://bucket/folder` or `https://…/folder`. */
  readonly from: string;
  /** `SHA256SUMS` as `npm run package` wrote it beside them: what may be installed, and nothing else. */
  readonly sums: string;
  /** What agents call: the output `ApiUrl` of the pipeline's stack. */
  readonly apiUrl: string;
  /** The output `BusName`. */
  readonly busName: string;
  /**
   * VMs that get the agent, by a tag.
   * @default - those that are in scope by default: casemate:protect=true
   */
  readonly tag?: { readonly key: string; readonly value: string };
  /**
   * How many VMs at a time, and how many failures end the rollout.
   * @default - 10 % and 5 %
   */
  readonly rollout?: { readonly maxConcurrency: string; readonly maxErrors: string };
}

const INSTALL = new URL('../../packaging/install-agent.sh', import.meta.url);
const SUM = /^[0-9a-f]{64} {2}casemate-agent[-_][-+._~0-9A-Za-z]+\.(?:deb|rpm)$/;

/**
 * Has Systems Manager install, configure and start the agent on VMs with a tag: on each as soon as it is there, and
 * again when the packages change. The VMs need SSM's agent and its permissions, and to read `from`.
 *
 * Not part of the pipeline's stack: VMs are other people's, and the rollout is undone by deleting this.
 */
export class AgentAssociation extends Construct {
  readonly document: ssm.CfnDocument;
  readonly association: ssm.CfnAssociation;

  constructor(scope: Construct, id: string, props: AgentAssociationProps) {
    super(scope, id);
    const { from, apiUrl, busName } = props;
    const tag = props.tag ?? { key: 'casemate:protect', value: 'true' };
    const { maxConcurrency, maxErrors } = props.rollout ?? { maxConcurrency: '10%', maxErrors: '5%' };
    const sums = props.sums.trim();
    const annotations = Annotations.of(this);
    if (!/^(?:s3|https):\/\/[-._~/:0-9A-Za-z]*[^/]$/.test(from)) {
      annotations.addError(`from must be s3://… or https://… without a slash at its end, not ${from}`);
    }
    if (!sums.split('\n').every((line) => SUM.test(line))) {
      annotations.addError('sums must be the SHA256SUMS that npm run package wrote, and is something else');
    }
    const config = Stack.of(this).toJsonString({ region: Stack.of(this).region, apiUrl, busName });
    this.document = new ssm.CfnDocument(this, 'Document', {
      documentType: 'Command',
      documentFormat: 'JSON',
      // A new version in place of a new document: the association keeps its name.
      updateMethod: 'NewVersion',
      content: {
        schemaVersion: '2.2',
        description: 'Casemate: install, configure and start the agent',
        // Parameters are put into the script as text: what they may be leaves no way out of the quotes.
        parameters: {
          From: parameter('Folder of the packages', '^(s3|https)://[-._~/:0-9A-Za-z]+$'),
          Sums: parameter('SHA256SUMS of the packages', '^[-+._~ \\n0-9A-Za-z]+$'),
          Config: parameter('/etc/casemate/agent.json', "^[^']+$"),
        },
        mainSteps: [
          {
            action: 'aws:runShellScript',
            name: 'install',
            precondition: { StringEquals: ['platformType', 'Linux'] },
            inputs: {
              timeoutSeconds: '900',
              runCommand: [
                "export CASEMATE_FROM='{{ From }}'",
                "export CASEMATE_SUMS='{{ Sums }}'",
                "export CASEMATE_CONFIG='{{ Config }}'",
                ...readFileSync(INSTALL, 'utf8').trimEnd().split('\n'),
              ],
            },
          },
        ],
      },
    });
    this.association = new ssm.CfnAssociation(this, 'Association', {
      name: this.document.ref,
      associationName: 'casemate-agent',
      documentVersion: '$LATEST',
      targets: [{ key: `tag:${tag.key}`, values: [tag.value] }],
      parameters: { From: [from], Sums: [sums], Config: [config] },
      maxConcurrency,
      maxErrors,
      complianceSeverity: 'HIGH',
    });
  }
}

const parameter = (description: string, allowedPattern: string) => ({
  type: 'String',
  description,
  allowedPattern,
});
