/**
 * What a device's users read and what was fetched for it, in the words of the admin API: `GET /v1/devices/KEY/activity`.
 * `obd report` draws it.
 */
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { z } from 'zod';
import { ConfigError } from '../blob/index.js';
import type { ReadRecord } from '../blockdev/index.js';
import { FETCH_CAUSES, type FetchRecord } from '../image/index.js';
import { deviceSchema, type DeviceInfo } from './api.js';

/** Most bytes of a map, unpacked: see read-record.ts and fetch-record.ts, whose bound this is. */
const MAX_MAP = 2 * 1024 * 1024;

/** Times are milliseconds since 1970. Maps are packed with {@link packMap}. */
export const activitySchema = z.object({
  device: deviceSchema,
  /** When this was put together. */
  time: z.number(),
  reads: z.object({
    /** Bytes of a piece of the device; a power of two. */
    pieceSize: z.number().int().min(512),
    /** A bit per piece, lowest first: 1 if some of it was read. */
    map: z.string(),
    /** The first reads: time, offset, length, 1 if all of it was on local disk. */
    first: z.array(z.tuple([z.number(), z.number(), z.number(), z.number()])),
  }),
  fetches: z.object({
    causes: z.array(z.string()).max(254),
    blobs: z.array(
      z.object({
        digest: z.string(),
        /** Bytes as stored. */
        size: z.number(),
        requests: z.number(),
        failed: z.number(),
        /** Bytes that came, by cause. */
        bytes: z.array(z.number()),
        pieceSize: z.number().int().min(512),
        /** A byte per piece of the stored blob: 0, or 1 and the number of the cause that it came for. */
        map: z.string(),
      }),
    ),
    /** The first requests: time, number of the blob, offset, length, how long it took, number of the cause, 1 if it went well. */
    first: z.array(
      z.tuple([z.number(), z.number(), z.number(), z.number(), z.number(), z.number(), z.number()]),
    ),
    /** Requests after those. */
    omitted: z.number(),
  }),
});
/** What happened on one device. */
export type DeviceActivity = z.infer<typeof activitySchema>;

/** Packs a map for JSON; zeroes at its end are left out. */
export function packMap(map: Uint8Array): string {
  let end = map.length;
  while (end > 0 && map[end - 1] === 0) end--;
  // At most 2 MiB, mostly zeroes: a few milliseconds at worst.
  return deflateRawSync(map.subarray(0, end), { level: 1 }).toString('base64');
}

/** The map again. @throws ConfigError if it is not one */
export function unpackMap(text: string): Uint8Array {
  try {
    return inflateRawSync(Buffer.from(text, 'base64'), { maxOutputLength: MAX_MAP });
  } catch (error) {
    throw new ConfigError('OBD_CONFIG_SYNTAX', 'Cannot read the map of a device: it is not what was packed', {
      cause: error,
    });
  }
}

/** Puts together what two records hold; either may be missing. */
export function activityOf(
  device: DeviceInfo,
  reads: ReadRecord | undefined,
  fetches: FetchRecord | undefined,
): DeviceActivity {
  return {
    device,
    time: Date.now(),
    reads: {
      pieceSize: reads?.memory.pieceSize ?? 4096,
      map: packMap(reads?.memory.bits ?? new Uint8Array()),
      first: (reads?.firstReads() ?? []).map((r) => [r.time, r.offset, r.length, Number(r.local)]),
    },
    fetches: {
      causes: [...FETCH_CAUSES],
      blobs: (fetches?.blobs ?? []).map((blob) => ({
        digest: blob.digest,
        size: blob.size,
        requests: blob.requests,
        failed: blob.failed,
        bytes: [...blob.bytes],
        pieceSize: blob.pieceSize,
        map: packMap(blob.map ?? new Uint8Array()),
      })),
      first: (fetches?.requests ?? []).map((r) => [
        r.time,
        r.blob,
        r.offset,
        r.length,
        r.milliseconds,
        FETCH_CAUSES.indexOf(r.cause),
        Number(r.ok),
      ]),
      omitted: fetches?.omitted ?? 0,
    },
  };
}
