/**
 * Every failure that is not a programmer's bug is an {@link OverlaybdError} with a stable `code`. Match on the code,
 * never on text. The codes stand in docs/errors.md with what to do about each.
 */

/** Codes by family; an edge (SCSI sense, exit status, retry) keeps one exhaustive table over {@link ErrorCode}. */
export const ERROR_CODES = [
  // A file or blob is not what its format says.
  'OBD_FORMAT_BAD_MAGIC',
  'OBD_FORMAT_BAD_HEADER',
  'OBD_FORMAT_BAD_TRAILER',
  'OBD_FORMAT_BAD_INDEX',
  'OBD_FORMAT_CHECKSUM',
  'OBD_FORMAT_CORRUPT_BLOCK',
  'OBD_FORMAT_TRUNCATED',
  'OBD_FORMAT_LIMIT',
  'OBD_FORMAT_UNSUPPORTED',
  // The registry, or the way to it.
  'OBD_REGISTRY_AUTH',
  'OBD_REGISTRY_NOT_FOUND',
  'OBD_REGISTRY_THROTTLED',
  'OBD_REGISTRY_SERVER',
  'OBD_REGISTRY_RESPONSE',
  'OBD_REGISTRY_CONNECTION',
  'OBD_REGISTRY_TIMEOUT',
  'OBD_REGISTRY_TLS',
  'OBD_REGISTRY_DIGEST',
  // The local cache.
  'OBD_CACHE_IO',
  'OBD_CACHE_FULL',
  // Devices and front ends.
  'OBD_DEVICE_OUT_OF_RANGE',
  'OBD_DEVICE_READ_ONLY',
  'OBD_DEVICE_NOT_FOUND',
  'OBD_DEVICE_EXISTS',
  'OBD_DEVICE_BUSY',
  'OBD_DEVICE_UNSUPPORTED',
  'OBD_DEVICE_KERNEL',
  // Snapshots.
  'OBD_SNAPSHOT_NOT_FOUND',
  'OBD_SNAPSHOT_EXISTS',
  'OBD_SNAPSHOT_INVALID',
  'OBD_SNAPSHOT_PRECONDITION',
  'OBD_SNAPSHOT_UNSUPPORTED',
  'OBD_SNAPSHOT_METADATA',
  // containerd, as a client of it.
  'OBD_CONTAINERD_CONNECTION',
  'OBD_CONTAINERD_TIMEOUT',
  'OBD_CONTAINERD_UNAVAILABLE',
  'OBD_CONTAINERD_NOT_FOUND',
  'OBD_CONTAINERD_EXISTS',
  'OBD_CONTAINERD_REFUSED',
  // Configuration and command line.
  'OBD_CONFIG_SYNTAX',
  'OBD_CONFIG_VALUE',
  'OBD_CONFIG_NOT_FOUND',
  // Conversion.
  'OBD_CONVERT_BAD_TAR',
  'OBD_CONVERT_BAD_IMAGE',
  'OBD_CONVERT_NO_SPACE',
  'OBD_CONVERT_FILESYSTEM',
  // The host's own file system.
  'OBD_IO_NOT_FOUND',
  'OBD_IO_PERMISSION',
  'OBD_IO_EXISTS',
  'OBD_IO_NO_SPACE',
  'OBD_IO_FAILED',
  // The caller gave up.
  'OBD_ABORTED',
] as const;

/** A stable name of one kind of failure. */
export type ErrorCode = (typeof ERROR_CODES)[number];

/** Codes that begin with `OBD_<Family>_`. */
export type CodeOf<Family extends string> = Extract<ErrorCode, `OBD_${Family}_${string}`>;

/** What an error knows besides its sentence. All optional; put in whatever was at hand. */
export interface ErrorFields {
  /** Where: a path, URL (without query) or digest. */
  readonly source?: string;
  /** Byte offset within `source`. */
  readonly offset?: number;
  readonly expected?: string | number;
  readonly actual?: string | number;
  /** What the reader can do about it, as a sentence without full stop. */
  readonly hint?: string;
  /** The lower layer's error. */
  readonly cause?: unknown;
}

/**
 * Base of all our errors. The message is sentence case without a full stop: the action, then expected and actual.
 * Secrets never go into a message or a field.
 */
export class OverlaybdError extends Error {
  override name = 'OverlaybdError';
  readonly code: ErrorCode;
  readonly source: string | undefined;
  readonly offset: number | undefined;
  readonly expected: string | number | undefined;
  readonly actual: string | number | undefined;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, fields: ErrorFields = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.code = code;
    this.source = fields.source;
    this.offset = fields.offset;
    this.expected = fields.expected;
    this.actual = fields.actual;
    this.hint = fields.hint;
  }
}

/** A file or blob breaks its format. Never retried against the same bytes. */
export class FormatError extends OverlaybdError {
  override name = 'FormatError';
  declare readonly code: CodeOf<'FORMAT'>;
  constructor(code: CodeOf<'FORMAT'>, message: string, fields?: ErrorFields) {
    super(code, message, fields);
  }
}

/** A registry, token server or credential service did not give what was asked. */
export class RegistryError extends OverlaybdError {
  override name = 'RegistryError';
  declare readonly code: CodeOf<'REGISTRY'>;
  constructor(code: CodeOf<'REGISTRY'>, message: string, fields?: ErrorFields) {
    super(code, message, fields);
  }
}

/** The local cache failed; the source may still be readable. */
export class CacheError extends OverlaybdError {
  override name = 'CacheError';
  declare readonly code: CodeOf<'CACHE'>;
  constructor(code: CodeOf<'CACHE'>, message: string, fields?: ErrorFields) {
    super(code, message, fields);
  }
}

/** A device, its front end or the kernel behind it refused. */
export class DeviceError extends OverlaybdError {
  override name = 'DeviceError';
  declare readonly code: CodeOf<'DEVICE'>;
  constructor(code: CodeOf<'DEVICE'>, message: string, fields?: ErrorFields) {
    super(code, message, fields);
  }
}

/** A snapshot cannot be made, found or changed as asked. */
export class SnapshotError extends OverlaybdError {
  override name = 'SnapshotError';
  declare readonly code: CodeOf<'SNAPSHOT'>;
  constructor(code: CodeOf<'SNAPSHOT'>, message: string, fields?: ErrorFields) {
    super(code, message, fields);
  }
}

/** containerd did not give what was asked; `cause` is gRPC's error. */
export class ContainerdError extends OverlaybdError {
  override name = 'ContainerdError';
  declare readonly code: CodeOf<'CONTAINERD'>;
  constructor(code: CodeOf<'CONTAINERD'>, message: string, fields?: ErrorFields) {
    super(code, message, fields);
  }
}

/** A configuration file or command line is wrong. */
export class ConfigError extends OverlaybdError {
  override name = 'ConfigError';
  declare readonly code: CodeOf<'CONFIG'>;
  constructor(code: CodeOf<'CONFIG'>, message: string, fields?: ErrorFields) {
    super(code, message, fields);
  }
}

/** An image cannot be converted. */
export class ConvertError extends OverlaybdError {
  override name = 'ConvertError';
  declare readonly code: CodeOf<'CONVERT'>;
  constructor(code: CodeOf<'CONVERT'>, message: string, fields?: ErrorFields) {
    super(code, message, fields);
  }
}

/** The host's file system refused; `cause` is Node's error. */
export class IoError extends OverlaybdError {
  override name = 'IoError';
  declare readonly code: CodeOf<'IO'>;
  constructor(code: CodeOf<'IO'>, message: string, fields?: ErrorFields) {
    super(code, message, fields);
  }
}

const IO_CODES: Readonly<Record<string, CodeOf<'IO'>>> = {
  ENOENT: 'OBD_IO_NOT_FOUND',
  ENOTDIR: 'OBD_IO_NOT_FOUND',
  EACCES: 'OBD_IO_PERMISSION',
  EPERM: 'OBD_IO_PERMISSION',
  EROFS: 'OBD_IO_PERMISSION',
  EEXIST: 'OBD_IO_EXISTS',
  ENOSPC: 'OBD_IO_NO_SPACE',
  EDQUOT: 'OBD_IO_NO_SPACE',
};

/** True for errors of `node:fs` and other system calls, which carry `code` and `errno`. */
export function isSystemError(error: unknown): error is NodeJS.ErrnoException & { code: string } {
  return error instanceof Error && typeof (error as NodeJS.ErrnoException).code === 'string';
}

/**
 * Turns an error of `node:fs` into an {@link IoError}; an {@link OverlaybdError} passes unchanged.
 * @param action what was tried and on what, for the message: `open "/x/y"`.
 */
export function ioError(error: unknown, action: string, source: string): OverlaybdError {
  if (error instanceof OverlaybdError) return error;
  const code = isSystemError(error) ? (IO_CODES[error.code] ?? 'OBD_IO_FAILED') : 'OBD_IO_FAILED';
  const reason = error instanceof Error ? error.message : String(error);
  return new IoError(code, `Cannot ${action}: ${reason}`, { source, cause: error });
}

/** The error a cancelled call rejects with. */
export function abortedError(action: string, signal?: AbortSignal): OverlaybdError {
  return new OverlaybdError('OBD_ABORTED', `Cancelled: ${action}`, { cause: signal?.reason });
}
