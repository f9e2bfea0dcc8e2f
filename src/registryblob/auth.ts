/**
 * Answers a registry's challenges and remembers the answers.
 *
 *   request without header -> 401 + WWW-Authenticate -> Bearer: token from the realm, kept until shortly before it expires
 *                                                       Basic:  the credentials themselves
 *
 * Invariants:
 * - A password goes to the registry it is for, or to the realm which that registry named, over TLS; over plain HTTP
 *   only if the user named that host, or the registry itself, insecure.
 * - Each token is fetched once, however many requests wait for it; a waiter's abort does not disturb the others.
 * - Credentials are read anew at each acquisition.
 * - A token about to expire is renewed first; if that fails while it is still valid, it is used.
 */
import { LRUCache } from 'lru-cache';
import { abortedError, RegistryError } from '../blob/index.js';
import { redactUrl, type Logger } from '../log/index.js';
import { parseChallenges, type Challenge } from './challenge.js';
import type { Credential, CredentialSource } from './credentials.js';
import { statusError } from './failures.js';
import { withRetries, type RetryPolicy } from './retry.js';
import { discardBody, readBody, readErrorBody, type HttpResponse, type Transport } from './transport.js';

/** What a request needs permission for. */
export interface AccessScope {
  /** `https://host[:port]` of the registry. */
  readonly origin: string;
  readonly repository: string;
  /** `pull`, or `pull,push`. */
  readonly actions: string;
  /** Further scopes in the token, for example of the repository that a blob is mounted from. */
  readonly extra?: readonly string[];
  /** The URL of the request. */
  readonly url: string;
}

interface Grant {
  readonly challenge: Challenge;
  readonly header: string;
  /** Renew from here on. Milliseconds of {@link performance.now}. */
  readonly renewAt: number;
  readonly expiresAt: number;
}

/** Of the distribution specification: a token without `expires_in` lives so long. */
const DEFAULT_LIFETIME_S = 60;
/** Longest lifetime that is believed; a registry may revoke earlier than it said. */
const MAX_LIFETIME_S = 24 * 3600;
/** Basic credentials are read again this often, so that a changed file takes effect. */
const BASIC_LIFETIME_S = 60;
/** Tokens at once; one is of about 1-4 KiB. */
const MAX_GRANTS = 1000;
const MAX_TOKEN_SIZE = 1024 * 1024;

function keyOf(scope: AccessScope): string {
  return [scope.origin, scope.repository, scope.actions, ...(scope.extra ?? [])].join(' ');
}

/** One per client. */
export class Authenticator {
  readonly #transport: Transport;
  readonly #credentials: CredentialSource;
  readonly #log: Logger;
  readonly #policy: RetryPolicy;
  readonly #grants = new LRUCache<string, Grant>({ max: MAX_GRANTS });
  readonly #pending = new Map<string, Promise<Grant>>();

  constructor(options: {
    readonly transport: Transport;
    readonly credentials: CredentialSource;
    readonly log: Logger;
    readonly retry: RetryPolicy;
  }) {
    this.#transport = options.transport;
    this.#credentials = options.credentials;
    this.#log = options.log;
    this.#policy = options.retry;
  }

  /** The Authorization header to start with; undefined if nothing is known yet (or the registry wants none). */
  async header(scope: AccessScope, signal?: AbortSignal): Promise<string | undefined> {
    const key = keyOf(scope);
    const grant = this.#grants.get(key);
    if (grant === undefined) return undefined;
    const now = performance.now();
    if (now < grant.renewAt) return grant.header;
    try {
      return (await this.#acquire(key, scope, grant.challenge, signal)).header;
    } catch (error) {
      if (performance.now() >= grant.expiresAt || signal?.aborted === true) throw error;
      this.#log.warn(
        { host: new URL(scope.origin).host, err: error },
        'token could not be renewed, using the old one while it lasts',
      );
      return grant.header;
    }
  }

  /**
   * Answers a 401.
   * @param response its body is dropped here.
   * @param used the header that was refused, so that of many requests refused at once only the first asks for a token.
   * @throws RegistryError OBD_REGISTRY_AUTH if there is no answer to the challenge.
   */
  async answer(
    scope: AccessScope,
    response: HttpResponse,
    used: string | undefined,
    signal?: AbortSignal,
  ): Promise<string> {
    const key = keyOf(scope);
    const wanted = response.header('www-authenticate') ?? '';
    await discardBody(response);
    const known = this.#grants.get(key);
    if (known !== undefined && known.header !== used) return known.header;
    this.#grants.delete(key);
    const challenges = parseChallenges(wanted);
    const challenge =
      challenges.find(({ scheme, parameters }) => scheme === 'bearer' && parameters.has('realm')) ??
      challenges.find(({ scheme }) => scheme === 'basic');
    if (challenge === undefined) {
      const source = redactUrl(scope.url);
      throw new RegistryError(
        'OBD_REGISTRY_AUTH',
        `Cannot authenticate to "${source}": status ${response.status} with ${
          wanted === ''
            ? 'no WWW-Authenticate header'
            : `schemes ${challenges.map(({ scheme }) => scheme).join(', ') || 'none'}`
        }, expected Bearer or Basic`,
        { source, actual: response.status },
      );
    }
    return (await this.#acquire(key, scope, challenge, signal)).header;
  }

  /** One acquisition per key at a time; each waiter has its own way out. */
  async #acquire(
    key: string,
    scope: AccessScope,
    challenge: Challenge,
    signal: AbortSignal | undefined,
  ): Promise<Grant> {
    let pending = this.#pending.get(key);
    if (pending === undefined) {
      pending = (
        challenge.scheme === 'bearer' ? this.#bearer(scope, challenge) : this.#basic(scope, challenge)
      )
        .then((grant) => {
          this.#grants.set(key, grant);
          return grant;
        })
        .finally(() => this.#pending.delete(key));
      this.#pending.set(key, pending);
    }
    if (signal === undefined) return pending;
    let stop: (() => void) | undefined;
    const aborted = new Promise<never>((_, reject) => {
      stop = () => {
        reject(abortedError('authenticate', signal));
      };
      if (signal.aborted) stop();
      else signal.addEventListener('abort', stop, { once: true });
    });
    try {
      return await Promise.race([pending, aborted]);
    } finally {
      if (stop !== undefined) signal.removeEventListener('abort', stop);
      pending.catch(() => {
        // Whoever still waits has the error.
      });
    }
  }

  #find(scope: AccessScope): Promise<Credential | undefined> {
    return this.#credentials.find({
      host: new URL(scope.origin).host,
      repository: scope.repository,
      url: scope.url,
    });
  }

  async #basic(scope: AccessScope, challenge: Challenge): Promise<Grant> {
    const credential = await this.#find(scope);
    const host = new URL(scope.origin).host;
    if (credential === undefined || credential.username === '')
      throw new RegistryError(
        'OBD_REGISTRY_AUTH',
        `Cannot authenticate to "${redactUrl(scope.url)}": it wants a user name and password, none are known`,
        {
          source: redactUrl(scope.url),
          hint: `Add "${host}" to cred.json, or run docker login ${host}`,
        },
      );
    return grantOf(challenge, basicHeader(credential), BASIC_LIFETIME_S, performance.now());
  }

  async #bearer(scope: AccessScope, challenge: Challenge): Promise<Grant> {
    const realmText = challenge.parameters.get('realm') ?? '';
    const source = redactUrl(realmText);
    if (!URL.canParse(realmText) || !/^https?:$/.test(new URL(realmText).protocol))
      throw new RegistryError(
        'OBD_REGISTRY_AUTH',
        `Cannot authenticate to "${redactUrl(scope.url)}": the token server's address is no http URL`,
        {
          source: redactUrl(scope.url),
        },
      );
    const realm = new URL(realmText);
    realm.username = '';
    realm.password = '';
    const credential = await this.#find(scope);
    const scopes = scopesOf(challenge.parameters.get('scope') ?? '', scope);
    const service = challenge.parameters.get('service');
    const action = `get a token for "${new URL(scope.origin).host}"`;
    const startedAt = performance.now();
    const answer = await withRetries(
      async () => {
        this.#transport.checkScheme(realm, new URL(scope.origin));
        const response = await this.#transport.send({
          ...tokenRequest(realm, service, scopes, credential),
          action,
          trustScheme: true,
        });
        if (response.status !== 200) {
          const body = await readErrorBody(response);
          throw statusError(action, source, {
            status: response.status,
            retryAfter: response.header('retry-after'),
            body,
          });
        }
        return readBody(
          response,
          MAX_TOKEN_SIZE,
          () =>
            new RegistryError(
              'OBD_REGISTRY_AUTH',
              `Cannot ${action} from "${source}": answer larger than ${MAX_TOKEN_SIZE} bytes`,
              { source },
            ),
        );
      },
      { policy: this.#policy, action, log: this.#log },
    );
    const { token, lifetimeS } = parseToken(answer, action, source);
    return grantOf(challenge, `Bearer ${token}`, lifetimeS, startedAt);
  }
}

/**
 * Scopes to ask for: what the challenge says, and all that requests of this kind need, so that a HEAD before a push does not
 * fetch a token that the push itself cannot use.
 */
function scopesOf(challenged: string, scope: AccessScope): string[] {
  const own = `repository:${scope.repository}:`;
  const actions = new Set(scope.actions.split(','));
  const others: string[] = [];
  for (const text of challenged.split(' ').filter((part) => part !== '')) {
    if (text.startsWith(own)) for (const action of text.slice(own.length).split(',')) actions.add(action);
    else others.push(text);
  }
  return [...new Set([own + [...actions].join(','), ...others, ...(scope.extra ?? [])])];
}

function basicHeader({ username, password }: Credential): string {
  return `Basic ${Buffer.from(`${username}:${password}`, 'utf8').toString('base64')}`;
}

function grantOf(challenge: Challenge, header: string, lifetimeS: number, startedAt: number): Grant {
  const lifetimeMs = Math.min(Math.max(lifetimeS, 0), MAX_LIFETIME_S) * 1000;
  const expiresAt = startedAt + lifetimeMs;
  // A quarter of a short life, at most half a minute: time for a slow token server.
  return { challenge, header, expiresAt, renewAt: expiresAt - Math.min(30_000, lifetimeMs / 4) };
}

function tokenRequest(
  realm: URL,
  service: string | undefined,
  scopes: readonly string[],
  credential: Credential | undefined,
): { method: 'GET' | 'POST'; url: string; headers: Record<string, string>; body?: Uint8Array } {
  if (credential?.identityToken !== undefined) {
    const form = new URLSearchParams({
      grant_type: 'refresh_token',
      client_id: 'overlaybd-ts',
      ...(service === undefined ? {} : { service }),
      scope: scopes.join(' '),
      refresh_token: credential.identityToken,
    });
    return {
      method: 'POST',
      url: realm.href,
      headers: { 'content-type': 'application/x-www-form-urlencoded', accept: 'application/json' },
      body: Buffer.from(form.toString()),
    };
  }
  const url = new URL(realm);
  if (service !== undefined) url.searchParams.append('service', service);
  for (const scope of scopes) url.searchParams.append('scope', scope);
  const headers: Record<string, string> = { accept: 'application/json' };
  if (credential !== undefined && credential.username !== '')
    headers['authorization'] = basicHeader(credential);
  return { method: 'GET', url: url.href, headers };
}

function parseToken(bytes: Buffer, action: string, source: string): { token: string; lifetimeS: number } {
  const bad = (why: string): RegistryError =>
    new RegistryError('OBD_REGISTRY_AUTH', `Cannot ${action} from "${source}": ${why}`, { source });
  let json: unknown;
  try {
    json = JSON.parse(bytes.toString('utf8'));
  } catch {
    throw bad('the answer is not JSON');
  }
  if (typeof json !== 'object' || json === null) throw bad('the answer is no object');
  const { token, access_token, expires_in } = json as Record<string, unknown>;
  const text = typeof token === 'string' && token !== '' ? token : access_token;
  if (typeof text !== 'string' || text === '') throw bad('the answer has neither "token" nor "access_token"');
  // A token ends up in a header line.
  if (!/^[\x21-\x7e]+$/.test(text)) throw bad('the token has characters that no header may have');
  const lifetimeS =
    typeof expires_in === 'number' && Number.isFinite(expires_in) && expires_in > 0
      ? expires_in
      : DEFAULT_LIFETIME_S;
  return { token: text, lifetimeS };
}
