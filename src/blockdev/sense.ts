import { OverlaybdError, type ErrorCode } from '../blob/index.js';

/** Negative errno values that a command can end with; native/tcmu_handler.c makes SCSI sense of them. */
export const Status = {
  OK: 0,
  /** Medium error: sense 3, 11/00 for reads and 0C/00 for writes. */
  IO: -5,
  /** Not now: BUSY, the initiator repeats it. */
  BUSY: -16,
  NO_DEVICE: -19,
  /** Space allocation failed: sense 7, 27/07. */
  NO_SPACE: -28,
  /** Write protected: sense 5, 30/05. */
  READ_ONLY: -30,
  /** Outside the device: sense 5, 21/00. */
  OUT_OF_RANGE: -34,
} as const;

/** How a device answers a failure, and whether a read is worth repeating before it does. */
interface Answer {
  readonly status: (typeof Status)[keyof typeof Status];
  readonly retry: boolean;
}

const medium: Answer = { status: Status.IO, retry: false };
const passing: Answer = { status: Status.IO, retry: true };

/**
 * Every code, exhaustively. Damage does not heal by repetition (the layers below have already refetched it once);
 * whatever lies outside this machine, and the cache's disk, may.
 */
const ANSWERS: Readonly<Record<ErrorCode, Answer>> = {
  OBD_FORMAT_BAD_MAGIC: medium,
  OBD_FORMAT_BAD_HEADER: medium,
  OBD_FORMAT_BAD_TRAILER: medium,
  OBD_FORMAT_BAD_INDEX: medium,
  OBD_FORMAT_CHECKSUM: medium,
  OBD_FORMAT_CORRUPT_BLOCK: medium,
  OBD_FORMAT_TRUNCATED: medium,
  OBD_FORMAT_LIMIT: medium,
  OBD_FORMAT_UNSUPPORTED: medium,
  // Credentials are renewed, blobs restored, tokens rotated while a device waits.
  OBD_REGISTRY_AUTH: passing,
  OBD_REGISTRY_NOT_FOUND: passing,
  OBD_REGISTRY_THROTTLED: passing,
  OBD_REGISTRY_SERVER: passing,
  OBD_REGISTRY_RESPONSE: passing,
  OBD_REGISTRY_CONNECTION: passing,
  OBD_REGISTRY_TIMEOUT: passing,
  OBD_REGISTRY_TLS: passing,
  OBD_REGISTRY_DIGEST: medium,
  OBD_CACHE_IO: passing,
  OBD_CACHE_FULL: passing,
  OBD_DEVICE_OUT_OF_RANGE: { status: Status.OUT_OF_RANGE, retry: false },
  OBD_DEVICE_READ_ONLY: { status: Status.READ_ONLY, retry: false },
  OBD_DEVICE_NOT_FOUND: medium,
  OBD_DEVICE_EXISTS: medium,
  OBD_DEVICE_BUSY: { status: Status.BUSY, retry: false },
  OBD_DEVICE_UNSUPPORTED: medium,
  OBD_DEVICE_KERNEL: medium,
  OBD_SNAPSHOT_NOT_FOUND: medium,
  OBD_SNAPSHOT_EXISTS: medium,
  OBD_SNAPSHOT_INVALID: medium,
  OBD_SNAPSHOT_PRECONDITION: medium,
  OBD_SNAPSHOT_UNSUPPORTED: medium,
  OBD_SNAPSHOT_METADATA: medium,
  OBD_CONTAINERD_CONNECTION: medium,
  OBD_CONTAINERD_TIMEOUT: medium,
  OBD_CONTAINERD_UNAVAILABLE: medium,
  OBD_CONTAINERD_NOT_FOUND: medium,
  OBD_CONTAINERD_EXISTS: medium,
  OBD_CONTAINERD_REFUSED: medium,
  OBD_CONFIG_SYNTAX: medium,
  OBD_CONFIG_VALUE: medium,
  OBD_CONFIG_NOT_FOUND: medium,
  OBD_CONVERT_BAD_TAR: medium,
  OBD_CONVERT_BAD_IMAGE: medium,
  OBD_CONVERT_NO_SPACE: { status: Status.NO_SPACE, retry: false },
  OBD_CONVERT_FILESYSTEM: medium,
  OBD_IO_NOT_FOUND: medium,
  OBD_IO_PERMISSION: medium,
  OBD_IO_EXISTS: medium,
  OBD_IO_NO_SPACE: { status: Status.NO_SPACE, retry: false },
  OBD_IO_FAILED: passing,
  OBD_ABORTED: { status: Status.BUSY, retry: false },
};

/** The answer to a failure. Something without a code is a bug of ours: a medium error at once. */
export function answerTo(error: unknown): Answer {
  return error instanceof OverlaybdError ? ANSWERS[error.code] : medium;
}
