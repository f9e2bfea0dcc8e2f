/** containerd's side of the Snapshots service: what a test says to a server on its socket. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { Metadata, credentials, type ServiceError } from '@grpc/grpc-js';
import { silentLogger } from '../../src/log/index.js';
import {
  Snapshotter,
  SnapshotsClient,
  SnapshotsServer,
  type DiskUsage,
  type Mount,
  type SnapshotterConfig,
} from '../../src/snapshotter/index.js';

/** `Info`, as it comes. */
export interface WireInfo {
  readonly name: string;
  readonly parent: string;
  readonly kind: string | number;
  readonly labels: Readonly<Record<string, string>>;
  readonly createdAt: { readonly seconds: number; readonly nanos: number };
  readonly updatedAt: { readonly seconds: number; readonly nanos: number };
}

type Labels = Readonly<Record<string, string>>;

/** Numbers of gRPC's status, as containerd reads them. */
export const Code = { INVALID: 3, NOT_FOUND: 5, EXISTS: 6, PRECONDITION: 9, UNIMPLEMENTED: 12 } as const;

/** A client; rejections are gRPC's errors, with `code` and `details`. */
export class TestClient {
  readonly #client: InstanceType<typeof SnapshotsClient>;

  readonly #snapshotter: string;
  readonly #metadata = new Metadata();

  /** @param through containerd's own service in front of a snapshotter: its name, and a namespace. */
  constructor(address: string, through?: { readonly snapshotter: string; readonly namespace: string }) {
    this.#snapshotter = through?.snapshotter ?? '';
    if (through !== undefined) this.#metadata.set('containerd-namespace', through.namespace);
    this.#client = new SnapshotsClient(`unix:${address}`, credentials.createInsecure());
  }

  #call<T>(method: string, request: object): Promise<T> {
    return new Promise((resolve, reject) => {
      const call = this.#client[method];
      if (call === undefined) throw new TypeError(`no method ${method}`);
      call.call(
        this.#client,
        { snapshotter: this.#snapshotter, ...request },
        this.#metadata,
        (error: ServiceError | null, response: T) => {
          if (error === null) resolve(response);
          else reject(error);
        },
      );
    });
  }

  async prepare(key: string, parent = '', labels: Labels = {}): Promise<readonly Mount[]> {
    return (await this.#call<{ mounts: Mount[] }>('Prepare', { key, parent, labels })).mounts;
  }

  async view(key: string, parent = '', labels: Labels = {}): Promise<readonly Mount[]> {
    return (await this.#call<{ mounts: Mount[] }>('View', { key, parent, labels })).mounts;
  }

  async mounts(key: string): Promise<readonly Mount[]> {
    return (await this.#call<{ mounts: Mount[] }>('Mounts', { key })).mounts;
  }

  async commit(name: string, key: string, labels: Labels = {}, parent = ''): Promise<void> {
    await this.#call('Commit', { name, key, labels, parent });
  }

  async remove(key: string): Promise<void> {
    await this.#call('Remove', { key });
  }

  async stat(key: string): Promise<WireInfo> {
    return (await this.#call<{ info: WireInfo }>('Stat', { key })).info;
  }

  async update(info: Partial<WireInfo>, paths?: readonly string[]): Promise<WireInfo> {
    const request = { info, ...(paths === undefined ? {} : { updateMask: { paths } }) };
    return (await this.#call<{ info: WireInfo }>('Update', request)).info;
  }

  usage(key: string): Promise<DiskUsage> {
    return this.#call('Usage', { key });
  }

  async cleanup(): Promise<void> {
    await this.#call('Cleanup', {});
  }

  /** All infos, and how many came in each message. */
  listBatches(...filters: readonly string[]): Promise<{ infos: WireInfo[]; batches: number[] }> {
    return new Promise((resolve, reject) => {
      const call = this.#client['List'];
      if (call === undefined) throw new TypeError('no method List');
      const infos: WireInfo[] = [];
      const batches: number[] = [];
      const stream = call.call(
        this.#client,
        { snapshotter: this.#snapshotter, filters },
        this.#metadata,
      ) as unknown as NodeJS.ReadableStream;
      stream.on('data', ((message: { info: WireInfo[] }) => {
        batches.push(message.info.length);
        infos.push(...message.info);
      }) as never);
      stream.on('error', reject);
      stream.on('end', () => {
        resolve({ infos, batches });
      });
    });
  }

  async list(...filters: readonly string[]): Promise<WireInfo[]> {
    return (await this.listBatches(...filters)).infos;
  }

  close(): void {
    this.#client.close();
  }
}

/** A running server with a root of its own. */
export interface TestServer {
  readonly client: TestClient;
  readonly root: string;
  readonly address: string;
  /** Ends it and starts another on the same root. */
  restart(): Promise<void>;
}

/** Configuration without paths. */
export const CONFIG_DEFAULTS = {
  verbose: 'info',
  logReportCaller: false,
  rwMode: 'overlayfs',
  writableLayerType: 'append',
  autoRemoveDev: false,
  asyncRemove: false,
  devTransport: 'block',
  mirrorRegistry: [],
  defaultFsType: 'ext4',
  rootfsQuota: '',
  tenant: -1,
  turboFsType: [],
  runtimeType: 'containerd',
  exporterConfig: { enable: false, uriPrefix: '/metrics', port: 9863, address: '127.0.0.1' },
  serviceConfig: '',
  attachTimeout: 60,
} as const satisfies Partial<SnapshotterConfig>;

/** Starts a server in this process; it ends with the test. */
export async function startServer(
  t: TestContext,
  config: Partial<SnapshotterConfig> = {},
  options: Partial<Parameters<typeof Snapshotter.open>[0]> = {},
): Promise<TestServer> {
  const dir = await mkdtemp(join(tmpdir(), 'obd-snapshots-'));
  const root = join(dir, 'root');
  const address = join(dir, 'run', 's.sock');
  const start = async (): Promise<{ client: TestClient; stop: () => Promise<void> }> => {
    const snapshotter = await Snapshotter.open({
      config: { ...CONFIG_DEFAULTS, root, address, ...config },
      log: silentLogger,
      ...options,
    });
    const server = await SnapshotsServer.listen(address, snapshotter, silentLogger);
    const client = new TestClient(address);
    return {
      client,
      stop: async () => {
        client.close();
        await server.close();
        await snapshotter.close();
        await snapshotter.close();
      },
    };
  };
  let running = await start();
  t.after(async () => {
    await running.stop();
    await rm(dir, { recursive: true, force: true });
  });
  return {
    get client() {
      return running.client;
    },
    root,
    address,
    restart: async () => {
      await running.stop();
      running = await start();
    },
  };
}
