/** Rows of the list of devices, each put together of what front ends, openings and the table know. */
import { basename, dirname } from 'node:path';
import type { Attachment, Transport } from '../blockdev/index.js';
import { toApiError, type DeviceInfo } from './api.js';
import { downloadInfo } from './download-info.js';
import type { ImageStats, Opening } from './openings.js';

/** A request of ours that is under way, or has failed. */
export interface Pending {
  readonly request: { readonly image?: string | undefined };
  readonly transport: Transport;
  readonly since: Date;
  configPath: string;
  failed: { readonly error: unknown } | undefined;
}

/** What the front end does not know of a device. */
export interface Known {
  readonly opening: Opening | undefined;
  readonly detaching: boolean;
  /** How the user named the image. */
  readonly image: string | undefined;
}

const NO_TRAFFIC = { reads: 0, bytesRead: 0, errors: 0 };
const NO_STATS: ImageStats = { bytesFetched: 0, remoteBytes: 0, presentBytes: 0 };

/** What is said of a device that is attached. */
export function ofAttachment(attachment: Attachment, { opening, detaching, image }: Known): DeviceInfo {
  const { bytesFetched, remoteBytes, presentBytes, download } = opening?.image?.stats() ?? NO_STATS;
  const counters = attachment.served?.counters;
  const health = attachment.guard?.health;
  const { policy } = attachment.device;
  return {
    id: attachment.id,
    state: detaching ? 'detaching' : (health?.state ?? 'ready'),
    transport: attachment.transport,
    configPath: attachment.configPath,
    ...(image === undefined ? {} : { image }),
    ...(attachment.devicePath === undefined ? {} : { devicePath: attachment.devicePath }),
    ...(health?.since === undefined ? {} : { stateSince: health.since.toISOString() }),
    ioPolicy: { retry: policy.deadlineMs / 1000, then: policy.then },
    ...(attachment.connections === undefined ? {} : { connections: attachment.connections }),
    waiting: health?.retrying ?? 0,
    size: attachment.device.size,
    readOnly: attachment.device.readOnly,
    since: (opening?.startedAt ?? health?.since ?? new Date(0)).toISOString(),
    ...(opening?.endedAt === undefined
      ? {}
      : { openMs: opening.endedAt.getTime() - opening.startedAt.getTime() }),
    reads: counters?.reads ?? 0,
    bytesRead: counters?.readBytes ?? 0,
    errors: health?.errors ?? 0,
    bytesFetched,
    remoteBytes,
    presentBytes,
    ...(download === undefined ? {} : { download: downloadInfo(download) }),
    ...(health?.since !== undefined
      ? { reason: toApiError(health.reason) }
      : health?.lastError === undefined
        ? {}
        : { reason: { code: 'OBD_IO_FAILED', message: health.lastError } }),
  };
}

/** What is said of a request. */
export function ofPending(id: string, pending: Pending): DeviceInfo {
  const { image } = pending.request;
  return {
    id,
    state: pending.failed === undefined ? 'opening' : 'failed',
    transport: pending.transport,
    configPath: pending.configPath,
    ...(image === undefined ? {} : { image }),
    since: pending.since.toISOString(),
    ...NO_TRAFFIC,
    bytesFetched: 0,
    remoteBytes: 0,
    presentBytes: 0,
    ...(pending.failed === undefined ? {} : { reason: toApiError(pending.failed.error) }),
  };
}

/** What is said of an image that the kernel asked for. */
export function ofOpening(opening: Opening, transport: Transport): DeviceInfo {
  return {
    id: basename(dirname(opening.configPath)),
    state: opening.endedAt === undefined ? 'opening' : 'failed',
    transport,
    configPath: opening.configPath,
    since: opening.startedAt.toISOString(),
    ...NO_TRAFFIC,
    bytesFetched: 0,
    remoteBytes: 0,
    presentBytes: 0,
    ...(opening.error === undefined ? {} : { reason: toApiError(opening.error) }),
  };
}
