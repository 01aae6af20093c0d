import * as z from 'zod';

/** EC2 ids: a prefix and 8 or 17 lower-case hex digits. */
const ec2Id = (prefix: string) => z.string().regex(new RegExp(`^${prefix}-[0-9a-f]{8}([0-9a-f]{9})?$`));

export const instanceId = ec2Id('i');
export const volumeId = ec2Id('vol');
export const interfaceId = ec2Id('eni');
export const groupId = ec2Id('sg');

/** A disk is a LUKS UUID that the pipeline chose. */
export const diskUuid = z.uuid();

/** ISO 8601 in UTC, as all our times are. */
export const utcTime = z.iso.datetime();

export const accountId = z.string().regex(/^\d{12}$/);
export const region = z.string().regex(/^[a-z]{2,4}(-[a-z]+)+-\d$/);
