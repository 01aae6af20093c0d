"""moto's EC2 as a server, with the one thing that Casemate needs, EC2 returns and moto 5.2 leaves out: CpuOptions."""
import sys

from moto.ec2.responses.instances import InstanceResponse
from moto.server import main

run_instances = InstanceResponse.run_instances


def run_instances_with_cpu_options(self):
    result = run_instances(self)
    reservation = result.result
    instances = reservation["Instances"] if isinstance(reservation, dict) else reservation.instances
    for instance in instances:
        instance.cpu_options = self._get_param("CpuOptions", {})
    return result


InstanceResponse.run_instances = run_instances_with_cpu_options
main(sys.argv[1:])
