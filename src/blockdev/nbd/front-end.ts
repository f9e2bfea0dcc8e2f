/**
 * Devices over NBD on Unix sockets: for QEMU, qemu-img, nbdcopy, nbd-client and fio, without a kernel module or root.
 *
 * A device has one socket, and any number of clients up to a bound; they see each other's writes at once (the device
 * has no cache of its own), so multi-conn is honest. Sockets are 0600 in a directory that must exist.
 */
import { chmod, lstat, unlink } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DeviceError, ioError } from '../../blob/index.js';
import type { Logger } from '../../log/index.js';
import type { BlockDevice } from '../block-device.js';
import { DeviceMeter, type OnServed } from '../device-meter.js';
import { IoGuard } from '../io-guard.js';
import {
  DEVICE_ID,
  type Attachment,
  type AttachRequest,
  type FrontEnd,
  type ImageOpener,
} from '../front-end.js';
import { DEFAULT_POLICY, type IoPolicy } from '../io-policy.js';
import { LateDevice, imageOf } from '../late-device.js';
import { ByteReader } from './byte-reader.js';
import { handshake } from './handshake.js';
import { readNbdRecords, removeNbdRecord, writeNbdRecord, type NbdRecord } from './records.js';
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
  readonly meter = new DeviceMeter();
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
    await transmission(
      reader,
      socket,
      { device: this.#device, guard: this.guard, meter: this.meter },
      negotiated,
      this.#log,
    );
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

/** What an {@link NbdFrontEnd} works with. */
export interface NbdFrontEndOptions {
  /** For the sockets; must exist, and belong to us alone. */
  readonly directory: string;
  readonly open: ImageOpener;
  readonly log: Logger;
  /** The policy for a device whose image does not open; default {@link DEFAULT_POLICY}. Never rejects. */
  readonly policyOf?: ((configPath: string) => Promise<IoPolicy>) | undefined;
  readonly onServed?: OnServed | undefined;
}

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 30_000;

/**
 * {@link FrontEnd} over {@link NbdServer}: one socket per device, `<directory>/<id>.sock`. Devices outlive the process: the
 * next one listens on their sockets again, at once, and clients that reconnect go on (docs/adr/0051).
 */
export class NbdFrontEnd implements FrontEnd {
  readonly transport = 'nbd';
  readonly #options: NbdFrontEndOptions;
  readonly #attached = new Map<string, NbdAttachment>();
  readonly #reserved = new Set<string>();

  constructor(options: NbdFrontEndOptions) {
    this.#options = options;
  }

  /** Serves the devices of an earlier process again; their images open while it goes on. */
  async start(): Promise<void> {
    const { directory, log } = this.#options;
    const records = await readNbdRecords(directory, log);
    await Promise.all(
      records.map(async (record) => {
        try {
          await this.#adopt(record);
        } catch (error) {
          log.error({ dev: record.id, err: error }, 'cannot serve a device of an earlier service');
          this.#reserved.delete(record.id);
        }
      }),
    );
    if (records.length > 0)
      log.info({ devices: records.length }, 'nbd serves the devices of an earlier service');
  }

  async attach(request: AttachRequest): Promise<Attachment> {
    const { id, configPath } = request;
    const { directory, open } = this.#options;
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
      device = await open(configPath);
      await writeNbdRecord(directory, { id, configPath, size: device.size, readOnly: device.readOnly });
      return await this.#serve(id, configPath, device);
    } catch (error) {
      this.#reserved.delete(id);
      await removeNbdRecord(directory, id);
      await device?.close();
      throw error;
    }
  }

  attachments(): readonly Attachment[] {
    return [...this.#attached.values()];
  }

  /** The records stay: the next process serves these devices again. */
  async close(): Promise<void> {
    await Promise.all([...this.#attached.values()].map((attachment) => attachment.leave()));
  }

  async #serve(id: string, configPath: string, device: BlockDevice): Promise<NbdAttachment> {
    const { directory, log, onServed } = this.#options;
    const path = join(directory, `${id}.sock`);
    const server = await NbdServer.listen(device, path, log.child({ dev: id }));
    const over = onServed?.(server.meter);
    const attachment = new NbdAttachment(id, configPath, device, server, async (forGood) => {
      over?.();
      if (forGood) await removeNbdRecord(directory, id);
      this.#attached.delete(id);
      this.#reserved.delete(id);
    });
    this.#attached.set(id, attachment);
    return attachment;
  }

  /** Settles when the socket is there; the image may take longer. */
  async #adopt(record: NbdRecord): Promise<void> {
    const { open, policyOf } = this.#options;
    const { id, configPath } = record;
    this.#reserved.add(id);
    const policy = (await policyOf?.(configPath)) ?? DEFAULT_POLICY;
    const opening = open(configPath);
    const device = new LateDevice(configPath, record, policy, new Error('it is being opened'), opening);
    const attachment = await this.#serve(id, configPath, device).catch(async (error: unknown) => {
      await opening.then((image) => image.close()).catch(() => undefined);
      throw error;
    });
    void this.#openInTheEnd(attachment, device, opening);
  }

  /** Never rejects. */
  async #openInTheEnd(
    attachment: NbdAttachment,
    device: LateDevice,
    first: Promise<BlockDevice>,
  ): Promise<void> {
    const { open } = this.#options;
    const { signal, configPath, guard } = attachment;
    let opening = first;
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS))
      try {
        const image = await opening;
        if (signal.aborted) {
          await image.close();
          return;
        }
        device.arrive(image);
        guard.retry();
        return;
      } catch (error) {
        if (signal.aborted) return;
        device.reason = error;
        guard.report(device.reason);
        await sleep(pause, undefined, { signal }).catch(() => undefined);
        opening = open(configPath);
      }
  }
}

/** A device on its socket. */
class NbdAttachment implements Attachment {
  readonly transport = 'nbd';
  readonly id: string;
  readonly configPath: string;
  readonly device: BlockDevice;
  readonly devicePath: string;
  readonly guard: IoGuard;
  readonly served: Attachment['served'];
  readonly #server: NbdServer;
  readonly #forget: (forGood: boolean) => Promise<void>;
  readonly #stop = new AbortController();
  #ended: Promise<void> | undefined;

  constructor(
    id: string,
    configPath: string,
    device: BlockDevice,
    server: NbdServer,
    forget: (forGood: boolean) => Promise<void>,
  ) {
    this.id = id;
    this.configPath = configPath;
    this.device = device;
    this.devicePath = server.socketPath;
    this.guard = server.guard;
    const { meter } = server;
    this.served = {
      meter,
      get counters() {
        return meter.counters;
      },
    };
    this.#server = server;
    this.#forget = forget;
  }

  /** See {@link Attachment}. */
  get connections(): number {
    return this.#server.connections;
  }

  /** Fires when the device is not served any more. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  detach(): Promise<void> {
    return (this.#ended ??= this.#end(true));
  }

  /** Leaves the device to the next process. Idempotent. */
  leave(): Promise<void> {
    return (this.#ended ??= this.#end(false));
  }

  async #end(forGood: boolean): Promise<void> {
    this.#stop.abort();
    await this.#server.close();
    await this.#forget(forGood);
    await imageOf(this.device).close();
  }
}
