/**
 * Who we are to a registry. A source is asked anew at every token acquisition, so a changed file or service takes
 * effect without a restart. The first source of a chain that knows the host wins; nobody knowing it means anonymous.
 *
 * The overlaybd form (`cred.json`, service specification B.4): the keys of `auths` are `host[:port][/path prefix]`
 * without scheme, and the **first matching key in file order** wins, not the longest.
 */
import { readFile } from 'node:fs/promises';
import { ioError, isSystemError, RegistryError } from '../blob/index.js';
import type { Logger } from '../log/index.js';

/** What to present. With `identityToken` set, user name and password are not used. */
export interface Credential {
  readonly username: string;
  readonly password: string;
  /** An OAuth2 refresh token, from `docker login` or a credential helper. */
  readonly identityToken?: string;
}

/** What credentials are wanted for. */
export interface CredentialTarget {
  /** Host[:port] of the registry's API, as in its URLs. */
  readonly host: string;
  /** Empty when only the host is known. */
  readonly repository: string;
  /** The URL the access is for, for credential services. */
  readonly url: string;
}

/** A place that knows credentials. */
export interface CredentialSource {
  /** Undefined if this source knows none for the target. Calls may overlap. */
  find(target: CredentialTarget): Promise<Credential | undefined>;
}

/** Most bytes of a credentials file or a credential service's answer. */
export const MAX_CREDENTIALS_SIZE = 4 * 1024 * 1024;

/** Names under which Docker Hub's credentials are kept. */
const HUB_NAMES: readonly string[] = ['registry-1.docker.io', 'docker.io', 'index.docker.io'];

function hostNames(host: string): readonly string[] {
  const lower = host.toLowerCase();
  return HUB_NAMES.includes(lower) ? HUB_NAMES : [lower];
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function text(record: Record<string, unknown>, key: string): string {
  const value = record[key];
  return typeof value === 'string' ? value : '';
}

/** Decodes base64 of `user:password`; undefined if it is neither. */
export function decodeBasic(encoded: string): Credential | undefined {
  const trimmed = encoded.trim();
  if (!/^[A-Za-z0-9+/_-]+={0,2}$/.test(trimmed)) return undefined;
  const plain = Buffer.from(trimmed, 'base64').toString('utf8');
  const colon = plain.indexOf(':');
  // Docker itself writes NULs behind the password.
  if (colon < 0) return undefined;
  return { username: plain.slice(0, colon), password: plain.slice(colon + 1).replace(/\0+$/, '') };
}

/** One value of `auths`: `{auth}`, or `{username, password}`, or with `identitytoken`. Undefined if it says nothing usable. */
export function parseAuthEntry(entry: unknown): Credential | undefined {
  if (!isRecord(entry)) return undefined;
  const auth = text(entry, 'auth');
  const basic =
    auth !== ''
      ? decodeBasic(auth)
      : text(entry, 'username') === ''
        ? undefined
        : { username: text(entry, 'username'), password: text(entry, 'password') };
  const identityToken = text(entry, 'identitytoken');
  if (identityToken !== '') return { ...(basic ?? { username: '', password: '' }), identityToken };
  return basic;
}

/** True if a key `host[:port][/prefix]` covers a repository of a host: whole leading path segments only. */
export function keyMatches(key: string, target: CredentialTarget): boolean {
  const clean = key.replace(/\/+$/, '');
  return hostNames(target.host).some((host) => {
    if (clean.toLowerCase() === host) return true;
    return `${host}/${target.repository}/`.startsWith(`${clean}/`) && clean.startsWith(`${host}/`);
  });
}

/**
 * Looks a target up in `{"auths": {..}}`.
 * @param document parsed JSON.
 * @param source names the document in errors.
 * @throws RegistryError OBD_REGISTRY_AUTH if the document has another shape.
 */
export function findInAuths(
  document: unknown,
  target: CredentialTarget,
  source: string,
): Credential | undefined {
  const auths = isRecord(document) ? document['auths'] : undefined;
  if (!isRecord(auths))
    throw new RegistryError(
      'OBD_REGISTRY_AUTH',
      `Cannot use credentials "${source}": no object "auths" in it`,
      {
        source,
      },
    );
  for (const [key, entry] of Object.entries(auths)) {
    if (!keyMatches(key, target)) continue;
    const credential = parseAuthEntry(entry);
    // A damaged entry is passed over, as the reference does: a later key may match too.
    if (credential !== undefined) return credential;
  }
  return undefined;
}

/** Parses the JSON of a credentials document without ever quoting it in an error. */
export function parseCredentialsJson(bytes: Buffer, source: string): unknown {
  if (bytes.byteLength > MAX_CREDENTIALS_SIZE)
    throw new RegistryError(
      'OBD_REGISTRY_AUTH',
      `Cannot use credentials "${source}": larger than ${MAX_CREDENTIALS_SIZE} bytes`,
    );
  try {
    return JSON.parse(bytes.toString('utf8').replace(/^\uFEFF/, '')) as unknown;
  } catch {
    throw new RegistryError('OBD_REGISTRY_AUTH', `Cannot use credentials "${source}": not valid JSON`, {
      source,
    });
  }
}

/** `cred.json`, read anew each time. */
export class FileCredentials implements CredentialSource {
  readonly #path: string;
  readonly #optional: boolean;

  /** @param options.optional a missing file means no credentials, as does one that nobody has named. */
  constructor(path: string, options: { readonly optional?: boolean } = {}) {
    this.#path = path;
    this.#optional = options.optional ?? false;
  }

  async find(target: CredentialTarget): Promise<Credential | undefined> {
    let bytes: Buffer;
    try {
      bytes = await readFile(this.#path);
    } catch (error) {
      if (this.#optional && isSystemError(error) && error.code === 'ENOENT') return undefined;
      throw ioError(error, `read credentials "${this.#path}"`, this.#path);
    }
    return findInAuths(parseCredentialsJson(bytes, this.#path), target, this.#path);
  }
}

/** Credentials given directly, on a command line or in a test. */
export class StaticCredentials implements CredentialSource {
  readonly #host: string | undefined;
  readonly #credential: Credential;

  /** @param host the only host[:port] they are sent to; undefined: whichever the user named (a one-host command). */
  constructor(credential: Credential, host?: string) {
    this.#credential = credential;
    this.#host = host;
  }

  async find(target: CredentialTarget): Promise<Credential | undefined> {
    if (this.#host !== undefined && !hostNames(target.host).includes(this.#host.toLowerCase()))
      return undefined;
    return this.#credential;
  }
}

/**
 * Asks sources in turn. One that fails counts as one that knows nothing, with a warning: an anonymous try may still
 * succeed, and if it does not, the log says why there were no credentials.
 */
export class CredentialChain implements CredentialSource {
  readonly #sources: readonly CredentialSource[];
  readonly #log: Logger;

  constructor(sources: readonly CredentialSource[], log: Logger) {
    this.#sources = sources;
    this.#log = log;
  }

  async find(target: CredentialTarget): Promise<Credential | undefined> {
    for (const source of this.#sources) {
      try {
        const credential = await source.find(target);
        if (credential !== undefined) return credential;
      } catch (error) {
        this.#log.warn(
          { host: target.host, reason: error instanceof Error ? error.message : String(error) },
          'credentials not available, going on without them',
        );
      }
    }
    return undefined;
  }
}
