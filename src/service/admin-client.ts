/** The admin API's client, for `obd` and the snapshotter. */
import { request as httpRequest } from 'node:http';
import { DeviceError, IoError, isSystemError } from '../blob/index.js';
import { activitySchema, type DeviceActivity } from './activity.js';
import {
  API_VERSION,
  answerSchemas,
  fromApiError,
  type AbortAnswer,
  type AttachBody,
  type DeviceInfo,
  type ServiceInfo,
  type SnapshotInfo,
  type TrafficAnswer,
} from './api.js';

/** A list of a thousand devices is far below. */
const MAX_ANSWER = 16 * 1024 * 1024;

/** Nobody listens on the socket. */
export class NoServiceError extends IoError {
  override name = 'NoServiceError';
  constructor(socketPath: string, cause: unknown) {
    super('OBD_IO_NOT_FOUND', `No service listens on ${socketPath}`, {
      source: socketPath,
      hint: 'Start it: "systemctl start overlaybd-tcmu", or "obd attach" starts one for its device',
      cause,
    });
  }
}

/** Calls a service. Each call is a connection of its own; calls may overlap. */
export class AdminClient {
  readonly socketPath: string;
  readonly #timeoutMs: number | undefined;

  /** @param options.timeoutMs limit of each call; default: none, an image may take as long as its registry. */
  constructor(socketPath: string, options: { readonly timeoutMs?: number } = {}) {
    this.socketPath = socketPath;
    this.#timeoutMs = options.timeoutMs;
  }

  /** Who answers. @throws NoServiceError; IoError without permission; DeviceError if it is no service of ours. */
  async info(): Promise<ServiceInfo> {
    return answerSchemas.service.parse(await this.#call('GET', 'service'));
  }

  /** Attaches an image; settles when the device can be opened. @throws what the service answers. */
  async attach(body: AttachBody): Promise<DeviceInfo> {
    return answerSchemas.device.parse(await this.#call('POST', 'devices', body));
  }

  /** Takes a device away. @param key id or device path. @returns what it was. */
  async detach(key: string): Promise<DeviceInfo> {
    return answerSchemas.device.parse(await this.#call('DELETE', `devices/${encodeURIComponent(key)}`));
  }

  /** Fails the I/O of a device that waits, until the device is ready again. @param key id or device path. */
  async abort(key: string): Promise<AbortAnswer> {
    return answerSchemas.abort.parse(await this.#call('POST', `devices/${encodeURIComponent(key)}/abort`));
  }

  /** Takes a live snapshot. @param key id or device path. @param configPath absolute; takes the place of the device's own. */
  async snapshot(key: string, configPath: string): Promise<SnapshotInfo> {
    const path = `devices/${encodeURIComponent(key)}/snapshot`;
    return answerSchemas.snapshot.parse(await this.#call('POST', path, { configPath }));
  }

  async get(key: string): Promise<DeviceInfo> {
    return answerSchemas.device.parse(await this.#call('GET', `devices/${encodeURIComponent(key)}`));
  }

  /** What happened on a device. @param key id or device path. */
  async activity(key: string): Promise<DeviceActivity> {
    return activitySchema.parse(await this.#call('GET', `devices/${encodeURIComponent(key)}/activity`));
  }

  async list(): Promise<DeviceInfo[]> {
    return answerSchemas.devices.parse(await this.#call('GET', 'devices')).devices;
  }

  /** All devices and their meters. */
  async traffic(): Promise<TrafficAnswer> {
    return answerSchemas.traffic.parse(await this.#call('GET', 'traffic'));
  }

  async #call(method: string, path: string, body?: unknown): Promise<unknown> {
    const { status, text } = await this.#exchange(method, `/v${API_VERSION}/${path}`, body);
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch (error) {
      throw new DeviceError(
        'OBD_DEVICE_UNSUPPORTED',
        `What listens on ${this.socketPath} is not this service: it answers ${status} without JSON`,
        { cause: error },
      );
    }
    if (status < 300) return json;
    const wrong = answerSchemas.error.safeParse(json);
    if (wrong.success) throw fromApiError(wrong.data.error);
    throw new DeviceError('OBD_DEVICE_UNSUPPORTED', `The service on ${this.socketPath} answers ${status}`);
  }

  #exchange(method: string, path: string, body: unknown): Promise<{ status: number; text: string }> {
    const text = body === undefined ? '' : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const request = httpRequest(
        {
          socketPath: this.socketPath,
          method,
          path,
          agent: false,
          ...(this.#timeoutMs === undefined ? {} : { signal: AbortSignal.timeout(this.#timeoutMs) }),
          headers: {
            host: 'overlaybd',
            'content-type': 'application/json',
            'content-length': Buffer.byteLength(text),
          },
        },
        (response) => {
          const chunks: Buffer[] = [];
          let length = 0;
          response.on('data', (chunk: Buffer) => {
            length += chunk.length;
            if (length > MAX_ANSWER) request.destroy(new Error(`answer of more than ${MAX_ANSWER} bytes`));
            else chunks.push(chunk);
          });
          response.on('error', (error) => {
            reject(this.#failure(error));
          });
          response.on('end', () => {
            resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString('utf8') });
          });
        },
      );
      request.on('error', (error) => {
        reject(this.#failure(error));
      });
      request.end(text);
    });
  }

  #failure(error: Error): Error {
    const code = isSystemError(error) ? error.code : '';
    if (code === 'ENOENT' || code === 'ECONNREFUSED') return new NoServiceError(this.socketPath, error);
    if (code === 'EACCES' || code === 'EPERM')
      return new IoError('OBD_IO_PERMISSION', `Cannot talk to the service on ${this.socketPath}`, {
        source: this.socketPath,
        hint: 'This needs root',
        cause: error,
      });
    if (this.#timeoutMs !== undefined && error.name === 'AbortError')
      return new IoError(
        'OBD_IO_FAILED',
        `The service on ${this.socketPath} does not answer within ${this.#timeoutMs / 1000} s`,
        { source: this.socketPath, hint: 'Look at its log; it may be hanging', cause: error },
      );
    return new IoError('OBD_IO_FAILED', `The service on ${this.socketPath} broke off: ${error.message}`, {
      source: this.socketPath,
      hint: 'Look at its log',
      cause: error,
    });
  }
}
