/**
 * Credentials where `docker login`, `podman login` and `skopeo login` put them:
 *
 *   $DOCKER_CONFIG/config.json, or ~/.docker/config.json     auths, credsStore, credHelpers
 *   $REGISTRY_AUTH_FILE, or $XDG_RUNTIME_DIR/containers/auth.json, ~/.config/containers/auth.json
 *
 * A credential helper is a program `docker-credential-NAME`: `get` as its argument, the server on stdin, JSON on stdout.
 */
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { isSystemError, RegistryError } from '../blob/index.js';
import {
  keyMatches,
  parseAuthEntry,
  parseCredentialsJson,
  type Credential,
  type CredentialSource,
  type CredentialTarget,
} from './credentials.js';

/** A helper may ask a keyring or a cloud service. */
const HELPER_TIMEOUT_MS = 10_000;
const HELPER_MAX_OUTPUT = 1024 * 1024;
const HUB_KEY = 'https://index.docker.io/v1/';

/** The files to look into, in order. */
export function loginFiles(env: NodeJS.ProcessEnv = process.env, home: string = homedir()): string[] {
  const files = [join(env['DOCKER_CONFIG'] ?? join(home, '.docker'), 'config.json')];
  if (env['REGISTRY_AUTH_FILE'] !== undefined) files.unshift(env['REGISTRY_AUTH_FILE']);
  if (env['XDG_RUNTIME_DIR'] !== undefined)
    files.push(join(env['XDG_RUNTIME_DIR'], 'containers', 'auth.json'));
  files.push(join(env['XDG_CONFIG_HOME'] ?? join(home, '.config'), 'containers', 'auth.json'));
  return files;
}

function isHub(host: string): boolean {
  return host === 'registry-1.docker.io' || host === 'docker.io' || host === 'index.docker.io';
}

/** A key of `auths` without scheme, `/v1/` and `/v2/`. */
function bareKey(key: string): string {
  return key
    .replace(/^https?:\/\//, '')
    .replace(/\/v[12]\/?$/, '')
    .replace(/\/+$/, '');
}

function stringsOf(value: unknown): Record<string, string> {
  if (typeof value !== 'object' || value === null) return {};
  return Object.fromEntries(
    Object.entries(value as Record<string, unknown>).filter(
      (entry): entry is [string, string] => typeof entry[1] === 'string',
    ),
  );
}

/** One login file. Missing is no error; unreadable or malformed is. */
export class DockerConfigCredentials implements CredentialSource {
  readonly #path: string;
  readonly #env: NodeJS.ProcessEnv;

  /** @param env of the credential helpers: PATH finds them. */
  constructor(path: string, env: NodeJS.ProcessEnv = process.env) {
    this.#path = path;
    this.#env = env;
  }

  async find(target: CredentialTarget): Promise<Credential | undefined> {
    let bytes: Buffer;
    try {
      bytes = await readFile(this.#path);
    } catch (error) {
      if (isSystemError(error) && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return undefined;
      throw new RegistryError('OBD_REGISTRY_AUTH', `Cannot read credentials "${this.#path}"`, {
        source: this.#path,
        cause: error,
      });
    }
    const document = parseCredentialsJson(bytes, this.#path);
    if (typeof document !== 'object' || document === null) return undefined;
    const { auths, credsStore, credHelpers } = document as Record<string, unknown>;
    const server = isHub(target.host) ? HUB_KEY : target.host;
    const helpers = stringsOf(credHelpers);
    const helper =
      helpers[target.host] ?? (isHub(target.host) ? (helpers['docker.io'] ?? helpers[HUB_KEY]) : undefined);
    if (helper !== undefined) return askHelper(helper, server, this.#env);
    if (typeof auths === 'object' && auths !== null) {
      // Longest key first: these files have no order of their own, and containers' auth.json scopes by repository.
      const keys = Object.entries(auths as Record<string, unknown>)
        .filter(([key]) => keyMatches(bareKey(key), target))
        .sort(([a], [b]) => bareKey(b).length - bareKey(a).length);
      for (const [, entry] of keys) {
        const credential = parseAuthEntry(entry);
        if (credential !== undefined) return credential;
      }
    }
    if (typeof credsStore === 'string' && credsStore !== '') return askHelper(credsStore, server, this.#env);
    return undefined;
  }
}

/**
 * Runs `docker-credential-<name> get`.
 * @returns undefined if it knows no credentials for the server.
 * @throws RegistryError OBD_REGISTRY_AUTH if it is missing, fails, takes too long or says too much.
 */
export async function askHelper(
  name: string,
  server: string,
  env: NodeJS.ProcessEnv,
): Promise<Credential | undefined> {
  const program = `docker-credential-${name}`;
  const fail = (why: string, cause?: unknown): RegistryError =>
    new RegistryError(
      'OBD_REGISTRY_AUTH',
      `Cannot get credentials for "${server}" from "${program}": ${why}`,
      {
        source: program,
        cause,
      },
    );
  if (!/^[A-Za-z0-9._-]+$/.test(name)) throw fail('its name has characters that no helper has');
  const { status, output } = await new Promise<{ status: number | null; output: string }>(
    (resolve, reject) => {
      // A group of its own: helpers are often shell scripts, and what they started must end with them.
      const child = spawn(program, ['get'], { env, stdio: ['pipe', 'pipe', 'ignore'], detached: true });
      const chunks: Buffer[] = [];
      let size = 0;
      const giveUp = (why: string, cause?: unknown): void => {
        clearTimeout(timer);
        child.stdout.destroy();
        try {
          if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
        } catch {
          // Gone already.
        }
        reject(fail(why, cause));
      };
      const timer = setTimeout(() => {
        giveUp(`no answer within ${HELPER_TIMEOUT_MS} ms`);
      }, HELPER_TIMEOUT_MS);
      child.on('error', (error) => {
        giveUp(
          isSystemError(error) && error.code === 'ENOENT' ? 'no such program in PATH' : error.message,
          error,
        );
      });
      child.stdin.on('error', () => {
        // It did not want its input; its exit status says the rest.
      });
      child.stdin.end(server);
      child.stdout.on('data', (chunk: Buffer) => {
        size += chunk.byteLength;
        if (size <= HELPER_MAX_OUTPUT) chunks.push(chunk);
        else giveUp(`it printed more than ${HELPER_MAX_OUTPUT} bytes`);
      });
      child.on('close', (code, signal) => {
        clearTimeout(timer);
        if (signal !== null) reject(fail(`ended by ${signal}`));
        else resolve({ status: code, output: Buffer.concat(chunks).toString('utf8') });
      });
    },
  );
  if (status !== 0) {
    // The protocol has one sentence for "unknown", on stdout.
    if (/credentials not found/i.test(output)) return undefined;
    throw fail(`exit status ${String(status)}`);
  }
  let answer: Record<string, unknown>;
  try {
    answer = JSON.parse(output) as Record<string, unknown>;
  } catch {
    throw fail('its output is not JSON');
  }
  const username = typeof answer['Username'] === 'string' ? answer['Username'] : '';
  const secret = typeof answer['Secret'] === 'string' ? answer['Secret'] : '';
  if (secret === '') return undefined;
  if (username === '<token>') return { username: '', password: '', identityToken: secret };
  return { username, password: secret };
}
