/**
 * Finds who has a blob's bytes, and asks.
 *
 *          ┌────────── remembered target? ────────────┐
 *          no                                        yes
 *   GET registry, Range, auth ── 3xx ──► remember ──► GET target, Range, no auth
 *          │                                          │
 *         answer ◄──────────────────────────────── answer      status 300 and up: forget the target, ask the registry
 *
 * Redirects are followed by hand (relative ones too, at most {@link MAX_HOPS}); credentials never leave the origin they
 * are for; a redirect from TLS to plain HTTP is refused unless that host was named insecure. A signed URL that has expired
 * answers 400, 401 or 403: the registry is asked for a new one.
 *
 * With a p2p proxy, data is read through it by its final URL; where the registry itself has the data, that is remembered
 * as the target, with the authorization that it took.
 */
import { RegistryError } from '../blob/index.js';
import { redactUrl } from '../log/index.js';
import type { RegistryClient } from './client.js';
import { isRetryable } from './failures.js';
import type { BlobLocation } from './reference.js';
import { discardBody, type HttpResponse } from './transport.js';

/** Redirects followed in one request. */
const MAX_HOPS = 8;

/** What is being done, in errors. */
export const ACTION = 'read blob';

/** How to ask. */
export interface Ask {
  readonly offset: number;
  readonly length: number;
  readonly signal: AbortSignal | undefined;
  /** As of `HttpRequest`. */
  readonly timeoutMs: number | undefined;
  /** Through the p2p proxy, if there is one. */
  readonly viaProxy: boolean;
}

interface Target {
  readonly url: string;
  readonly authorization: string | undefined;
}

interface Get {
  /** The URL came from somebody whom we may believe, and was checked then. */
  readonly trustScheme?: boolean;
  readonly method: 'GET';
  readonly action: string;
  readonly url: string;
  readonly signal: AbortSignal | undefined;
  readonly timeoutMs: number | undefined;
  readonly headers: Readonly<Record<string, string>>;
}

/** An answer that is not what it must be. */
export function wrongAnswer(response: HttpResponse, why: string, hint?: string): RegistryError {
  const source = redactUrl(response.url);
  return new RegistryError('OBD_REGISTRY_RESPONSE', `Cannot ${ACTION} from "${source}": ${why}`, {
    source,
    ...(hint === undefined ? {} : { hint }),
  });
}

/** One per open blob. Requests may overlap. */
export class BlobSource {
  readonly #client: RegistryClient;
  readonly #location: BlobLocation;
  #target: Target | undefined;

  constructor(client: RegistryClient, location: BlobLocation) {
    this.#client = client;
    this.#location = location;
  }

  /** The place that the registry sent us to may be what failed: the next request starts at the registry. */
  forget(): void {
    this.#target = undefined;
  }

  /** @returns an answer, whatever its status, that is no redirect. */
  async ask(how: Ask): Promise<HttpResponse> {
    const { offset, length, signal, timeoutMs } = how;
    const get: Get = {
      method: 'GET',
      action: ACTION,
      url: this.#location.url,
      signal,
      timeoutMs,
      headers: {
        range: `bytes=${offset}-${offset + length - 1}`,
        'accept-encoding': 'identity',
        accept: '*/*',
      },
    };
    const viaProxy = how.viaProxy && this.#client.p2p?.wrap(get.url) !== undefined;

    const known = this.#target;
    // The registry itself is a target for the proxy only; without one, the authenticator knows better.
    if (known !== undefined && (viaProxy || known.url !== get.url)) {
      const response = await this.#data(
        viaProxy,
        authorized({ ...get, url: known.url, trustScheme: true }, known.authorization),
      );
      if (response.status < 300 || response.status === 416) return response;
      await discardBody(response);
      if (this.#target === known) this.#target = undefined;
    }
    const { repository } = this.#location;
    if (!viaProxy) {
      const response = await this.#client.send({ ...get, repository });
      return isRedirect(response.status) ? this.#follow(response, get, false) : response;
    }
    // The proxy wants the final URL, so the registry is asked first where that is.
    const probe = await this.#client.send({
      ...get,
      headers: { ...get.headers, range: 'bytes=0-0' },
      repository,
    });
    if (isRedirect(probe.status)) return this.#follow(probe, get, true);
    if (probe.status >= 300) return probe;
    await discardBody(probe);
    this.#target = { url: get.url, authorization: probe.authorization };
    return this.#data(true, authorized(get, probe.authorization));
  }

  /** Follows redirects from the registry's own answer, and remembers where the bytes are. */
  async #follow(
    first: HttpResponse & { readonly authorization: string | undefined },
    get: Get,
    viaProxy: boolean,
  ): Promise<HttpResponse> {
    const home = new URL(get.url).origin;
    let response: HttpResponse = first;
    for (let hops = 0; hops < MAX_HOPS; hops++) {
      const place = response.header('location') ?? '';
      await discardBody(response);
      if (place === '' || !URL.canParse(place, response.url))
        throw wrongAnswer(response, `status ${response.status} without a usable Location`);
      const next = new URL(place, response.url);
      next.hash = '';
      if (next.username !== '' || next.password !== '')
        throw wrongAnswer(response, 'it redirects to a URL with a password in it');
      this.#client.checkScheme(next.href, response.url);
      // A target on the registry itself may need the token; another origin never gets it.
      const stays = next.origin === home;
      response = await this.#data(
        viaProxy && !stays,
        authorized({ ...get, url: next.href, trustScheme: true }, stays ? first.authorization : undefined),
      );
      if (!isRedirect(response.status)) {
        if (!stays && response.status < 300) this.#target = { url: next.href, authorization: undefined };
        return response;
      }
    }
    await discardBody(response);
    throw wrongAnswer(response, `more than ${MAX_HOPS} redirects`);
  }

  /** A GET of data: through the proxy if wanted and working, else directly. */
  async #data(viaProxy: boolean, get: Get): Promise<HttpResponse> {
    const proxy = viaProxy ? this.#client.p2p : undefined;
    const wrapped = proxy?.wrap(get.url);
    if (proxy !== undefined && wrapped !== undefined) {
      try {
        const response = await this.#client.sendPlain({ ...get, url: wrapped, trustScheme: true });
        if (response.status < 500) return { ...response, url: get.url };
        await discardBody(response);
      } catch (error) {
        if (!isRetryable(error)) throw error;
        proxy.failed();
        this.#client.log.warn({ url: get.url, err: error }, 'p2p proxy does not answer, reading directly');
      }
    }
    return this.#client.sendPlain(get);
  }
}

function authorized(get: Get, authorization: string | undefined): Get {
  return authorization === undefined ? get : { ...get, headers: { ...get.headers, authorization } };
}

function isRedirect(status: number): boolean {
  return status === 301 || status === 302 || status === 303 || status === 307 || status === 308;
}

/** Content-Range: `bytes 0-99/1000`, `bytes 0-99/*`, or of a 416 only the total. Absent parts are undefined. */
export function contentRange(response: HttpResponse): { first?: number; last?: number; total?: number } {
  const text = response.header('content-range') ?? '';
  const match = /^\s*bytes\s+(?:(\d{1,15})-(\d{1,15})|\*)\/(\d{1,15}|\*)\s*$/i.exec(text);
  if (match === null) return {};
  return {
    ...(match[1] === undefined ? {} : { first: Number(match[1]) }),
    ...(match[2] === undefined ? {} : { last: Number(match[2]) }),
    ...(match[3] === undefined || match[3] === '*' ? {} : { total: Number(match[3]) }),
  };
}
