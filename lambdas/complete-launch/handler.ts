import { MetricUnit } from '@aws-lambda-powertools/metrics';
import type { AutoScalingClient } from '@aws-sdk/client-auto-scaling';
import { type Envelope, type Parsed, parseDetail } from '../../lib/domain/envelope.ts';
import { isolationChanged, SOURCE } from '../../lib/domain/events.ts';
import { isolationItem } from '../../lib/domain/isolation.ts';
import { decideLaunch, LAUNCH_HOOK, launchAction } from '../../lib/domain/launch.ts';
import { vmItem } from '../../lib/domain/vm.ts';
import { continueLaunch } from '../aws/auto-scaling.ts';
import { getItems, type Table } from '../aws/dynamodb.ts';
import { createQueueHandler, oncePerVm, type QueueDeps } from '../queue-function.ts';

export interface Deps extends QueueDeps {
  readonly table: Table;
  readonly autoScaling: AutoScalingClient;
}

/** Lets VMs that wait in the launch hook of their Auto Scaling group into service once they left probation. */
export function createHandler(deps: Deps) {
  return createQueueHandler<{ readonly instanceId: string }>(deps, {
    name: 'complete-launch',
    parse,
    async run(work) {
      const ids = [...new Set(work.map((item) => item.value.instanceId))];
      const [vms, isolations] = await Promise.all([
        getItems(
          deps.table,
          ids.map((id) => `vm#${id}`),
          vmItem,
        ),
        getItems(
          deps.table,
          ids.map((id) => `isolation#${id}`),
          isolationItem,
        ),
      ]);
      return oncePerVm(
        work,
        (occasion) => [occasion.instanceId],
        async (instanceId) => {
          const decision = decideLaunch(
            vms.get(`vm#${instanceId}`),
            isolations.get(`isolation#${instanceId}`),
          );
          if (decision.kind === 'wait') return;
          const member = { autoScalingGroup: decision.autoScalingGroup, instanceId };
          if (!(await continueLaunch(deps.autoScaling, member, LAUNCH_HOOK))) return;
          deps.logger.info('launch continued', member);
          deps.metrics.addMetric('LaunchContinued', MetricUnit.Count, 1);
        },
      );
    },
  });
}

/** A VM was given its groups, or one has begun to wait: it may have been given them before. */
function parse(event: Envelope): Parsed<{ readonly instanceId: string }> {
  const type = event['detail-type'];
  if (event.source === SOURCE && type === 'Isolation Changed') return parseDetail(event, isolationChanged);
  if (event.source === 'aws.autoscaling' && type === 'EC2 Instance-launch Lifecycle Action') {
    const action = parseDetail(event, launchAction);
    return action.kind === 'ok' ? { kind: 'ok', value: { instanceId: action.value.EC2InstanceId } } : action;
  }
  return { kind: 'reject', reason: 'EVENT_UNKNOWN', detail: `${event.source} / ${type}`.slice(0, 200) };
}
