import { chmod, unlink } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { dirname } from 'node:path';
import { Server, ServerCredentials } from '@grpc/grpc-js';
import { IoError, ioError, isSystemError, makeDirectory } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import type { GrpcMetrics } from './grpc-metrics.js';
import { snapshotsHandlers } from './grpc-service.js';
import type { Snapshotter } from './snapshotter.js';
import { snapshotsService } from './wire.js';

/** How long requests under way may take once the server is told to end. */
const CLOSE_MS = 10_000;

/** The service on its socket. */
export class SnapshotsServer {
  readonly #server: Server;
  readonly #address: string;

  private constructor(server: Server, address: string) {
    this.#server = server;
    this.#address = address;
  }

  /**
   * Listens on a Unix socket, for its owner only; requests are counted in `metrics`. A socket that nobody listens on is stale, and replaced.
   * @throws IoError OBD_IO_EXISTS if somebody listens there.
   */
  static async listen(
    address: string,
    snapshotter: Snapshotter,
    log: Logger,
    metrics?: GrpcMetrics,
  ): Promise<SnapshotsServer> {
    try {
      await makeDirectory(dirname(address), 0o700);
      if (await answers(address))
        throw new IoError('OBD_IO_EXISTS', `Cannot listen on "${address}": another process does`, {
          source: address,
          hint: 'One snapshotter is enough; stop the other, or choose another "address"',
        });
      await unlink(address).catch((error: unknown) => {
        if (!isSystemError(error) || error.code !== 'ENOENT') throw error;
      });
      const server = new Server();
      server.addService(snapshotsService, snapshotsHandlers(snapshotter, log, metrics));
      const mask = process.umask(0o177); // from its first moment it is for its owner only
      try {
        await new Promise<void>((resolve, reject) => {
          server.bindAsync(`unix:${address}`, ServerCredentials.createInsecure(), (error) => {
            if (error === null) resolve();
            else reject(error);
          });
        });
      } finally {
        process.umask(mask);
      }
      await chmod(address, 0o600);
      return new SnapshotsServer(server, address);
    } catch (error) {
      throw ioError(error, `listen on "${address}"`, address);
    }
  }

  /** Lets requests under way end, takes no others, and removes the socket. Idempotent. */
  async close(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([
      new Promise<void>((resolve) => {
        this.#server.tryShutdown(() => {
          resolve();
        });
      }),
      new Promise<void>((resolve) => {
        timer = setTimeout(resolve, CLOSE_MS);
      }),
    ]);
    clearTimeout(timer);
    this.#server.forceShutdown();
    await unlink(this.#address).catch(() => undefined); // the server removes it by itself when it ends in time
  }
}

/** Whether somebody listens on a socket. */
async function answers(address: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = createConnection(address);
    connection.on('connect', () => {
      connection.destroy();
      resolve(true);
    });
    connection.on('error', () => {
      resolve(false);
    });
  });
}
