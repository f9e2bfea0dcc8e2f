/** The edge between gRPC and {@link Snapshotter}: messages, batches, status codes. No rule of snapshots lives here. */
import { once } from 'node:events';
import {
  status,
  type sendUnaryData,
  type ServerUnaryCall,
  type ServerWritableStream,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { OverlaybdError, type ErrorCode } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import { GrpcMetrics } from './grpc-metrics.js';
import type { SnapshotRecord } from './records.js';
import type { Snapshotter } from './snapshotter.js';
import {
  Kind,
  type CommitRequest,
  type CreateRequest,
  type Info,
  type KeyRequest,
  type ListRequest,
  type Timestamp,
  type UpdateRequest,
} from './wire.js';

/** As containerd's own servers do. */
const LIST_BATCH = 100;
/** gRPC carries a message in a header; a longer one may be dropped on the way. */
const MAX_MESSAGE = 4000;

/** gRPC's status for a code of ours. */
export function grpcStatus(code: ErrorCode): status {
  switch (code) {
    case 'OBD_SNAPSHOT_NOT_FOUND':
      return status.NOT_FOUND;
    case 'OBD_SNAPSHOT_EXISTS':
      return status.ALREADY_EXISTS;
    case 'OBD_SNAPSHOT_INVALID':
      return status.INVALID_ARGUMENT;
    case 'OBD_SNAPSHOT_PRECONDITION':
      return status.FAILED_PRECONDITION;
    case 'OBD_SNAPSHOT_UNSUPPORTED':
      return status.UNIMPLEMENTED;
    case 'OBD_REGISTRY_CONNECTION':
    case 'OBD_REGISTRY_TIMEOUT':
    case 'OBD_REGISTRY_THROTTLED':
    case 'OBD_REGISTRY_SERVER':
    case 'OBD_ABORTED':
      return status.UNAVAILABLE;
    default:
      return status.UNKNOWN;
  }
}

/** The sentence that reaches `ctr`: the error, what caused it, and what to do. */
export function errorText(error: unknown): string {
  const parts: string[] = [];
  for (let e = error, depth = 0; e instanceof Error && depth < 8; e = e.cause, depth++)
    if (!parts.some((part) => part.includes(e.message))) parts.push(e.message);
  const hint = error instanceof OverlaybdError && error.hint !== undefined ? ` (${error.hint})` : '';
  return `${parts.join(': ') || String(error)}${hint}`.slice(0, MAX_MESSAGE);
}

function timestamp(micros: number): Timestamp {
  const seconds = Math.floor(micros / 1e6);
  return { seconds, nanos: (micros - seconds * 1e6) * 1000 };
}

const KINDS = { view: Kind.VIEW, active: Kind.ACTIVE, committed: Kind.COMMITTED } as const;

function info(record: SnapshotRecord): Info {
  return {
    name: record.name,
    parent: record.parent,
    kind: KINDS[record.kind],
    createdAt: timestamp(record.createdAt),
    updatedAt: timestamp(record.updatedAt),
    labels: record.labels,
  };
}

/** Handlers of the service, for a gRPC server. */
export function snapshotsHandlers(
  snapshotter: Snapshotter,
  log: Logger,
  metrics: GrpcMetrics = new GrpcMetrics(),
): UntypedServiceImplementation {
  const failure = (method: string, error: unknown): { code: status; details: string } => {
    const code = error instanceof OverlaybdError ? grpcStatus(error.code) : status.UNKNOWN;
    const details = errorText(error);
    if (code === status.UNKNOWN || code === status.UNAVAILABLE)
      log.error({ method, err: error }, 'request failed');
    else log.debug({ method, code, details }, 'request refused');
    return { code, details };
  };
  const unary =
    <Request, Response>(
      method: string,
      answer: (request: Request, gone: () => boolean) => Promise<Response> | Response,
    ) =>
    (call: ServerUnaryCall<Request, Response>, reply: sendUnaryData<Response>): void => {
      const began = performance.now();
      void (async () => answer(call.request, () => call.cancelled))().then(
        (response) => {
          metrics.ended(method, performance.now() - began, true);
          log.debug({ method, ms: Math.round(performance.now() - began) }, 'request answered');
          reply(null, response);
        },
        (error: unknown) => {
          metrics.ended(method, performance.now() - began, false);
          reply(failure(method, error));
        },
      );
    };
  const list = async (call: ServerWritableStream<ListRequest, { info: Info[] }>): Promise<void> => {
    const found = snapshotter.list(call.request.filters);
    for (let i = 0; i < found.length && !call.cancelled; i += LIST_BATCH)
      if (!call.write({ info: found.slice(i, i + LIST_BATCH).map(info) }))
        await Promise.race([once(call, 'drain'), once(call, 'cancelled')]);
    call.end();
  };
  return {
    Prepare: unary('Prepare', async (request: CreateRequest, gone) => ({
      mounts: await snapshotter.prepare(request.key, request.parent, request.labels, gone),
    })),
    View: unary('View', async (request: CreateRequest, gone) => ({
      mounts: await snapshotter.view(request.key, request.parent, request.labels, gone),
    })),
    Mounts: unary('Mounts', async ({ key }: KeyRequest) => ({ mounts: await snapshotter.mounts(key) })),
    Commit: unary('Commit', async ({ name, key, labels, parent }: CommitRequest) => {
      await snapshotter.commit(name, key, labels, parent);
      return {};
    }),
    Remove: unary('Remove', async ({ key }: KeyRequest) => {
      await snapshotter.remove(key);
      return {};
    }),
    Stat: unary('Stat', ({ key }: KeyRequest) => ({ info: info(snapshotter.stat(key)) })),
    Update: unary('Update', (request: UpdateRequest) => ({
      info: info(
        snapshotter.update(
          request.info?.name ?? '',
          request.info?.labels ?? {},
          request.updateMask?.paths ?? [],
        ),
      ),
    })),
    Usage: unary('Usage', ({ key }: KeyRequest) => snapshotter.usage(key)),
    Cleanup: unary('Cleanup', async () => {
      await snapshotter.cleanup();
      return {};
    }),
    List: (call: ServerWritableStream<ListRequest, { info: Info[] }>) => {
      const began = performance.now();
      list(call).then(
        () => {
          metrics.ended('List', performance.now() - began, true);
        },
        (error: unknown) => {
          metrics.ended('List', performance.now() - began, false);
          call.emit('error', failure('List', error));
        },
      );
    },
  };
}
