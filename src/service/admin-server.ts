/**
 * The admin API's server: HTTP/1.1 and JSON on a Unix socket that only root can open.
 *
 *   GET    /v1/service        who answers                 GET    /v1/devices        everything
 *   POST   /v1/devices        attach                      GET    /v1/devices/KEY    one device, by id or device path
 *   DELETE /v1/devices/KEY    detach                      GET    /v1/metrics        numbers for Prometheus
 *   POST   /v1/devices/KEY/abort   fail the I/O that waits
 *   GET    /v1/devices/KEY/activity   what was read and fetched
 *   POST   /v1/devices/KEY/snapshot   live snapshot
 *
 * Errors are `{"error": {code, message, hint?, causes?}}`. A client that goes away does not cancel what it asked for:
 * a half-made device would be worse than one that nobody waits for.
 */
import { chmod } from 'node:fs/promises';
import type { ZodType } from 'zod';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { ConfigError, DeviceError, OverlaybdError, ioError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import type { DeviceActivity } from './activity.js';
import {
  API_VERSION,
  MAX_BODY,
  attachBodySchema,
  httpStatus,
  snapshotBodySchema,
  toApiError,
  type AbortAnswer,
  type AttachBody,
  type DeviceInfo,
  type ServiceInfo,
  type SnapshotInfo,
  type TrafficAnswer,
} from './api.js';

/** What the server serves. */
export interface AdminHandlers {
  info(): ServiceInfo;
  attach(body: AttachBody): Promise<DeviceInfo>;
  detach(key: string): Promise<DeviceInfo>;
  abort(key: string): Promise<AbortAnswer>;
  get(key: string): DeviceInfo | Promise<DeviceInfo>;
  list(): DeviceInfo[] | Promise<DeviceInfo[]>;
  activity(key: string): DeviceActivity | Promise<DeviceActivity>;
  snapshot(key: string, configPath: string): Promise<SnapshotInfo>;
  metrics(): string;
  traffic(): TrafficAnswer | Promise<TrafficAnswer>;
}

/** A person and a few scripts; more at once is a runaway. */
const MAX_CONNECTIONS = 64;
const HEADERS_TIMEOUT_MS = 10_000;

/** See the head of this file. */
export class AdminServer {
  readonly #server: Server;
  readonly #handlers: AdminHandlers;
  readonly #log: Logger;

  private constructor(handlers: AdminHandlers, log: Logger) {
    this.#handlers = handlers;
    this.#log = log;
    this.#server = createServer(
      { headersTimeout: HEADERS_TIMEOUT_MS, requestTimeout: HEADERS_TIMEOUT_MS, maxHeaderSize: 16 * 1024 },
      (request, response) => {
        void this.#serve(request, response);
      },
    );
    this.#server.maxConnections = MAX_CONNECTIONS;
  }

  /** Listens on a socket that must not exist yet. @throws IoError */
  static async listen(path: string, handlers: AdminHandlers, log: Logger): Promise<AdminServer> {
    const admin = new AdminServer(handlers, log);
    const server = admin.#server;
    // Nobody may connect between bind and chmod.
    const umask = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(path, () => {
          server.off('error', reject);
          resolve();
        });
      });
      await chmod(path, 0o600);
    } catch (error) {
      server.close();
      throw ioError(error, `listen on "${path}"`, path);
    } finally {
      process.umask(umask);
    }
    server.on('error', (error) => {
      log.error({ err: error }, 'admin API');
    });
    return admin;
  }

  /** Stops listening, lets requests in flight end, and removes the socket. */
  async close(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#server.close(() => {
        resolve();
      });
      this.#server.closeIdleConnections();
    });
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = '', url = '' } = request;
    try {
      const answer = await this.#route(method, url, request);
      if (typeof answer.body === 'string')
        send(response, answer.status, answer.body, 'text/plain; version=0.0.4');
      else send(response, answer.status, JSON.stringify(answer.body), 'application/json');
    } catch (error) {
      if (!(error instanceof OverlaybdError)) this.#log.error({ method, url, err: error }, 'admin API');
      const status =
        error instanceof NoSuchCall ? 404 : error instanceof OverlaybdError ? httpStatus(error.code) : 500;
      send(response, status, JSON.stringify({ error: toApiError(error) }), 'application/json');
    }
  }

  async #route(
    method: string,
    url: string,
    request: IncomingMessage,
  ): Promise<{ status: number; body: unknown }> {
    const handlers = this.#handlers;
    const [version, collection, key, verb, ...rest] = url.replace(/^\//, '').split('/');
    const call = `${method} ${collection ?? ''}${key === undefined ? '' : '/KEY'}${verb === undefined ? '' : `/${verb}`}`;
    if (version !== `v${API_VERSION}` || rest.length > 0) throw new NoSuchCall(method, url);
    const name = decodeKey(key ?? '');
    switch (call) {
      case 'GET service':
        return { status: 200, body: handlers.info() };
      case 'GET devices':
        return { status: 200, body: { devices: await handlers.list() } };
      case 'POST devices':
        return {
          status: 201,
          body: await handlers.attach(parseBody(attachBodySchema, await readAll(request))),
        };
      case 'GET devices/KEY':
        return { status: 200, body: await handlers.get(name) };
      case 'GET devices/KEY/activity':
        return { status: 200, body: await handlers.activity(name) };
      case 'DELETE devices/KEY':
        return { status: 200, body: await handlers.detach(name) };
      case 'POST devices/KEY/abort':
        return { status: 200, body: await handlers.abort(name) };
      case 'POST devices/KEY/snapshot': {
        const { configPath } = parseBody(snapshotBodySchema, await readAll(request));
        return { status: 200, body: await handlers.snapshot(name, configPath) };
      }
      case 'GET traffic':
        return { status: 200, body: await handlers.traffic() };
      case 'GET metrics':
        return { status: 200, body: handlers.metrics() };
      default:
        throw new NoSuchCall(method, url);
    }
  }
}

class NoSuchCall extends DeviceError {
  constructor(method: string, url: string) {
    super('OBD_DEVICE_NOT_FOUND', `There is no call "${method} ${url.slice(0, 200)}"`, {
      hint: `This service speaks version ${API_VERSION} of the API`,
    });
  }
}

function send(response: ServerResponse, status: number, body: string, type: string): void {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body) });
  response.end(body);
}

function decodeKey(key: string): string {
  try {
    return decodeURIComponent(key);
  } catch {
    throw new ConfigError('OBD_CONFIG_VALUE', `"${key}" is not a percent-encoded name`);
  }
}

async function readAll(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request) {
    length += (chunk as Buffer).length;
    if (length > MAX_BODY) {
      throw new ConfigError('OBD_CONFIG_VALUE', `The request has more than ${MAX_BODY} bytes`);
    }
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function parseBody<T>(schema: ZodType<T>, text: string): T {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new ConfigError('OBD_CONFIG_SYNTAX', 'The request is not JSON', { cause: error });
  }
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const where = issue?.path.join('.') ?? '';
  throw new ConfigError(
    'OBD_CONFIG_VALUE',
    `The request cannot be used: ${where === '' ? '' : `${where}: `}${issue?.message ?? 'invalid'}`,
  );
}
