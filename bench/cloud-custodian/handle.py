"""Cloud Custodian's own Lambda entry point on events, as its `ec2-instance-state` mode is deployed: handle.py

Reads one JSON document on stdin: {"policy": …, "account": …, "events": [[event, …], …]}. Prints the CPU and wall
milliseconds of each dispatch, list by list, as JSON. What Custodian would do beside its work is off, in its favour: no CloudWatch
metrics, no log of the event.
"""
import json
import logging
import os
import sys
import time

os.environ["C7N_DEBUG_EVENT"] = "no"
asked = json.load(sys.stdin)
with open("config.json", "w") as f:
    json.dump(
        {"execution-options": {"account_id": asked["account"], "metrics_enabled": False}, "policies": [asked["policy"]]}, f
    )

began = time.process_time(), time.perf_counter()
from c7n import handler  # noqa: E402: its import is measured

imported = time.process_time() - began[0], time.perf_counter() - began[1]
logging.root.setLevel(logging.ERROR)
logging.basicConfig(level=logging.ERROR)


class Context:
    aws_request_id = "00000000-0000-4000-8000-000000000000"
    function_name = "custodian-fence"
    function_version = "1"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:custodian-fence"

    @staticmethod
    def get_remaining_time_in_millis():
        return 30_000


answers = []
for events in asked["events"]:
    measured = []
    for event in events:
        cpu, wall = time.process_time(), time.perf_counter()
        done = handler.dispatch_event(event, Context)
        measured.append(
            {"cpuMs": (time.process_time() - cpu) * 1000, "wallMs": (time.perf_counter() - wall) * 1000}
        )
        if done is not True:
            sys.exit(f"the policy did not run: {done}")
    answers.append(measured)
json.dump({"importCpuMs": imported[0] * 1000, "importWallMs": imported[1] * 1000, "dispatches": answers}, sys.stdout)
