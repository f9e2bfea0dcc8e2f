/**
 * One connection to containerd's socket: unary calls, streams, deadlines. What is asked for is in client.ts and its
 * neighbours. This file and those it imports are loaded when a connection is made, not before: gRPC takes its time.
 */
import { createConnection } from 'node:net';
import { Client, Metadata, credentials, type CallOptions as GrpcCallOptions } from '@grpc/grpc-js';
import { ContainerdError, isSystemError } from '../blob/index.js';
import { callError } from './failures.js';
import { methodOf } from './wire.js';

/** Largest message, either way: containerd's own limit. */
const MAX_MESSAGE = 16 * 1024 * 1024;
/** containerd's garbage collection holds everything up, for tens of seconds on a large node. */
const UNARY_MS = 120_000;
/** The first answer: whoever listens there is either containerd or not. */
const HELLO_MS = 15_000;

/** Options of one call. */
export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  /** What the call makes or touches is kept from garbage collection by this lease. */
  readonly lease?: string | undefined;
}

/** Options of a unary call. */
export interface UnaryOptions extends CallOptions {
  /** Limit of the call. */
  readonly timeoutMs?: number;
  /** For the error: `prepare snapshot "x"`. */
  readonly action: string;
}

/** A stream that answers, and takes requests if its method does. */
export interface Stream<Request, Response> {
  /** Sends one request. Await an answer before the next one, so that nothing piles up. */
  send(request: Request): void;
  /** The next answer; undefined at the end. @throws ContainerdError OBD_CONTAINERD_TIMEOUT if none comes in time */
  next(): Promise<Response | undefined>;
  /** Aborted when containerd has ended it with an error, which {@link next} tells when the answers before it are read. */
  readonly failed: AbortSignal;
  /** Ends it, whatever is under way. Idempotent. */
  close(): void;
}

interface CallStream<Response> extends AsyncIterable<Response> {
  write?(request: object): boolean;
  cancel(): void;
  on(event: 'error', listener: () => void): void;
}

/** See the head of this file. Calls may overlap. */
export class Connection {
  readonly address: string;
  readonly #client: Client;
  readonly #namespace: string;

  private constructor(address: string, namespace: string) {
    this.address = address;
    this.#namespace = namespace;
    this.#client = new Client(`unix:${address}`, credentials.createInsecure(), {
      'grpc.max_receive_message_length': MAX_MESSAGE,
      'grpc.max_send_message_length': MAX_MESSAGE,
    });
  }

  /**
   * Connects and asks for the version.
   * @throws ContainerdError OBD_CONTAINERD_CONNECTION if there is no socket, nobody listens, or it is not containerd.
   */
  static async open(
    address: string,
    namespace: string,
    options: CallOptions = {},
  ): Promise<{ readonly connection: Connection; readonly version: string }> {
    await probe(address);
    const connection = new Connection(address, namespace);
    try {
      const { version } = await connection.call<{ version: string }>(
        'version.v1.Version/Version',
        {},
        { ...options, timeoutMs: HELLO_MS, action: 'ask for its version' },
      );
      return { connection, version };
    } catch (error) {
      connection.close();
      if (!(error instanceof ContainerdError)) throw error;
      throw new ContainerdError(
        'OBD_CONTAINERD_CONNECTION',
        `Cannot use "${address}": it does not answer as containerd`,
        {
          source: address,
          cause: error,
        },
      );
    }
  }

  /** One request, one answer. */
  async call<Response>(method: string, request: object, options: UnaryOptions): Promise<Response> {
    const { signal, action, timeoutMs = UNARY_MS } = options;
    const { path, requestSerialize, responseDeserialize } = methodOf(method);
    let stop = (): void => undefined;
    try {
      signal?.throwIfAborted();
      return await new Promise<Response>((resolve, reject) => {
        const call = this.#client.makeUnaryRequest(
          path,
          requestSerialize,
          responseDeserialize,
          request,
          this.#metadata(options),
          { deadline: Date.now() + timeoutMs },
          (error, response) => {
            if (error === null) resolve(response as Response);
            else reject(error);
          },
        );
        stop = () => {
          call.cancel();
        };
        signal?.addEventListener('abort', stop, { once: true });
      });
    } catch (error) {
      throw callError(error, action, this.address, signal);
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }

  /** A method with streams. The caller closes it. `timeoutMs` is how long each answer may take. */
  stream<Request extends object, Response>(
    method: string,
    first: Request,
    options: UnaryOptions,
  ): Stream<Request, Response> {
    const { path, requestStream, requestSerialize, responseDeserialize } = methodOf(method);
    const metadata = this.#metadata(options);
    const none: GrpcCallOptions = {};
    const call = (requestStream
      ? this.#client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize, metadata, none)
      : this.#client.makeServerStreamRequest(
          path,
          requestSerialize,
          responseDeserialize,
          first,
          metadata,
          none,
        )) as unknown as CallStream<Response>;
    const failed = new AbortController();
    call.on('error', () => {
      failed.abort();
    });
    const { signal, action, timeoutMs = UNARY_MS } = options;
    const answers = call[Symbol.asyncIterator]();
    const stop = (): void => {
      call.cancel();
    };
    signal?.addEventListener('abort', stop, { once: true });
    if (signal?.aborted === true) stop();
    const send = (request: Request): void => {
      call.write?.(request);
    };
    if (requestStream) send(first);
    return {
      send,
      failed: failed.signal,
      next: async () => {
        let late: ContainerdError | undefined;
        const timer = setTimeout(() => {
          late = new ContainerdError(
            'OBD_CONTAINERD_TIMEOUT',
            `Cannot ${action}: no answer from containerd for ${Math.round(timeoutMs / 1000)} s`,
            { source: this.address },
          );
          call.cancel();
        }, timeoutMs);
        try {
          const answer: IteratorResult<Response, unknown> = await answers.next();
          return answer.done === true ? undefined : answer.value;
        } catch (error) {
          throw late ?? callError(error, action, this.address, signal);
        } finally {
          clearTimeout(timer);
        }
      },
      close: () => {
        signal?.removeEventListener('abort', stop);
        call.cancel();
      },
    };
  }

  /** Idempotent. Calls under way fail. */
  close(): void {
    this.#client.close();
  }

  #metadata({ lease }: CallOptions): Metadata {
    const metadata = new Metadata();
    metadata.set('containerd-namespace', this.#namespace);
    if (lease !== undefined) metadata.set('containerd-lease', lease);
    return metadata;
  }
}

const HINTS: Readonly<Record<string, string>> = {
  ENOENT: 'Is containerd running? Name its socket with --address or CONTAINERD_ADDRESS',
  ECONNREFUSED: 'The socket is there, containerd is not: start it',
  EACCES: "containerd's socket is for root: run this as root",
  ENOTSOCK: 'Name its socket with --address or CONTAINERD_ADDRESS',
};

/** gRPC would try again and again, and say little. */
async function probe(address: string): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => {
      const socket = createConnection(address, () => {
        socket.destroy();
        resolve();
      });
      socket.once('error', reject);
    });
  } catch (error) {
    const code = isSystemError(error) ? error.code : '';
    const hint = HINTS[code];
    throw new ContainerdError(
      'OBD_CONTAINERD_CONNECTION',
      `Cannot connect to containerd at "${address}"${code === '' ? '' : `: ${code}`}`,
      { source: address, ...(hint !== undefined && { hint }), cause: error },
    );
  }
}
