/** What other people's CDK apps import. */
export { AgentAssociation, type AgentAssociationProps } from './constructs/agent-association.ts';
export { Casemate, type CasemateProps } from './constructs/casemate.ts';
export type {
  CallerIdentity,
  CasemateSettings,
  Mode,
  ProbationEgress,
} from './constructs/casemate-settings.ts';
export {
  FencedLaunchTemplate,
  type FencedLaunchTemplateProps,
  holdUntilProven,
} from './constructs/fenced-launch.ts';
