import { DeviceError } from '../blob/index.js';
import { silentLogger, type Logger } from '../log/index.js';
import { MemoryQueue } from '../native/index.js';
import type { BlockDevice } from './block-device.js';
import type { AttachRequest, Attachment, FrontEnd, ImageOpener } from './front-end.js';
import type { IoGuard } from './io-guard.js';
import type { IoWorkers, ServedQueue } from './io-workers.js';

/** A device of the {@link MemoryFrontEnd}. */
export class MemoryAttachment implements Attachment {
  readonly transport = 'memory';
  readonly devicePath = undefined;
  readonly id: string;
  readonly configPath: string;
  readonly device: BlockDevice;
  /** Submits commands to the device, through the same I/O workers as a kernel's. */
  readonly client: MemoryQueue;
  readonly served: ServedQueue;
  #detached: Promise<void> | undefined;
  readonly #forget: () => void;

  constructor(
    request: AttachRequest,
    device: BlockDevice,
    link: { client: MemoryQueue; served: ServedQueue; forget: () => void },
  ) {
    this.id = request.id;
    this.configPath = request.configPath;
    this.device = device;
    this.client = link.client;
    this.served = link.served;
    this.#forget = link.forget;
  }

  get guard(): IoGuard {
    return this.served.guard;
  }

  detach(): Promise<void> {
    this.#detached ??= (async () => {
      await this.served.remove();
      this.client.close();
      this.#forget();
      await this.device.close();
    })();
    return this.#detached;
  }
}

/** Devices that only this process can reach. For tests and benchmarks of everything above the kernel's interface. */
export class MemoryFrontEnd implements FrontEnd {
  readonly transport = 'memory';
  readonly #open: ImageOpener;
  readonly #workers: IoWorkers;
  readonly #logger: Logger;
  readonly #attachments = new Map<string, MemoryAttachment>();

  constructor(open: ImageOpener, workers: IoWorkers, logger: Logger = silentLogger) {
    this.#open = open;
    this.#workers = workers;
    this.#logger = logger;
  }

  async start(): Promise<void> {
    // Nothing outlives the process.
  }

  async attach(request: AttachRequest): Promise<MemoryAttachment> {
    const { id } = request;
    if (this.#attachments.has(id))
      throw new DeviceError(
        'OBD_DEVICE_EXISTS',
        `Cannot attach "${request.configPath}": device "${id}" exists`,
      );
    const device = await this.#open(request.configPath);
    const client = new MemoryQueue(device.size, device.readOnly);
    try {
      const served = await this.#workers.serve(client.publish(), device, this.#logger);
      const forget = (): boolean => this.#attachments.delete(id);
      const attachment = new MemoryAttachment(request, device, { client, served, forget });
      this.#attachments.set(id, attachment);
      return attachment;
    } catch (error) {
      client.close();
      await device.close();
      throw error;
    }
  }

  attachments(): readonly MemoryAttachment[] {
    return [...this.#attachments.values()];
  }

  async close(): Promise<void> {
    await Promise.all(this.attachments().map((a) => a.detach()));
  }
}
