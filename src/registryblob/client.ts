/**
 * The one way of a process to its registries: transport, credentials, retries and the proxy under one roof. A request
 * is sent with what is known, a 401 is answered once, what can heal is tried again, and everything else is an error.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { RegistryError } from '../blob/index.js';
import { redactUrl, silentLogger, type Logger } from '../log/index.js';
import { Authenticator, type AccessScope } from './auth.js';
import { CredentialChain, type CredentialSource } from './credentials.js';
import { statusError } from './failures.js';
import { HostSet } from './hosts.js';
import { P2pProxy } from './p2p.js';
import { parseBlobUrl, type BlobLocation } from './reference.js';
import { RegistryBlob } from './registry-blob.js';
import { DEFAULT_RETRY, withRetries, type RetryPolicy } from './retry.js';
import { loadTls, type TlsFiles } from './tls.js';
import { discardBody, readErrorBody, Transport, type HttpRequest, type HttpResponse } from './transport.js';

/** How to reach registries. Everything has a default that is safe. */
export interface RegistryClientOptions {
  /** Asked in order; without any, all access is anonymous. */
  readonly credentials?: readonly CredentialSource[];
  /** Read when the client is made. */
  readonly tls?: TlsFiles;
  /** Hosts (`host` or `host:port`) that are spoken to over plain HTTP. None by default, not even localhost. */
  readonly plainHttpHosts?: Iterable<string>;
  /** Hosts whose certificate is not verified. None by default. */
  readonly skipVerifyHosts?: Iterable<string>;
  /** Default: name and version of this package. */
  readonly userAgent?: string;
  /** Blob data is read through this proxy, `http://localhost:9731/accelerator`. */
  readonly p2pAddress?: string;
  /** Limit of one request, as the reference has it: 30 s. */
  readonly timeoutMs?: number;
  /** Requests at once to one host. More than 16 gain nothing on a fast line and annoy rate limits. */
  readonly connectionsPerHost?: number;
  readonly retry?: Partial<RetryPolicy>;
  readonly log?: Logger;
}

/** One request to a registry's API. */
export interface RegistryRequest extends HttpRequest {
  readonly repository: string;
  /** Default: `pull`. */
  readonly actions?: 'pull' | 'pull,push';
  /** Further token scopes, see {@link AccessScope}. */
  readonly extraScopes?: readonly string[];
}

/** Redirects followed in one request for a document. */
const MAX_HOPS = 5;

function defaultUserAgent(): string {
  // From dist/src/registryblob.
  const path = join(import.meta.dirname, '..', '..', '..', 'package.json');
  try {
    const { name, version } = JSON.parse(readFileSync(path, 'utf8')) as { name: string; version: string };
    return `${name}/${version}`;
  } catch {
    return 'overlaybd-ts';
  }
}

/** A process has one; share it. Calls may overlap. */
export class RegistryClient {
  /** Who logs what this room does. */
  readonly log: Logger;
  readonly retry: RetryPolicy;
  /** The proxy for blob data, if one is configured. The local cache is not needed on top of it. */
  readonly p2p: P2pProxy | undefined;
  readonly #transport: Transport;
  readonly #auth: Authenticator;
  readonly #plainHttpHosts: HostSet;

  /** @throws ConfigError if a TLS file or the proxy's address is wrong. */
  constructor(options: RegistryClientOptions = {}) {
    this.log = options.log ?? silentLogger;
    this.retry = { ...DEFAULT_RETRY, ...options.retry };
    this.#plainHttpHosts = new HostSet(options.plainHttpHosts);
    this.p2p = options.p2pAddress === undefined ? undefined : new P2pProxy(options.p2pAddress);
    this.#transport = new Transport({
      tls: loadTls(options.tls ?? {}),
      plainHttpHosts: this.#plainHttpHosts,
      skipVerifyHosts: new HostSet(options.skipVerifyHosts),
      userAgent: options.userAgent ?? defaultUserAgent(),
      timeoutMs: options.timeoutMs ?? 30_000,
      connectionsPerHost: options.connectionsPerHost ?? 16,
    });
    this.#auth = new Authenticator({
      transport: this.#transport,
      credentials: new CredentialChain(options.credentials ?? [], this.log),
      log: this.log,
      retry: this.retry,
    });
  }

  /** Scheme of a host's API. */
  schemeOf(host: string): 'http' | 'https' {
    return this.#plainHttpHosts.has(host) ? 'http' : 'https';
  }

  /** Answers so far, see {@link Transport.answers}. */
  get answers(): ReadonlyMap<string, number> {
    return this.#transport.answers;
  }

  /** Names a host insecure from here on; for callers to whom the user wrote an explicit `http://`. */
  allowPlainHttp(host: string): void {
    this.#plainHttpHosts.add(host);
  }

  /** @throws ConfigError if the URL is plain HTTP to a host that was not named insecure. */
  checkScheme(url: string, namedBy?: string): void {
    this.#transport.checkScheme(new URL(url), namedBy === undefined ? undefined : new URL(namedBy));
  }

  /**
   * Sends one request without any authorization, once. For redirect targets and proxies.
   * @returns the answer, whatever its status.
   */
  sendPlain(request: HttpRequest): Promise<HttpResponse> {
    return this.#transport.send(request);
  }

  /**
   * Sends one request, answering a challenge if there is one; once otherwise, no redirect followed, no other retry.
   * @returns the answer, whatever its status, except 401 and 403.
   * @throws RegistryError OBD_REGISTRY_AUTH and those of the transport.
   */
  async send(
    request: RegistryRequest,
  ): Promise<HttpResponse & { readonly authorization: string | undefined }> {
    const scope = this.#scope(request);
    let authorization = await this.#auth.header(scope, request.signal);
    let response = await this.#transport.send(withAuthorization(request, authorization));
    if (
      response.status === 401 ||
      (response.status === 403 && authorization === undefined && response.header('www-authenticate'))
    ) {
      authorization = await this.#auth.answer(scope, response, authorization, request.signal);
      response = await this.#transport.send(withAuthorization(request, authorization));
    }
    if (response.status === 401 || response.status === 403)
      throw await this.unexpected(response, request.action);
    return Object.assign(response, { authorization });
  }

  /**
   * Sends a request, with retries, until its status is one of `expected`. GET and HEAD follow redirects; a target on
   * another origin is asked as a registry of its own, with the credentials of that host or none.
   * @throws RegistryError by the last answer's status, and those of {@link send}.
   */
  async request(request: RegistryRequest, expected: readonly number[]): Promise<HttpResponse> {
    return withRetries(
      async () => {
        const response = await this.#sendFollowing(request);
        if (!expected.includes(response.status)) throw await this.unexpected(response, request.action);
        return response;
      },
      { policy: this.retry, action: request.action, log: this.log, signal: request.signal },
    );
  }

  async #sendFollowing(request: RegistryRequest): Promise<HttpResponse> {
    let { url, trustScheme } = request;
    for (let hops = 0; ; hops++) {
      const response = await this.send({ ...request, url, ...(trustScheme === true ? { trustScheme } : {}) });
      const place = response.header('location');
      const follows = request.method === 'GET' || request.method === 'HEAD';
      if (!follows || response.status < 301 || response.status > 308 || place === undefined) return response;
      if (hops === MAX_HOPS || !URL.canParse(place, url))
        throw await this.unexpected(response, request.action);
      await discardBody(response);
      const next = new URL(place, url).href;
      this.checkScheme(next, url);
      [url, trustScheme] = [next, true];
    }
  }

  /** The error of an answer with the wrong status; reads and drops its body. */
  async unexpected(response: HttpResponse, action: string): Promise<RegistryError> {
    const error = statusError(action, response.url, {
      status: response.status,
      retryAfter: response.header('retry-after'),
      body: await readErrorBody(response),
    });
    await discardBody(response);
    return error;
  }

  /**
   * Opens a blob by its URL (`repoBlobUrl` + `/` + digest).
   * @param options.size from the image configuration; without it the registry is asked.
   * @throws ConfigError for a bad URL or forbidden plain HTTP; RegistryError if the size must be asked for and cannot.
   */
  async openBlob(
    url: string | BlobLocation,
    options: { readonly size?: number | undefined; readonly signal?: AbortSignal | undefined } = {},
  ): Promise<RegistryBlob> {
    const location = typeof url === 'string' ? parseBlobUrl(url) : url;
    this.checkScheme(location.url);
    return RegistryBlob.open(this, location, options);
  }

  /** Ends all connections; requests under way fail. Idempotent. */
  async close(): Promise<void> {
    await this.#transport.close();
  }

  #scope(request: RegistryRequest): AccessScope {
    return {
      origin: new URL(request.url).origin,
      repository: request.repository,
      actions: request.actions ?? 'pull',
      url: redactUrl(request.url),
      ...(request.extraScopes === undefined ? {} : { extra: request.extraScopes }),
    };
  }
}

function withAuthorization<T extends HttpRequest>(request: T, authorization: string | undefined): T {
  return authorization === undefined
    ? request
    : { ...request, headers: { ...request.headers, authorization } };
}
