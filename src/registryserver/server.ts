/**
 * A small registry over a directory: for demos, for machines without a network, and for tests of clients under
 * conditions that real registries do not produce on demand. The API is in routes.ts, what is kept in store.ts; here is
 * HTTP: authentication, ranges, faults, the speed of the line.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { open } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { ioError, isSystemError } from '../blob/index.js';
import { silentLogger, type Logger } from '../log/index.js';
import { Refusal } from './answers.js';
import { FaultPlan, Line, type Fault } from './faults.js';
import { answer, parseRoute, type Answer, type Route, type RouteContext } from './routes.js';
import { Store, type StoredBlob } from './store.js';
import { Uploads } from './uploads.js';

/** What to serve, to whom, and how badly. */
export interface RegistryServerOptions {
  /** Created if it is not there. */
  readonly directory: string;
  /** Default 127.0.0.1. */
  readonly host?: string;
  /** Default 0: any free port. */
  readonly port?: number;
  /** PEM. With it the server speaks TLS only. */
  readonly tls?: { readonly cert: string | Buffer; readonly key: string | Buffer };
  /** Who may use it; absent: everybody. */
  readonly users?: readonly { readonly username: string; readonly password: string }[];
  readonly readOnly?: boolean;
  /** False: as a registry before OCI 1.1, which knows nothing of referrers. */
  readonly referrers?: boolean;
  /** Before each answer. */
  readonly latencyMs?: number;
  /** Of all answers together. */
  readonly bytesPerSecond?: number;
  readonly faults?: readonly Fault[];
  /** GET and HEAD of blobs are redirected to this base URL + their path. */
  readonly redirectBlobs?: string;
  readonly log?: Logger;
  /** Called when an answer has been sent or has failed. */
  readonly onRequest?: (request: ServedRequest) => void;
}

/** One request, afterwards. */
export interface ServedRequest {
  readonly method: string;
  readonly path: string;
  readonly range: string | undefined;
  readonly status: number;
  /** Of the body, as far as handed to the connection. */
  readonly bytes: number;
}

/** A server that listens. */
export interface RegistryServer extends AsyncDisposable {
  /** `host:port`, for references. */
  readonly host: string;
  /** `http://host:port`, or https. */
  readonly url: string;
  /** Counted since the start. */
  readonly stats: { requests: number; blobRequests: number; blobBytes: number };
  /** Answers what is under way for up to two seconds, then ends it. Idempotent. */
  close(): Promise<void>;
}

const PIECE = 64 * 1024;
/** On a slow line, so that latency shows. */
const SLOW_PIECE = 8 * 1024;
const GRACE_MS = 2000;

/** Starts a registry; settles when it listens. @throws IoError if the directory or the address cannot be used. */
export async function startRegistryServer(options: RegistryServerOptions): Promise<RegistryServer> {
  const service = new Service(options, await Store.open(options.directory, options.readOnly ?? false));
  const listener = (request: IncomingMessage, response: ServerResponse): void => {
    void service.serve(request, response);
  };
  const server: Server =
    options.tls === undefined ? createServer(listener) : createTlsServer({ ...options.tls }, listener);
  // An upload may take as long as it takes.
  server.requestTimeout = 0;
  server.keepAliveTimeout = 30_000;
  const host = options.host ?? '127.0.0.1';
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(ioError(error, `listen on ${host}:${options.port ?? 0}`, host));
    });
    server.listen(options.port ?? 0, host, resolve);
  });
  const { port, family, address } = server.address() as AddressInfo;
  const name = family === 'IPv6' ? `[${address}]` : host;
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => {
    closing ??= (async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeIdleConnections();
      const timer = setTimeout(() => {
        service.stop();
        server.closeAllConnections();
      }, GRACE_MS);
      await closed;
      clearTimeout(timer);
      service.stop();
    })();
    return closing;
  };
  return {
    host: `${name}:${port}`,
    url: `${options.tls === undefined ? 'http' : 'https'}://${name}:${port}`,
    stats: service.stats,
    close,
    [Symbol.asyncDispose]: close,
  };
}

class Service {
  readonly stats = { requests: 0, blobRequests: 0, blobBytes: 0 };
  readonly #options: RegistryServerOptions;
  readonly #context: RouteContext;
  readonly #faults: FaultPlan;
  readonly #line: Line;
  readonly #log: Logger;
  readonly #stopping = new AbortController();

  constructor(options: RegistryServerOptions, store: Store) {
    this.#options = options;
    this.#log = options.log ?? silentLogger;
    // Each waiting answer listens.
    setMaxListeners(0, this.#stopping.signal);
    this.#faults = new FaultPlan(options.faults ?? []);
    this.#line = new Line(options.bytesPerSecond ?? Infinity);
    this.#context = {
      store,
      uploads: new Uploads(store),
      readOnly: options.readOnly ?? false,
      referrers: options.referrers !== false,
      redirectBlobs: options.redirectBlobs?.replace(/\/+$/, ''),
    };
  }

  stop(): void {
    this.#stopping.abort();
  }

  /** Answers one request. Never rejects. */
  async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'http://registry.invalid');
    let sent = 0;
    let route: Route | undefined;
    response.setHeader('docker-distribution-api-version', 'registry/2.0');
    // A client that leaves in the middle must not end the server.
    request.on('error', () => undefined);
    response.on('error', () => undefined);
    try {
      if ((this.#options.latencyMs ?? 0) > 0)
        await sleep(this.#options.latencyMs, undefined, { signal: this.#stopping.signal });
      this.stats.requests++;
      this.#authenticate(request);
      route = parseRoute(decodePath(url.pathname));
      const fault = this.#faults.next(route.kind);
      if (fault !== undefined && unlucky(fault, request.socket)) return;
      sent = await this.#send(request, response, await answer(this.#context, route, request, url), fault);
    } catch (error) {
      await this.#refuse(request, response, error);
    } finally {
      if (route?.endpoint === 'blob' && request.method === 'GET') {
        this.stats.blobRequests++;
        this.stats.blobBytes += sent;
      }
      const { method = '', headers } = request;
      const status = response.statusCode;
      this.#log.debug({ method, path: url.pathname, range: headers.range, status, bytes: sent }, 'request');
      this.#options.onRequest?.({ method, path: url.pathname, range: headers.range, status, bytes: sent });
    }
  }

  #authenticate(request: IncomingMessage): void {
    const { users } = this.#options;
    if (users === undefined) return;
    const encoded = /^basic\s+(\S+)$/i.exec(request.headers.authorization ?? '')?.[1] ?? '';
    const given = Buffer.from(encoded, 'base64').toString('utf8');
    const same = (a: string, b: string): boolean =>
      timingSafeEqual(createHash('sha256').update(a).digest(), createHash('sha256').update(b).digest());
    // All of them are compared, so that the time does not tell which one matched.
    if (users.map(({ username, password }) => same(given, `${username}:${password}`)).includes(true)) return;
    throw new Refusal(401, 'UNAUTHORIZED', 'authentication required', {
      'www-authenticate': 'Basic realm="obd registry"',
    });
  }

  /** @returns bytes of the body that were handed over. */
  async #send(
    request: IncomingMessage,
    response: ServerResponse,
    what: Answer,
    fault: Fault | undefined,
  ): Promise<number> {
    const { body } = what;
    const total = body === undefined ? 0 : Buffer.isBuffer(body) ? body.byteLength : body.size;
    let status = what.status;
    let first = 0;
    let last = total - 1;
    const headers: Record<string, string | number> = { ...what.headers };
    if (body !== undefined && !Buffer.isBuffer(body)) {
      headers['accept-ranges'] = 'bytes';
      const range = parseRange(request.headers.range, total);
      if (range === 'none') {
        response.writeHead(416, { 'content-range': `bytes */${total}`, 'content-length': 0 }).end();
        return 0;
      }
      if (range !== undefined) {
        status = 206;
        ({ first, last } = range);
        headers['content-range'] = `bytes ${first}-${last}/${total}`;
      }
    }
    const length = last - first + 1;
    if (status !== 204) headers['content-length'] = length;
    response.writeHead(status, headers);
    if (request.method === 'HEAD' || body === undefined || length === 0) {
      response.end();
      return 0;
    }
    const half = fault === undefined ? undefined : Math.floor(length / 2);
    const sent = await this.#sendBody(response, body, first, half ?? length);
    if (fault === undefined) response.end();
    else if (fault.kind === 'truncate') response.destroy();
    else await untilEvent(response, 'close');
    return sent;
  }

  async #sendBody(
    response: ServerResponse,
    body: Buffer | StoredBlob,
    first: number,
    length: number,
  ): Promise<number> {
    const piece = this.#line.limited ? SLOW_PIECE : PIECE;
    const file = Buffer.isBuffer(body) ? undefined : await open(body.path, 'r');
    let sent = 0;
    try {
      while (sent < length && !isGone(response)) {
        const want = Math.min(piece, length - sent);
        let chunk: Buffer;
        if (Buffer.isBuffer(body)) chunk = body.subarray(first + sent, first + sent + want);
        else {
          chunk = Buffer.allocUnsafe(want);
          const bytesRead = (await file?.read(chunk, 0, want, first + sent))?.bytesRead ?? 0;
          if (bytesRead < want) throw new Error('blob is shorter than it was');
        }
        await this.#line.carry(want, this.#stopping.signal);
        sent += want;
        if (!response.write(chunk)) await untilEvent(response, 'drain');
      }
    } finally {
      await file?.close();
    }
    return sent;
  }

  async #refuse(request: IncomingMessage, response: ServerResponse, error: unknown): Promise<void> {
    const refusal = error instanceof Refusal ? error : new Refusal(500, 'UNSUPPORTED', 'the registry failed');
    const clientLeft = request.destroyed || (isSystemError(error) && error.code === 'ECONNRESET');
    if (!(error instanceof Refusal) && !clientLeft)
      this.#log.error({ path: request.url, err: error }, 'request failed');
    if (response.headersSent || response.destroyed) {
      response.destroy();
      return;
    }
    const body = refusal.body();
    response.writeHead(refusal.status, {
      'content-type': 'application/json',
      'content-length': body.byteLength,
      ...refusal.headers,
    });
    response.end(request.method === 'HEAD' ? undefined : body);
  }
}

/** Carries out a fault that happens instead of an answer. @returns true if nothing is left to be done. */
function unlucky(fault: Fault, socket: Socket): boolean {
  if (fault.kind === 'reset') {
    socket.resetAndDestroy();
    return true;
  }
  if (fault.kind === 'status') {
    const code = fault.status === 429 ? 'TOOMANYREQUESTS' : 'UNSUPPORTED';
    const headers: Record<string, string> =
      fault.retryAfterS === undefined ? {} : { 'retry-after': String(fault.retryAfterS) };
    throw new Refusal(fault.status, code, 'failure on request', headers);
  }
  return false;
}

function decodePath(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    throw new Refusal(400, 'NAME_INVALID', 'the path is not URL-encoded text');
  }
}

/** True if nobody is there to be answered. A socket may be gone without its response having been told. */
function isGone(response: ServerResponse): boolean {
  return response.destroyed || response.socket === null || response.socket.destroyed;
}

/** Settles when one of the events comes, or the connection is gone. */
function untilEvent(response: ServerResponse, event: 'drain' | 'close'): Promise<void> {
  // What has gone already says so no more.
  const { socket } = response;
  if (isGone(response) || socket === null) return Promise.resolve();
  return new Promise((resolve) => {
    const done = (): void => {
      response.off(event, done);
      response.off('close', done);
      socket.off('close', done);
      resolve();
    };
    response.on(event, done);
    response.on('close', done);
    socket.on('close', done);
  });
}

/** One range of `Range`; undefined: send all (no range, several, or another unit); `none`: outside the content. */
function parseRange(
  header: string | undefined,
  size: number,
): { first: number; last: number } | 'none' | undefined {
  const match = /^bytes=(?:(\d{1,15})-(\d{1,15})?|-(\d{1,15}))$/.exec(header?.trim() ?? '');
  if (match === null) return undefined;
  const [, from, to, suffix] = match;
  if (suffix !== undefined) {
    if (Number(suffix) === 0 || size === 0) return 'none';
    return { first: Math.max(0, size - Number(suffix)), last: size - 1 };
  }
  const first = Number(from);
  const last = to === undefined ? size - 1 : Math.min(Number(to), size - 1);
  if (to !== undefined && Number(to) < first) return undefined;
  return first >= size ? 'none' : { first, last };
}
