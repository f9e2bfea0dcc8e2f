/**
 * Devices over NBD on Unix sockets: for QEMU, qemu-img, nbdcopy, nbd-client and fio, without a kernel module or root.
 *
 * A device has one socket, and any number of clients up to a bound; they see each other's writes at once (the device
 * has no cache of its own), so multi-conn is honest. Sockets are 0600 in a directory that must exist.
 */
import { chmod, lstat, unlink } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { DeviceError, ioError } from '../../blob/index.js';
import type { Logger } from '../../log/index.js';
import type { BlockDevice } from '../block-device.js';
import { IoGuard } from '../io-guard.js';
import {
  DEVICE_ID,
  type Attachment,
  type AttachRequest,
  type FrontEnd,
  type ImageOpener,
} from '../front-end.js';
import { ByteReader } from './byte-reader.js';
import { handshake } from './handshake.js';
import { transmission } from './transmission.js';

/** Enough for nbdcopy and a kernel client with a connection per core, several times over. */
const MAX_CONNECTIONS = 64;
/** A client must finish choosing options within this time. */
const HANDSHAKE_MS = 10_000;
/** Longest path of a Unix socket that Linux takes. */
const MAX_SOCKET_PATH = 107;

/** One device on one socket. */
export class NbdServer {
  readonly socketPath: string;
  /** The device's failure policy at work. */
  readonly guard: IoGuard;
  readonly #device: BlockDevice;
  readonly #log: Logger;
  readonly #server: Server;
  readonly #connections = new Map<Socket, Promise<void>>();

  private constructor(device: BlockDevice, socketPath: string, log: Logger) {
    this.#device = device;
    this.socketPath = socketPath;
    this.#log = log;
    this.guard = new IoGuard(device, log);
    this.#server = createServer((socket) => {
      this.#accept(socket);
    });
    this.#server.maxConnections = MAX_CONNECTIONS;
  }

  /**
   * Listens on `socketPath`, 0600. A socket that nobody listens on is replaced.
   * @throws DeviceError OBD_DEVICE_EXISTS if somebody does, or something else is there; IoError.
   */
  static async listen(device: BlockDevice, socketPath: string, log: Logger): Promise<NbdServer> {
    if (Buffer.byteLength(socketPath) > MAX_SOCKET_PATH)
      throw new DeviceError(
        'OBD_DEVICE_UNSUPPORTED',
        `Cannot listen on "${socketPath}": the path has ${Buffer.byteLength(socketPath)} bytes, Linux allows ${MAX_SOCKET_PATH}`,
      );
    await removeStale(socketPath);
    const server = new NbdServer(device, socketPath, log);
    const mask = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        server.#server.once('error', reject);
        server.#server.listen(socketPath, resolve);
      });
      await chmod(socketPath, 0o600);
    } catch (error) {
      throw ioError(error, `listen on "${socketPath}"`, socketPath);
    } finally {
      process.umask(mask);
    }
    server.#server.on('error', (error) => {
      log.error({ err: error }, 'nbd socket failed');
    });
    return server;
  }

  /** Clients connected now. */
  get connections(): number {
    return this.#connections.size;
  }

  /** Stops listening, ends every connection after its commands in flight, removes the socket. Idempotent. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) =>
      this.#server.close(() => {
        resolve();
      }),
    );
    this.guard.stop();
    for (const socket of this.#connections.keys()) socket.destroy();
    await Promise.allSettled(this.#connections.values());
    await closed;
  }

  #accept(socket: Socket): void {
    const work = this.#serve(socket)
      .catch((error: unknown) => {
        this.#log.warn({ err: error }, 'nbd connection ended');
      })
      .finally(() => {
        socket.destroy();
        this.#connections.delete(socket);
      });
    this.#connections.set(socket, work);
  }

  async #serve(socket: Socket): Promise<void> {
    const reader = new ByteReader(socket);
    const timer = setTimeout(() => socket.destroy(), HANDSHAKE_MS);
    const negotiated = await handshake(reader, socket, this.#device).finally(() => {
      clearTimeout(timer);
    });
    if (negotiated === undefined) return;
    await transmission(reader, socket, { device: this.#device, guard: this.guard }, negotiated, this.#log);
    await new Promise<void>((resolve) => {
      if (socket.destroyed) resolve();
      else
        socket
          .once('close', () => {
            resolve();
          })
          .end(() => {
            resolve();
          });
    });
  }
}

async function removeStale(path: string): Promise<void> {
  const stat = await lstat(path).catch(() => undefined);
  if (stat === undefined) return;
  const inUse = stat.isSocket()
    ? await new Promise<boolean>((resolve) => {
        const probe = connect(path);
        probe.once('connect', () => {
          probe.destroy();
          resolve(true);
        });
        probe.once('error', () => {
          resolve(false);
        });
      })
    : true;
  if (inUse)
    throw new DeviceError(
      'OBD_DEVICE_EXISTS',
      `Cannot listen on "${path}": ${stat.isSocket() ? 'another server does' : 'it is not a socket'}`,
      { source: path },
    );
  await unlink(path);
}

/** {@link FrontEnd} over {@link NbdServer}: one socket per device, `<directory>/<id>.sock`. */
export class NbdFrontEnd implements FrontEnd {
  readonly transport = 'nbd';
  readonly #directory: string;
  readonly #open: ImageOpener;
  readonly #log: Logger;
  readonly #attached = new Map<string, Attachment>();
  readonly #reserved = new Set<string>();

  /** @param directory for the sockets; must exist, and belong to us alone. */
  constructor(directory: string, open: ImageOpener, log: Logger) {
    this.#directory = directory;
    this.#open = open;
    this.#log = log;
  }

  async start(): Promise<void> {
    // Nothing outlives the process but socket files, and listen() replaces those.
  }

  async attach(request: AttachRequest): Promise<Attachment> {
    const { id, configPath } = request;
    if (!DEVICE_ID.test(id))
      throw new DeviceError(
        'OBD_DEVICE_UNSUPPORTED',
        `Cannot attach "${id}": expected a name of ${DEVICE_ID.source}`,
      );
    if (this.#reserved.has(id))
      throw new DeviceError('OBD_DEVICE_EXISTS', `Cannot attach "${id}": the name is taken`, { source: id });
    this.#reserved.add(id);
    let device: BlockDevice | undefined;
    try {
      device = await this.#open(configPath);
      const server = await NbdServer.listen(
        device,
        join(this.#directory, `${id}.sock`),
        this.#log.child({ dev: id }),
      );
      const attachment = this.#attachment(id, configPath, device, server);
      this.#attached.set(id, attachment);
      return attachment;
    } catch (error) {
      this.#reserved.delete(id);
      await device?.close();
      throw error;
    }
  }

  attachments(): readonly Attachment[] {
    return [...this.#attached.values()];
  }

  async close(): Promise<void> {
    await Promise.all(this.attachments().map((attachment) => attachment.detach()));
  }

  #attachment(id: string, configPath: string, device: BlockDevice, server: NbdServer): Attachment {
    let detached: Promise<void> | undefined;
    return {
      id,
      transport: 'nbd',
      configPath,
      devicePath: server.socketPath,
      device,
      guard: server.guard,
      detach: () =>
        (detached ??= (async () => {
          await server.close();
          this.#attached.delete(id);
          this.#reserved.delete(id);
          await device.close();
        })()),
    };
  }
}
