"""moto's EC2 as a server, with what EC2 does, moto 5.2 does not, and the embedded cloud needs.

- DescribeInstances answers CpuOptions: cores and threads of the type, and what RunInstances asked for.
- DescribeInstances answers HibernationOptions for every instance.
- DetachVolume takes a volume without an instance.
"""
import sys

from moto.ec2.models import EC2Backend
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import Instance
from moto.ec2.responses.instances import InstanceResponse
from moto.server import main


def cpu_options(instance):
    sizes = INSTANCE_TYPES.get(instance.instance_type, {}).get("VCpuInfo", {})
    usual = {"CoreCount": sizes.get("DefaultCores"), "ThreadsPerCore": sizes.get("DefaultThreadsPerCore")}
    asked = getattr(instance, "casemate_cpu_options", {})
    return {name: value for name, value in {**usual, **asked}.items() if value is not None}


run_instances = InstanceResponse.run_instances


def run_instances_with_cpu_options(self):
    result = run_instances(self)
    for instance in result.result.instances:
        instance.casemate_cpu_options = self._get_param("CpuOptions", {})
        hibernation = self._get_param("HibernationOptions", {})
        instance.hibernation_options = {"Configured": hibernation.get("Configured") in (True, "true")}
    return result


detach_volume = EC2Backend.detach_volume


def detach_volume_from_wherever_it_is(self, volume_id, instance_id, device_path):
    attachment = self.get_volume(volume_id).attachment
    if not instance_id and attachment:
        instance_id = attachment.instance.id
    return detach_volume(self, volume_id, instance_id, device_path)


Instance.cpu_options = property(cpu_options)
InstanceResponse.run_instances = run_instances_with_cpu_options
EC2Backend.detach_volume = detach_volume_from_wherever_it_is
main(sys.argv[1:])
