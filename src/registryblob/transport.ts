/**
 * HTTP/1.1 over undici: connection pools, the limit of requests per server, deadlines, and the rule that plain HTTP
 * goes to hosts named insecure only. Knows nothing of registries; never follows a redirect, never retries.
 *
 * A request waits for one of `connectionsPerHost` places of its origin before its clock starts. The queue behind the
 * places is bounded by its callers: a device has a bounded number of commands, a push a bounded number of blobs.
 */
import type { SecureContext } from 'node:tls';
import type { Agent, Dispatcher } from 'undici';
import { abortedError, ConfigError, OverlaybdError } from '../blob/index.js';
import { redactUrl } from '../log/index.js';
import { DeadlineError, transportError } from './failures.js';
import { HostSet } from './hosts.js';
import { newAgent } from './http-agent.js';

/** One request. */
export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Bytes, or a function that makes the body anew for each try. */
  readonly body?: Uint8Array | (() => AsyncIterable<Uint8Array>) | undefined;
  /** What is being done, for errors: `read blob`. */
  readonly action: string;
  readonly signal?: AbortSignal | undefined;
  /** Limit from sending to the last byte of the answer; 0: only the limits on silence. Default: the transport's. */
  readonly timeoutMs?: number | undefined;
  /** Limit on the silence between the request's last byte and the answer; default: the transport's `timeoutMs`. */
  readonly answerMs?: number | undefined;
  /**
   * Plain HTTP is all right for this request: a proxy that the configuration names by URL, or a place that a host named
   * insecure sent us to (see {@link Transport.checkScheme}).
   */
  readonly trustScheme?: boolean;
}

/** One answer. The body must be read to its end, or dropped with {@link discardBody} or `destroy()`. */
export interface HttpResponse {
  readonly status: number;
  /** The URL that was asked; for {@link redactUrl} before it is shown. */
  readonly url: string;
  readonly body: Dispatcher.ResponseData['body'];
  /** A header's value; several lines of one are joined with commas. */
  header(name: string): string | undefined;
  /** Turns an error met while reading the body into one of ours. */
  failure(error: unknown): Error;
}

/** Limits and identities. */
export interface TransportOptions {
  readonly tls: SecureContext;
  readonly plainHttpHosts: HostSet;
  readonly skipVerifyHosts: HostSet;
  readonly userAgent: string;
  readonly timeoutMs: number;
  /** Requests at once to one origin. */
  readonly connectionsPerHost: number;
}

/** A counting semaphore: first come, first served. */
class Places {
  #free: number;
  readonly #waiting = new Set<() => void>();
  constructor(count: number) {
    this.#free = count;
  }

  async take(action: string, signal: AbortSignal | undefined): Promise<void> {
    if (this.#free > 0) {
      this.#free--;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const go = (): void => {
        signal?.removeEventListener('abort', stop);
        resolve();
      };
      const stop = (): void => {
        this.#waiting.delete(go);
        reject(abortedError(action, signal));
      };
      this.#waiting.add(go);
      signal?.addEventListener('abort', stop, { once: true });
    });
  }

  give(): void {
    const [next] = this.#waiting;
    if (next === undefined) {
      this.#free++;
      return;
    }
    this.#waiting.delete(next);
    next();
  }
}

/** How long a connection attempt may take: a SYN and one retransmission, and the TLS handshake. */
const CONNECT_TIMEOUT_MS = 10_000;
/** Longest silence inside a body before it counts as stalled. */
const SILENCE_MS = 15_000;
/** Origins remembered with their places; far more than a process meets. */
const MAX_ORIGINS = 1024;

/** Connections of one process to everything. Calls may overlap. */
export class Transport {
  readonly #options: TransportOptions;
  /** By whether certificates are verified; made when first used. */
  readonly #agents = new Map<boolean, Agent>();
  readonly #places = new Map<string, Places>();
  readonly #answers = new Map<string, number>();
  #closed = false;

  constructor(options: TransportOptions) {
    this.#options = options;
  }

  /** Answers so far by status; requests without one as what their error is: `OBD_REGISTRY_TIMEOUT`. */
  get answers(): ReadonlyMap<string, number> {
    return this.#answers;
  }

  /** Both statuses and codes are few. */
  #count(answer: string): void {
    this.#answers.set(answer, (this.#answers.get(answer) ?? 0) + 1);
  }

  #agent(rejectUnauthorized: boolean): Agent {
    const options = this.#options;
    let agent = this.#agents.get(rejectUnauthorized);
    if (agent === undefined) {
      agent = newAgent({
        connections: options.connectionsPerHost,
        pipelining: 1,
        keepAliveTimeout: 20_000,
        headersTimeout: options.timeoutMs,
        bodyTimeout: Math.min(SILENCE_MS, options.timeoutMs / 2),
        maxOrigins: MAX_ORIGINS,
        // One bad token must not grow a header without end; 32 KiB hold the longest signed URLs and JWTs.
        maxHeaderSize: 32 * 1024,
        connect: {
          timeout: Math.min(CONNECT_TIMEOUT_MS, options.timeoutMs),
          secureContext: options.tls,
          rejectUnauthorized,
          keepAlive: true,
        },
      });
      this.#agents.set(rejectUnauthorized, agent);
    }
    return agent;
  }

  /**
   * Refuses plain HTTP to a host that was not named insecure, and link-local places that another host leads to.
   * @param namedBy who sent us there. One that answered over plain HTTP could have been anybody already, so its word
   * is good for another plain place (storage, token server); TLS never leads to plain HTTP.
   * @throws ConfigError
   */
  checkScheme(url: URL, namedBy?: URL): void {
    if (namedBy !== undefined && isLinkLocal(url.hostname) && !isLinkLocal(namedBy.hostname))
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot use "${redactUrl(url.href)}": "${namedBy.host}" leads to a link-local address`,
        { source: redactUrl(url.href), hint: 'Such addresses serve secrets to the machines of clouds' },
      );
    if (url.protocol === 'https:') return;
    if (
      url.protocol === 'http:' &&
      (this.#options.plainHttpHosts.has(url.host) || namedBy?.protocol === 'http:')
    )
      return;
    if (url.protocol !== 'http:')
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot use "${redactUrl(url.href)}": scheme is not https or http`,
        {
          source: redactUrl(url.href),
        },
      );
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot use "${redactUrl(url.href)}": plain HTTP is refused for host "${url.host}"`,
      {
        source: redactUrl(url.href),
        hint: `If nobody between here and ${url.host} can do harm, name it as insecure (--plain-http, or registryConfig.plainHttpHosts)`,
      },
    );
  }

  /**
   * Sends a request; settles when the answer's headers are here, whatever its status.
   * @throws RegistryError CONNECTION, TIMEOUT or TLS; ConfigError for forbidden plain HTTP; OBD_ABORTED.
   */
  async send(request: HttpRequest): Promise<HttpResponse> {
    if (this.#closed) throw new TypeError('Request after close');
    const { action, signal } = request;
    const url = new URL(request.url);
    if (request.trustScheme !== true) this.checkScheme(url);
    if (signal?.aborted === true) throw abortedError(action, signal);
    const places = this.#placesOf(url.origin);
    await places.take(action, signal);
    const timeoutMs = request.timeoutMs ?? this.#options.timeoutMs;
    const controller = new AbortController();
    const onAbort = (): void => {
      controller.abort(signal?.reason);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    const timer =
      timeoutMs > 0
        ? setTimeout(() => {
            controller.abort(new DeadlineError(timeoutMs));
          }, timeoutMs)
        : undefined;
    let done = false;
    const finish = (): void => {
      if (done) return;
      done = true;
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      places.give();
    };
    try {
      const agent = this.#agent(!this.#options.skipVerifyHosts.has(url.host));
      const body = typeof request.body === 'function' ? request.body() : request.body;
      const answer = await agent.request({
        origin: url.origin,
        path: url.pathname + url.search,
        method: request.method,
        headers: { 'user-agent': this.#options.userAgent, ...request.headers },
        // undici takes async iterables and typed arrays; its types name streams only.
        body: (body ?? null) as Dispatcher.DispatchOptions['body'] & null,
        signal: controller.signal,
        ...(request.answerMs === undefined ? {} : { headersTimeout: request.answerMs }),
      });
      this.#count(String(answer.statusCode));
      answer.body.once('close', finish);
      // Errors reach whoever reads the body; a body that nobody reads any more must not bring the process down.
      answer.body.on('error', finish);
      return {
        status: answer.statusCode,
        url: request.url,
        body: answer.body,
        header: (name) => {
          const value = answer.headers[name];
          return Array.isArray(value) ? value.join(', ') : value;
        },
        failure: (error) =>
          transportError(reasonOf(error, controller), action, request.url, { signal, timeoutMs }),
      };
    } catch (error) {
      finish();
      const failure = transportError(reasonOf(error, controller), action, request.url, { signal, timeoutMs });
      this.#count(failure instanceof OverlaybdError ? failure.code : 'OBD_REGISTRY_CONNECTION');
      throw failure;
    }
  }

  /** Ends all connections; requests under way fail. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await Promise.all([...this.#agents.values()].map((agent) => agent.destroy()));
  }

  #placesOf(origin: string): Places {
    let places = this.#places.get(origin);
    if (places === undefined) {
      // Forgetting the oldest only lifts its limit for requests that are still under way.
      if (this.#places.size >= MAX_ORIGINS)
        for (const oldest of [...this.#places.keys()].slice(0, 1)) this.#places.delete(oldest);
      places = new Places(this.#options.connectionsPerHost);
      this.#places.set(origin, places);
    }
    return places;
  }
}

/**
 * Where clouds keep the credentials of machines. No registry has its data there, and one that leads us there wants ours.
 * `URL` has already written 0xa9fea9fe and the like as four numbers.
 */
function isLinkLocal(hostname: string): boolean {
  return /^169\.254\.|^\[fe[89ab][0-9a-f]:|^\[::ffff:a9fe:|^\[fd00:ec2::254\]$/.test(hostname);
}

/** undici rejects with the abort reason or with an AbortError around it; the reason is what we want. */
function reasonOf(error: unknown, controller: AbortController): unknown {
  return controller.signal.aborted ? controller.signal.reason : error;
}

/** Reads a body of at most `limit` bytes. @throws the transport's error, or what `tooLong` makes. */
export async function readBody(response: HttpResponse, limit: number, tooLong: () => Error): Promise<Buffer> {
  const declared = Number(response.header('content-length') ?? 0);
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    if (declared > limit) throw tooLong();
    for await (const chunk of response.body as AsyncIterable<Buffer>) {
      size += chunk.byteLength;
      if (size > limit) throw tooLong();
      chunks.push(chunk);
    }
  } catch (error) {
    response.body.destroy();
    throw response.failure(error);
  }
  return Buffer.concat(chunks);
}

/** Drops a body nobody wants: a short one is read, so that the connection can be used again. */
export async function discardBody(response: HttpResponse): Promise<void> {
  try {
    await response.body.dump({ limit: 64 * 1024 });
  } catch {
    // The connection is gone, and with it what was to be dropped.
  }
}

/** The first bytes of an error answer's body, never more than 8 KiB; the rest is dropped. */
export async function readErrorBody(response: HttpResponse): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of response.body as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      size += chunk.byteLength;
      if (size >= 8192) break;
    }
  } catch {
    return undefined;
  }
  return Buffer.concat(chunks).subarray(0, 8192);
}
