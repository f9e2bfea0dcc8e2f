/**
 * The service: one process that opens images, serves their devices, and answers the admin API.
 *
 *   start:  lock -> I/O workers -> front ends (TCMU takes over what is in the kernel) -> leftovers -> admin API
 *   end:    admin API -> what is being opened -> front ends -> I/O workers -> caches and network -> lock
 *
 * TCMU devices stay in the kernel when it ends, and wait for the next one; clients of NBD devices may wait for it. FUSE
 * devices go with it.
 */
import { rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { IoError, abortedError, makeDirectory } from '../blob/index.js';
import {
  FuseFrontEnd,
  IoWorkers,
  NbdFrontEnd,
  TcmuFrontEnd,
  type FrontEnd,
  type IoPolicy,
  type Transport,
} from '../blockdev/index.js';
import { ImageOpener, loadImageConfig, plannerModule, type ServiceConfig } from '../image/index.js';
import { AuditLog, type Logger } from '../log/index.js';
import { PrefetchTotals } from '../prefetch/index.js';
import { AdminServer } from './admin-server.js';
import { API_VERSION, type AbortAnswer, type AttachBody, type DeviceInfo, type ServiceInfo } from './api.js';
import { DeviceDirs, type ImageResolver } from './device-dirs.js';
import { DeviceTable } from './device-table.js';
import { DeviceTotals } from './device-totals.js';
import { imageLoader, ioPolicyOf } from './image-loader.js';
import { removeDeadMounts } from './mounts.js';
import { Openings } from './openings.js';
import { SnapshotServer } from './snapshot-server.js';
import { takeRunLock, type RunLock } from './run-lock.js';
import { ServiceMetrics } from './service-metrics.js';
import { findTransports, type Transports } from './transports.js';

/** How a service is started. */
export interface ServiceOptions {
  readonly config: ServiceConfig;
  /** Where `config` comes from, for {@link ServiceInfo}. */
  readonly configPath: string;
  readonly log: Logger;
  readonly version: string;
  /** What it makes for devices attached by reference; each has a directory of its own below. */
  readonly stateDir: string;
  readonly resolveImage: ImageResolver;
  /** Ends with its last device. */
  readonly ephemeral: boolean;
}

/** Their devices are served on by the next service. */
const OUTLIVING: ReadonlySet<Transport> = new Set<Transport>(['tcmu', 'nbd']);

/** An ephemeral service that nobody attaches anything to ends after this. */
const EPHEMERAL_START_MS = 60_000;

/** See the head of this file. */
export class Service {
  /** Settles when an ephemeral service has nothing left to do; its owner then closes it. */
  readonly idle: Promise<void>;
  /** Why transports are missing. */
  readonly unsupported: ReadonlyMap<Transport, string>;
  readonly #options: ServiceOptions;
  readonly #lock: RunLock;
  readonly #opener: ImageOpener;
  readonly #audit: AuditLog | undefined;
  readonly #totals = new DeviceTotals(() => this.#table.metered());
  readonly #workers: IoWorkers;
  readonly #openings: Openings;
  readonly #frontEnds: readonly FrontEnd[];
  readonly #table: DeviceTable;
  readonly #dirs: DeviceDirs;
  readonly #metrics: ServiceMetrics;
  readonly #since = new Date();
  #server: AdminServer | undefined;
  #snapshots: SnapshotServer | undefined;
  #closed: Promise<void> | undefined;
  #sayIdle: () => void = () => undefined;
  #idleTimer: NodeJS.Timeout | undefined;
  #idleSaid = false;

  private constructor(options: ServiceOptions, lock: RunLock, transports: Transports) {
    const { config, log } = options;
    this.#options = options;
    this.#lock = lock;
    this.unsupported = transports.unsupported;
    this.#audit = openAudit(config, log);
    this.#opener = new ImageOpener(config, log, this.#audit);
    this.#workers = new IoWorkers({ logger: log, plannerModule, onServed: this.#totals.add });
    const prefetched = new PrefetchTotals();
    const loader = {
      log,
      ioPolicy: config.ioPolicy,
      concurrency: config.prefetchConfig.concurrency,
      prefetched,
      quiesce: () => this.#workers.quiesce(),
    };
    this.#openings = new Openings(imageLoader(this.#opener, loader), log);
    this.#frontEnds = transports.usable.map((transport) => this.#makeFrontEnd(transport));
    this.#table = new DeviceTable({
      frontEnds: this.#frontEnds,
      openings: this.#openings,
      unsupported: transports.unsupported,
      log,
    });
    this.#dirs = new DeviceDirs({
      stateDir: options.stateDir,
      nbdDir: this.#nbdDir,
      resolveImage: options.resolveImage,
      opener: this.#opener,
      table: this.#table,
      log,
    });
    this.#metrics = new ServiceMetrics({
      table: this.#table,
      totals: this.#totals,
      opener: this.#opener,
      prefetched,
      keys: config.exporterConfig,
      version: options.version,
      log,
    });
    this.idle = new Promise((resolve) => (this.#sayIdle = resolve));
  }

  /**
   * Starts a service and waits until it serves.
   * @throws DeviceError OBD_DEVICE_BUSY if another one has the socket, OBD_DEVICE_UNSUPPORTED if the machine lacks every
   * front end that the configuration allows.
   */
  static async start(options: ServiceOptions): Promise<Service> {
    const lock = await takeRunLock(options.config.apiSocket);
    let service: Service | undefined;
    try {
      service = new Service(options, lock, await findTransports(options.config.transport));
      await service.#start();
      return service;
    } catch (error) {
      if (service === undefined) await lock.release();
      else await service.close();
      throw error;
    }
  }

  async #start(): Promise<void> {
    const { config, log } = this.#options;
    await this.#opener.setQuiesce(() => this.#workers.quiesce());
    // Before the front ends, which open the images of the devices that the kernel kept.
    await this.#dirs.removeLeftovers();
    for (const frontEnd of this.#frontEnds) {
      if (frontEnd.transport === 'nbd') await makeDirectory(this.#nbdDir, 0o700);
      await frontEnd.start();
    }
    await removeDeadMounts(dirname(config.apiSocket), log);
    this.#server = await AdminServer.listen(
      config.apiSocket,
      {
        info: () => this.info(),
        attach: (body) => this.attach(body),
        detach: (key) => this.detach(key),
        abort: (key) => this.abort(key),
        get: async (key) => {
          await this.#table.locate();
          return this.#table.get(key);
        },
        list: async () => {
          await this.#table.locate();
          return this.#table.list();
        },
        activity: async (key) => {
          await this.#table.locate();
          return this.#table.activity(key);
        },
        snapshot: async (key, path) => {
          await this.#table.locate();
          return this.#table.snapshot(key, path);
        },
        metrics: () => this.#metrics.text(),
        traffic: async () => {
          await this.#table.locate();
          return this.#table.traffic();
        },
      },
      log,
    );
    if (config.serviceConfig.enable)
      this.#snapshots = await SnapshotServer.listen(
        config.serviceConfig,
        (deviceId, path) => this.#table.snapshotById(deviceId, path),
        log,
      );
    log.info({ ...this.info(), unsupported: Object.fromEntries(this.unsupported) }, 'service is ready');
    this.#metrics.start();
    this.#checkIdle(EPHEMERAL_START_MS);
  }

  info(): ServiceInfo {
    const { version, configPath, ephemeral } = this.#options;
    return {
      version,
      api: API_VERSION,
      pid: process.pid,
      configPath,
      since: this.#since.toISOString(),
      ephemeral,
      transports: this.#frontEnds.map(({ transport }) => transport),
    };
  }

  /** See DeviceTable.attach. */
  async attach(body: AttachBody): Promise<DeviceInfo> {
    const { image, configPath, id, transport } = body;
    if (this.#closed !== undefined || this.#idleSaid) throw abortedError('attach: the service is ending');
    clearTimeout(this.#idleTimer);
    try {
      if (configPath !== undefined) return await this.#table.attach({ config: configPath, id, transport });
      if (image === undefined) throw new TypeError('Neither image nor configPath');
      return await this.#table.attach({
        config: (name) => this.#dirs.resolve(image, name, body.plainHttp === true),
        id,
        transport,
        image,
        release: this.#dirs.remove,
      });
    } finally {
      this.#checkIdle();
    }
  }

  /** See DeviceTable.detach. */
  async detach(key: string): Promise<DeviceInfo> {
    try {
      await this.#table.locate();
      return await this.#table.detach(key);
    } finally {
      this.#checkIdle();
    }
  }

  /** See DeviceTable.abort. */
  async abort(key: string): Promise<AbortAnswer> {
    await this.#table.locate();
    return this.#table.abort(key);
  }

  /** Has the audit log go on in a new file. @throws a system error; then it goes on in the old one. */
  reopenLogs(): void {
    this.#audit?.reopen();
  }

  list(): DeviceInfo[] {
    return this.#table.list();
  }

  /** Ends the service. Idempotent; never rejects: what fails is logged, and the rest still ends. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      const { log } = this.#options;
      clearTimeout(this.#idleTimer);
      const step = async (what: string, work: () => Promise<unknown> | undefined): Promise<void> => {
        try {
          await work();
        } catch (error) {
          log.error({ err: error }, `cannot end ${what} cleanly`);
        }
      };
      this.#openings.close();
      await step('the live-snapshot API', () => this.#snapshots?.close());
      await step('the metrics', () => this.#metrics.close());
      await step('the admin API', () => this.#server?.close());
      const end = (frontEnd: FrontEnd): Promise<void> =>
        step(`front end ${frontEnd.transport}`, () => frontEnd.close());
      // Last those whose devices live on, as must their files.
      for (const frontEnd of this.#frontEnds) if (!OUTLIVING.has(frontEnd.transport)) await end(frontEnd);
      await step('the devices', () => this.#table.releaseGone());
      for (const frontEnd of this.#frontEnds) if (OUTLIVING.has(frontEnd.transport)) await end(frontEnd);
      await step('the I/O workers', () => this.#workers.close());
      await step('caches and network', () => this.#opener.close());
      this.#audit?.close();
      // Records of devices stay for the next service.
      await rmdir(this.#nbdDir).catch(() => undefined);
      await step('the lock', () => this.#lock.release());
      log.info({}, 'service has ended');
    })();
    return this.#closed;
  }

  #checkIdle(afterMs = 0): void {
    clearTimeout(this.#idleTimer);
    if (!this.#options.ephemeral || !this.#table.idle) return;
    // Not at once: the answer to whoever made it idle goes first.
    this.#idleTimer = setTimeout(() => {
      if (!this.#table.idle) return;
      this.#idleSaid = true;
      this.#sayIdle();
    }, afterMs || 50);
  }

  #makeFrontEnd(transport: Transport): FrontEnd {
    const logger = this.#options.log.child({ transport });
    const { open } = this.#openings;
    const workers = this.#workers;
    switch (transport) {
      case 'tcmu':
        return new TcmuFrontEnd({ openImage: open, workers, logger, policyOf: this.#policyOf });
      case 'fuse':
        return new FuseFrontEnd({ open, workers, logger });
      case 'nbd':
        return new NbdFrontEnd({
          directory: this.#nbdDir,
          open,
          log: logger,
          policyOf: this.#policyOf,
          onServed: this.#totals.add,
        });
      case 'memory':
        throw new TypeError('A service has no use for devices in memory');
    }
  }

  /** The policy of an image whose layers need not be there. */
  readonly #policyOf = async (configPath: string): Promise<IoPolicy> => {
    const own = await loadImageConfig(configPath, this.#options.log).catch(() => undefined);
    return ioPolicyOf(own?.ioPolicy ?? this.#options.config.ioPolicy);
  };

  get #nbdDir(): string {
    return join(dirname(this.#options.config.apiSocket), 'nbd');
  }
}

/** Nothing is served worse for want of an audit log; that there is none is said. */
function openAudit({ enableAudit, auditPath, logConfig }: ServiceConfig, log: Logger): AuditLog | undefined {
  if (!enableAudit) return undefined;
  try {
    return new AuditLog(auditPath, {
      maxBytes: Math.max(1, logConfig.logSizeMB) * 2 ** 20,
      keep: logConfig.logRotateNum,
    });
  } catch (error) {
    log.error({ path: auditPath, err: error }, 'the audit log cannot be opened; there will be none');
    return undefined;
  }
}

/** The socket that an options object or configuration means, checked. @throws IoError if it is too long for a socket. */
export function checkSocketPath(path: string): string {
  // sockaddr_un has 108 bytes.
  if (Buffer.byteLength(path) > 107)
    throw new IoError('OBD_IO_FAILED', `Cannot use socket "${path}": its path has more than 107 bytes`, {
      source: path,
    });
  return path;
}
