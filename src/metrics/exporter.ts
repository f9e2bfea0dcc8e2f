/**
 * The HTTP server that Prometheus scrapes. It only reads, and nothing depends on it: a port that is taken is said in the
 * log and tried again, and whatever fails in here ends with an answer of status 500.
 */
import { createServer, type Server } from 'node:http';
import type { Logger } from '../log/index.js';
import { isSystemError } from '../blob/index.js';
import { METRICS_TYPE } from './text.js';

/** The keys of `exporterConfig` that matter here. */
export interface ExporterKeys {
  readonly uriPrefix: string;
  readonly port: number;
  readonly address: string;
}

/** Scrapers, and a person with curl. */
const MAX_CONNECTIONS = 32;
const TIMEOUT_MS = 10_000;
/** A service that is being replaced keeps its port for some seconds; a wrong configuration for ever. */
const RETRY_MS = 10_000;

/** See the head of this file. */
export class Exporter {
  readonly #keys: ExporterKeys;
  readonly #text: () => string;
  readonly #log: Logger;
  readonly #server: Server;
  #timer: NodeJS.Timeout | undefined;
  #complained = false;
  #closed = false;

  /** Listens as soon as it can. @param text makes the answer; called for each request. */
  constructor(keys: ExporterKeys, text: () => string, log: Logger) {
    this.#keys = keys;
    this.#text = text;
    this.#log = log;
    this.#server = createServer(
      { headersTimeout: TIMEOUT_MS, requestTimeout: TIMEOUT_MS, maxHeaderSize: 16 * 1024 },
      (request, response) => {
        const { status, body } = this.#answer(request.method ?? '', request.url ?? '');
        response.writeHead(status, {
          'content-type': status === 200 ? METRICS_TYPE : 'text/plain; charset=utf-8',
          'content-length': Buffer.byteLength(body),
          ...(status === 405 ? { allow: 'GET, HEAD' } : {}),
        });
        response.end(request.method === 'HEAD' ? undefined : body);
      },
    );
    this.#server.maxConnections = MAX_CONNECTIONS;
    this.#server.on('error', (error) => {
      this.#failed(error);
    });
    this.#server.on('listening', () => {
      this.#complained = false;
      this.#log.info({ ...keys, port: this.port }, 'metrics are exported');
    });
    this.#listen();
  }

  /** Where it listens; undefined while it does not. */
  get port(): number | undefined {
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : undefined;
  }

  /** Stops. Scrapes under way are cut off. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    if (!this.#server.listening) return;
    await new Promise<void>((resolve) => {
      this.#server.close(() => {
        resolve();
      });
      this.#server.closeAllConnections();
    });
  }

  #listen(): void {
    if (this.#closed) return;
    this.#server.listen(this.#keys.port, this.#keys.address);
  }

  #failed(error: Error): void {
    const { port, address } = this.#keys;
    if (!this.#complained) {
      this.#complained = true;
      const hint =
        isSystemError(error) && error.code === 'EADDRINUSE'
          ? 'Another program has the port: service and snapshotter have the same default; give one of them another exporterConfig.port'
          : 'Check exporterConfig.address and port';
      this.#log.error(
        { err: error, address, port, hint, retryMs: RETRY_MS },
        'metrics are not exported: the port cannot be used; devices are served all the same',
      );
    }
    if (this.#closed || this.#server.listening) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#listen();
    }, RETRY_MS).unref();
  }

  #answer(method: string, url: string): { readonly status: number; readonly body: string } {
    if (method !== 'GET' && method !== 'HEAD') return { status: 405, body: 'Only GET\n' };
    if (!url.startsWith(this.#keys.uriPrefix))
      return { status: 404, body: `The metrics are at ${this.#keys.uriPrefix}\n` };
    try {
      return { status: 200, body: this.#text() };
    } catch (error) {
      this.#log.error({ err: error }, 'metrics could not be collected');
      return { status: 500, body: 'The metrics could not be collected; see the log\n' };
    }
  }
}
