/** From gRPC's errors to ours. */
import { status, type ServiceError } from '@grpc/grpc-js';
import { abortedError, ContainerdError, OverlaybdError, type CodeOf } from '../blob/index.js';

/** True for what a call rejects with. */
export function isServiceError(error: unknown): error is ServiceError {
  return (
    error instanceof Error && typeof (error as Partial<ServiceError>).code === 'number' && 'details' in error
  );
}

function codeOf(grpc: status): CodeOf<'CONTAINERD'> {
  switch (grpc) {
    case status.NOT_FOUND:
      return 'OBD_CONTAINERD_NOT_FOUND';
    case status.ALREADY_EXISTS:
      return 'OBD_CONTAINERD_EXISTS';
    case status.DEADLINE_EXCEEDED:
      return 'OBD_CONTAINERD_TIMEOUT';
    case status.UNAVAILABLE:
      return 'OBD_CONTAINERD_UNAVAILABLE';
    default:
      return 'OBD_CONTAINERD_REFUSED';
  }
}

/**
 * The error of a call, with containerd's own sentence. Ours pass unchanged.
 * @param action what was tried, for the message: `prepare snapshot "x"`.
 * @param address containerd's socket.
 */
export function callError(
  error: unknown,
  action: string,
  address: string,
  signal?: AbortSignal,
): OverlaybdError {
  if (error instanceof OverlaybdError) return error;
  if (signal?.aborted === true) return abortedError(action, signal);
  const grpc = isServiceError(error) ? error.code : status.UNKNOWN;
  const said = isServiceError(error) ? error.details : error instanceof Error ? error.message : String(error);
  return new ContainerdError(codeOf(grpc), `Cannot ${action}: containerd says "${said}"`, {
    source: address,
    ...(grpc === status.UNIMPLEMENTED && { hint: 'containerd 1.6 or newer is expected' }),
    cause: error,
  });
}
