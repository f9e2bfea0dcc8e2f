/**
 * The live-snapshot API as the reference has it (service.md D.6): any method, `/snapshot?dev_id=ID&config=PATH`.
 *
 * It asks nobody who they are. So it listens on loopback unless the configuration says otherwise, and answers no browser
 * (a page may make one send requests here): those say where they come from (`Origin`, `Sec-Fetch-Site`), or ask for a host by
 * a name that points here. What a request names must belong to the service's user (src/image/live-snapshot.ts).
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { BlockList, isIP } from 'node:net';
import { ConfigError, DeviceError, ioError } from '../blob/index.js';
import type { Logger } from '../log/index.js';

/** The `serviceConfig` block of overlaybd.json. */
export interface SnapshotAddress {
  /** `http://IP:PORT`. */
  readonly address: string;
  /** Listen where others can reach it. */
  readonly allowRemote: boolean;
}

/** Takes the snapshot. @throws DeviceError OBD_DEVICE_NOT_FOUND if there is no such device. */
type TakeSnapshot = (deviceId: string, configPath: string) => Promise<unknown>;

/** Clients are a few scripts. */
const MAX_CONNECTIONS = 16;
const TIMEOUT_MS = 10_000;

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8);
loopback.addAddress('::1', 'ipv6');

/** Answers of the reference, to the byte (the stray quote of the last one too). */
const ANSWERS = {
  200: { success: true, message: 'Snapshot created successfully' },
  400: { success: false, message: 'Missing dev_id or config in snapshot request' },
  404: { success: false, message: 'Image file not found' },
  500: { success: false, message: 'Failed to create snapshot`' },
} as const;

/** See the head of this file. */
export class SnapshotServer {
  readonly #server: Server;
  readonly #take: TakeSnapshot;
  readonly #log: Logger;

  private constructor(take: TakeSnapshot, log: Logger) {
    this.#take = take;
    this.#log = log;
    this.#server = createServer(
      { headersTimeout: TIMEOUT_MS, requestTimeout: TIMEOUT_MS, maxHeaderSize: 16 * 1024 },
      (request, response) => {
        void this.#serve(request, response);
      },
    );
    this.#server.maxConnections = MAX_CONNECTIONS;
  }

  /** @throws ConfigError if the address cannot be used, IoError if it cannot be listened on. */
  static async listen(at: SnapshotAddress, take: TakeSnapshot, log: Logger): Promise<SnapshotServer> {
    const { host, port } = parseAddress(at);
    const api = new SnapshotServer(take, log);
    const server = api.#server;
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(port, host, () => {
          server.off('error', reject);
          resolve();
        });
      });
    } catch (error) {
      server.close();
      throw ioError(error, `listen on "${at.address}" (serviceConfig.address)`, at.address);
    }
    server.on('error', (error) => {
      log.error({ err: error }, 'live-snapshot API');
    });
    log.info({ address: at.address }, 'live-snapshot API is ready');
    return api;
  }

  /** Where it listens, for tests: port 0 is the system's choice. */
  get port(): number {
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  /** Stops listening and lets requests in flight end. */
  async close(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#server.close(() => {
        resolve();
      });
      this.#server.closeIdleConnections();
    });
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    request.resume();
    const [path, query] = split(request.url ?? '', '?');
    if (!path.startsWith('/snapshot')) {
      send(response, 404, { success: false, message: 'Not found' });
      return;
    }
    if (fromBrowser(request)) {
      send(response, 403, { success: false, message: 'Not for browsers' });
      return;
    }
    const parameters = new URLSearchParams(query);
    const deviceId = parameters.get('dev_id') ?? '';
    const config = parameters.get('config') ?? '';
    const status = deviceId === '' || config === '' ? 400 : await this.#snapshot(deviceId, config);
    send(response, status, ANSWERS[status]);
  }

  async #snapshot(deviceId: string, config: string): Promise<200 | 404 | 500> {
    try {
      await this.#take(deviceId, config);
      return 200;
    } catch (error) {
      const unknown = error instanceof DeviceError && error.code === 'OBD_DEVICE_NOT_FOUND';
      this.#log.warn({ deviceId, config, err: error }, 'live-snapshot API: refused');
      return unknown ? 404 : 500;
    }
  }
}

function split(text: string, at: string): [string, string] {
  const i = text.indexOf(at);
  return i < 0 ? [text, ''] : [text.slice(0, i), text.slice(i + 1)];
}

function fromBrowser({ headers }: IncomingMessage): boolean {
  if (headers.origin !== undefined || headers['sec-fetch-site'] !== undefined) return true;
  const { host } = headers;
  if (host === undefined) return false; // HTTP/1.0
  const name = host.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1');
  return isIP(name) === 0 && name.toLowerCase() !== 'localhost';
}

function send(response: ServerResponse, status: number, body: { success: boolean; message: string }): void {
  // As the reference spaces it: clients may compare text.
  const text = `{"success": ${body.success}, "message": "${body.message}"}`;
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
  });
  response.end(text);
}

/** @throws ConfigError */
function parseAddress({ address, allowRemote }: SnapshotAddress): { host: string; port: number } {
  const fail = (why: string, hint: string): never => {
    throw new ConfigError('OBD_CONFIG_VALUE', `Cannot use "serviceConfig.address": ${why}`, {
      source: 'serviceConfig.address',
      expected: 'http://127.0.0.1:9862',
      actual: address,
      hint,
    });
  };
  const match = /^http:\/\/(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+))(?::(\d{1,5}))?\/?$/.exec(address);
  const host = match?.[1] ?? match?.[2] ?? '';
  const port = Number(match?.[3] ?? 80);
  const family = isIP(host);
  if (family === 0 || port > 65535)
    fail(`found "${address}", expected http://IP:PORT`, 'The host must be a numeric address');
  if (!allowRemote && !loopback.check(host, family === 6 ? 'ipv6' : 'ipv4'))
    fail(
      `"${host}" can be reached from other machines, and the API asks nobody who they are`,
      'Use http://127.0.0.1:9862, or set "serviceConfig.allowRemote" to true',
    );
  return { host, port };
}
