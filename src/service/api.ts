/**
 * The admin API's words: HTTP and JSON on a Unix socket. docs/service.md lists the calls. One version number covers
 * all of it; a field may be added without a new version, and readers ignore what they do not know.
 */
import { z } from 'zod';
import { ERROR_CODES, OverlaybdError, type ErrorCode } from '../blob/index.js';
import { DEVICE_ID } from '../blockdev/index.js';

/** Version of the API, first part of every path. */
export const API_VERSION = 1;
/** Most bytes of a request's body: a path, a name and a few options. */
export const MAX_BODY = 64 * 1024;

/**
 * Life of a device: `opening` ends in `ready` or `failed`; `detaching` ends with the entry. A ready one becomes `degraded`
 * while I/O fails and is repeated, `blocked` when its policy's deadline is over, and `ready` again by itself.
 */
export const DEVICE_STATES = ['opening', 'ready', 'degraded', 'blocked', 'failed', 'detaching'] as const;
/** One of {@link DEVICE_STATES}. */
export type DeviceState = (typeof DEVICE_STATES)[number];
/** True if the device can be used: it is there, though its I/O may wait or fail. */
export function isAttached(state: DeviceState): boolean {
  return state === 'ready' || state === 'degraded' || state === 'blocked';
}

/** How a caller chooses the front end; `auto` takes TCMU where the machine has it, else FUSE. */
export const TRANSPORT_CHOICES = ['auto', 'tcmu', 'fuse', 'nbd'] as const;
/** One of {@link TRANSPORT_CHOICES}. */
export type TransportChoice = (typeof TRANSPORT_CHOICES)[number];

const errorSchema = z.object({
  code: z.string(),
  message: z.string(),
  hint: z.string().optional(),
  causes: z.array(z.string()).optional(),
});
/** An error as the API tells it. `causes` go from the nearest to the first. */
export type ApiError = z.infer<typeof errorSchema>;

/** See {@link DeviceInfo}. */
export const deviceSchema = z.object({
  id: z.string(),
  state: z.enum(DEVICE_STATES),
  transport: z.string(),
  configPath: z.string(),
  /** The reference it was attached by, if it was. */
  image: z.string().optional(),
  /** `/dev/loop0`, `/dev/sda`; absent while it is not known. */
  devicePath: z.string().optional(),
  size: z.number().optional(),
  readOnly: z.boolean().optional(),
  /** ISO time: when opening began. */
  since: z.string(),
  /** ISO time: since when it is degraded or blocked. */
  stateSince: z.string().optional(),
  /** What happens to I/O that fails: repeated for `retry` seconds, then `error` or `hold`. */
  ioPolicy: z.object({ retry: z.number(), then: z.string() }).optional(),
  /** Clients that have it open now, on NBD. */
  connections: z.number().optional(),
  /** Commands that wait because they failed. */
  waiting: z.number().optional(),
  /** How long opening took. */
  openMs: z.number().optional(),
  reads: z.number(),
  bytesRead: z.number(),
  /** Bytes that came from the registry for this device. */
  bytesFetched: z.number(),
  /** Stored bytes of the image's remote layers; 0 if all of it is local. */
  remoteBytes: z.number(),
  /** How many of those are on local disk now. */
  presentBytes: z.number(),
  /**
   * The background download, if there is one: `waiting`, `running`, `done` or `stopped`, how much it brought, how many
   * layers it gave up, and why its last attempt failed.
   */
  download: z
    .object({
      state: z.string(),
      bytes: z.number(),
      layersFailed: z.number().optional(),
      failure: errorSchema.optional(),
    })
    .optional(),
  /** Reads or writes that ended in an error. */
  errors: z.number(),
  /** Why it failed, is degraded or blocked; or its last error. */
  reason: errorSchema.optional(),
});
/** One line of `obd list`. */
export type DeviceInfo = z.infer<typeof deviceSchema>;

const snapshotSchema = z.object({
  /** The device. */
  id: z.string(),
  configPath: z.string(),
  /** The layer that was the device's upper. */
  sealed: z.string(),
  /** Data file of its upper now. */
  upper: z.string(),
  /** For how long writes waited. */
  pauseMs: z.number(),
});
/** A live snapshot that was taken. */
export type SnapshotInfo = z.infer<typeof snapshotSchema>;

/** Body of a snapshot: the absolute path of the configuration that takes the place of the device's. */
export const snapshotBodySchema = z.strictObject({ configPath: z.string().startsWith('/').max(4096) });

const trafficSchema = z.object({
  /** A clock of the service's, in ms; only differences mean something. */
  atMs: z.number(),
  /** `meter` is laid out as `DeviceMeter.words`; empty if the device does not count. */
  devices: z.array(z.object({ device: deviceSchema, meter: z.array(z.number()) })),
});
/** All devices and their meters, for who shows what happens between two looks. */
export type TrafficAnswer = z.infer<typeof trafficSchema>;

const deviceListSchema = z.object({ devices: z.array(deviceSchema) });

const abortSchema = z.object({ aborted: z.number(), device: deviceSchema });
/** What an abort did: how many commands it failed, and the device afterwards. */
export type AbortAnswer = z.infer<typeof abortSchema>;

const serviceSchema = z.object({
  version: z.string(),
  api: z.number(),
  pid: z.number(),
  configPath: z.string(),
  since: z.string(),
  /** Ends with its last device: started by `obd attach`. */
  ephemeral: z.boolean(),
  transports: z.array(z.string()),
});
/** Who answers. */
export type ServiceInfo = z.infer<typeof serviceSchema>;

/** Body of an attach: exactly one of `configPath` and `image`. */
export const attachBodySchema = z
  .strictObject({
    /** Absolute path of an image configuration. */
    configPath: z.string().startsWith('/').max(4096).optional(),
    /** `docker://host/repository:tag` or `oci:/absolute/directory:tag`. */
    image: z.string().min(1).max(4096).optional(),
    id: z.string().regex(DEVICE_ID, 'expected 1 to 13 of letters, digits, "_" and "-"').optional(),
    transport: z.enum(TRANSPORT_CHOICES).optional(),
    /** Speak plain HTTP to the image's registry. */
    plainHttp: z.boolean().optional(),
  })
  .refine((body) => (body.configPath === undefined) !== (body.image === undefined), {
    error: 'expected exactly one of configPath and image',
  });
/** Body of an attach. */
export type AttachBody = z.infer<typeof attachBodySchema>;

/** What the client makes of answers; a service of another version may say something else. */
export const answerSchemas = {
  service: serviceSchema,
  device: deviceSchema,
  devices: deviceListSchema,
  traffic: trafficSchema,
  abort: abortSchema,
  snapshot: snapshotSchema,
  error: z.object({ error: errorSchema }),
} as const;

/** HTTP status for a code; the code is what a client matches on. */
export function httpStatus(code: ErrorCode): number {
  switch (code) {
    case 'OBD_DEVICE_NOT_FOUND':
      return 404;
    case 'OBD_DEVICE_EXISTS':
    case 'OBD_DEVICE_BUSY':
      return 409;
    case 'OBD_CONFIG_SYNTAX':
    case 'OBD_CONFIG_VALUE':
    case 'OBD_CONFIG_NOT_FOUND':
      return 400;
    case 'OBD_ABORTED':
      return 503;
    default:
      return code.startsWith('OBD_REGISTRY_') ? 502 : 500;
  }
}

/** The error for the wire: no stack, no fields that might hold more than the message says. */
export function toApiError(error: unknown): ApiError {
  const causes: string[] = [];
  for (let e = error instanceof Error ? error.cause : undefined; causes.length < 8; e = e.cause) {
    if (!(e instanceof Error)) break;
    causes.push(e.message);
  }
  const known = error instanceof OverlaybdError;
  return {
    code: known ? error.code : 'OBD_IO_FAILED',
    message: error instanceof Error ? error.message : String(error),
    ...(known && error.hint !== undefined ? { hint: error.hint } : {}),
    ...(causes.length > 0 ? { causes } : {}),
  };
}

/** The error again, on the client's side; a code that this version does not know counts as unforeseen. */
export function fromApiError(wire: ApiError): OverlaybdError {
  const known = (ERROR_CODES as readonly string[]).includes(wire.code);
  let cause: Error | undefined;
  for (const message of (wire.causes ?? []).toReversed())
    cause = new Error(message, cause === undefined ? undefined : { cause });
  return new OverlaybdError(known ? (wire.code as ErrorCode) : 'OBD_IO_FAILED', wire.message, {
    ...(wire.hint === undefined ? {} : { hint: wire.hint }),
    ...(cause === undefined ? {} : { cause }),
  });
}
