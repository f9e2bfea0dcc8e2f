/**
 * Credentials from a service on this machine or beside it (service specification B.4, modes http, https, uds): a GET
 * with the blob's URL, *unescaped*, as `remote_url`; the answer wraps the same document as `cred.json` has.
 */
import { readFile } from 'node:fs/promises';
import { RegistryError } from '../blob/index.js';
import {
  findInAuths,
  MAX_CREDENTIALS_SIZE,
  parseCredentialsJson,
  type Credential,
  type CredentialSource,
  type CredentialTarget,
} from './credentials.js';
import { newAgent } from './http-agent.js';

/** How to reach the service. Paths are of PEM files, read anew for each request. */
export interface CredentialServiceOptions {
  readonly mode: 'http' | 'https' | 'uds';
  /** URL, or for `uds` the path of the socket. */
  readonly path: string;
  /** Limit for the whole request. The reference's default is 1 s: it stands in the way of a disk read. */
  readonly timeoutMs?: number;
  readonly clientCertPath?: string;
  /** Absent: the key is in the certificate's file. */
  readonly clientKeyPath?: string;
  readonly serverCaPath?: string;
}

/** A credential service. Holds no connection between requests. */
export class ServiceCredentials implements CredentialSource {
  readonly #options: CredentialServiceOptions;

  constructor(options: CredentialServiceOptions) {
    this.#options = options;
  }

  async find(target: CredentialTarget): Promise<Credential | undefined> {
    const { mode, path } = this.#options;
    const timeoutMs = this.#options.timeoutMs ?? 1000;
    const base = mode === 'uds' ? 'http://localhost/auth' : path;
    const fail = (why: string, cause?: unknown): RegistryError =>
      new RegistryError('OBD_REGISTRY_AUTH', `Cannot ask credential service "${path}": ${why}`, {
        source: path,
        cause,
      });
    if (!URL.canParse(base) || !new RegExp(`^https?:$`).test(new URL(base).protocol))
      throw fail('it is no http URL');
    const url = new URL(base);
    if (mode === 'https' && url.protocol !== 'https:') throw fail('mode https needs an https URL');
    const agent = newAgent({
      connections: 1,
      pipelining: 0,
      connect: {
        timeout: timeoutMs,
        ...(mode === 'uds' ? { socketPath: path } : {}),
        ...(url.protocol === 'https:' ? await this.#tls() : {}),
      },
    });
    try {
      const response = await agent.request({
        origin: url.origin,
        path: `${url.pathname}?remote_url=${target.url}`,
        method: 'GET',
        signal: AbortSignal.timeout(timeoutMs),
      });
      if (response.statusCode !== 200) throw fail(`status ${response.statusCode}`);
      const chunks: Buffer[] = [];
      let size = 0;
      for await (const chunk of response.body as AsyncIterable<Buffer>) {
        size += chunk.byteLength;
        if (size > MAX_CREDENTIALS_SIZE) throw fail(`answer larger than ${MAX_CREDENTIALS_SIZE} bytes`);
        chunks.push(chunk);
      }
      const answer = parseCredentialsJson(Buffer.concat(chunks), path);
      if (typeof answer !== 'object' || answer === null) throw fail('answer is no object');
      const { success, data, traceId } = answer as { success?: unknown; data?: unknown; traceId?: unknown };
      if (success !== true)
        throw fail(
          `it answers success=${String(success)}${typeof traceId === 'string' ? ` (trace ${traceId})` : ''}`,
        );
      return findInAuths(data, target, path);
    } catch (error) {
      if (error instanceof RegistryError) throw error;
      const timedOut = error instanceof Error && error.name === 'TimeoutError';
      throw fail(
        timedOut ? `no answer within ${timeoutMs} ms` : error instanceof Error ? error.message : 'failed',
        error,
      );
    } finally {
      await agent.destroy();
    }
  }

  async #tls(): Promise<Record<string, Buffer>> {
    const { clientCertPath, clientKeyPath, serverCaPath } = this.#options;
    const tls: Record<string, Buffer> = {};
    if (serverCaPath) tls['ca'] = await readFile(serverCaPath);
    if (clientCertPath) {
      tls['cert'] = await readFile(clientCertPath);
      tls['key'] = await readFile(clientKeyPath ? clientKeyPath : clientCertPath);
    }
    return tls;
  }
}
