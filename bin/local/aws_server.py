"""ministack as a server in which EC2's own events can be put.

PutEvents refuses sources that begin with `aws.`, as AWS does: only AWS itself puts those. Here the feed of
bin/local/ec2-feed.ts stands where EC2 stands, so the bus takes them.
"""
from ministack.app import main
from ministack.services import eventbridge

put_events = eventbridge._put_events
eventbridge._put_events = lambda data, **_: put_events(data, allow_aws_source=True)
main()
