"""ministack as a server, with what AWS does and Casemate's embedded cloud needs.

- EC2's own events can be put. PutEvents refuses sources that begin with `aws.`, as AWS does: only AWS itself
  puts those. Here the feed of bin/local/ec2-feed.ts stands where EC2 stands, so the bus takes them.
- A function gets batches as large as its mapping says, gathered for as long as its window says. ministack
  hands over what is there, ten messages at most.
- KMS answers ReEncrypt, which ministack does not know: its own Decrypt and its own Encrypt, one after the other.
"""
import json
import time

from ministack.app import main
from ministack.services import eventbridge, kms, lambda_svc, sqs

put_events = eventbridge._put_events
eventbridge._put_events = lambda data, **_: put_events(data, allow_aws_source=True)


handle_kms = kms.handle_request


def re_encrypt(data):
    decrypted = kms._decrypt({"KeyId": data.get("SourceKeyId", ""), "CiphertextBlob": data["CiphertextBlob"],
                              "EncryptionContext": data.get("SourceEncryptionContext", {})})
    if decrypted[0] != 200:
        return decrypted
    plain = json.loads(decrypted[2])
    status, headers, body = kms._encrypt({"KeyId": data["DestinationKeyId"], "Plaintext": plain["Plaintext"],
                                          "EncryptionContext": data.get("DestinationEncryptionContext", {})})
    if status != 200:
        return status, headers, body
    return status, headers, json.dumps({**json.loads(body), "SourceKeyId": plain["KeyId"]}).encode()


async def handle_kms_with_re_encrypt(method, path, headers, body, query_params):
    if headers.get("x-amz-target", "").endswith(".ReEncrypt"):
        return re_encrypt(json.loads(body))
    return await handle_kms(method, path, headers, body, query_params)


kms.handle_request = handle_kms_with_re_encrypt


def window_of(queue):
    arn = queue["attributes"].get("QueueArn")
    windows = [m.get("MaximumBatchingWindowInSeconds", 0) for _, _, m in lambda_svc._iter_all_esms()
               if m.get("EventSourceArn") == arn]
    return max(windows, default=0)


def gather(queue_url, size):
    """Lambda invokes when the window is over since the first message, or the batch is full."""
    with sqs._queues_lock:
        queue = sqs._get_q(queue_url)
        sqs._expire_retained(queue)
        sqs._dlq_sweep(queue)
        now = time.time()
        since = [m.get("visible_at", now) for m in queue["messages"] if m.get("visible_at", now) <= now]
        if len(since) < size and now - min(since, default=now) < window_of(queue):
            return []
        return sqs._collect_msgs(queue, size, int(queue["attributes"].get("VisibilityTimeout", "30")))


sqs._receive_messages_for_esm = gather
main()
