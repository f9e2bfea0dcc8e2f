import { isSystemError, OverlaybdError, type ErrorCode } from '../blob/index.js';

/**
 * An image could not be opened. `code` is that of what failed; `message` names the layer and its file or URL; `reason` is
 * what the result file says, in the words of the reference, for which clients search.
 */
export class ImageError extends OverlaybdError {
  override name = 'ImageError';
  readonly reason: string;
  constructor(error: OverlaybdError, message: string, reason: string) {
    super(error.code, message, {
      cause: error,
      ...(error.source === undefined ? {} : { source: error.source }),
      ...(error.offset === undefined ? {} : { offset: error.offset }),
      ...(error.expected === undefined ? {} : { expected: error.expected }),
      ...(error.actual === undefined ? {} : { actual: error.actual }),
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    });
    this.reason = reason;
  }
}

/** Anything thrown, as an {@link OverlaybdError}: unforeseen errors of the system pass as I/O failures. */
export function asOverlaybdError(error: unknown): OverlaybdError {
  if (error instanceof OverlaybdError) return error;
  if (isSystemError(error)) return new OverlaybdError('OBD_IO_FAILED', error.message, { cause: error });
  // A programmer's error is not to be dressed up.
  throw error;
}

/** The reference's words for a failure at a registry (service.md B.3). */
export function failureKind(code: ErrorCode): string {
  switch (code) {
    case 'OBD_REGISTRY_AUTH':
    case 'OBD_IO_PERMISSION':
      return 'Authentication failed';
    case 'OBD_REGISTRY_CONNECTION':
    case 'OBD_REGISTRY_TLS':
      return 'Connection failed';
    case 'OBD_REGISTRY_TIMEOUT':
      return 'Get meta timedout';
    case 'OBD_REGISTRY_NOT_FOUND':
    case 'OBD_IO_NOT_FOUND':
      return 'No such file or directory';
    case 'OBD_REGISTRY_THROTTLED':
      return 'Too many requests';
    default:
      return 'Unexpected response';
  }
}
