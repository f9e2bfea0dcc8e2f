/**
 * A node without containerd: service, snapshotter and registry, all real; the test is containerd: it says what containerd
 * would say, and mounts what it is told to mount.
 */
import assert from 'node:assert/strict';
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { fuseUnsupported } from '../../src/blockdev/index.js';
import { openImageSource, openImageTarget, resolveManifest, type Descriptor } from '../../src/oci/index.js';
import { RegistryClient } from '../../src/registryblob/index.js';
import { startRegistryServer } from '../../src/registryserver/index.js';
import { AdminClient } from '../../src/service/index.js';
import { checkout, fixture, noFixtures } from './fixtures.js';
import { leftSince, takeSnapshot } from './leaks.js';
import { Code, TestClient } from './snapshots-client.js';
import { tempDir } from './unpack.js';

const run = promisify(execFile);
const reason = await fuseUnsupported();
/** For node:test's `skip`: why there are no devices here. */
export const noDevices =
  process.getuid?.() !== 0
    ? 'needs root'
    : reason === undefined
      ? noFixtures
      : `FUSE and loop devices: ${reason}`;

export const OBD = 'containerd.io/snapshot/overlaybd';
export const REF = 'containerd.io/snapshot.ref';
/** Nobody listens there. */
export const DEAD_HOST = '127.0.0.1:9';

/** What to mount, as the snapshotter says it. */
export interface Mount {
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

/** A service, a snapshotter and a client of it; all end with the test, which then has leaked nothing. */
export class SnapshotterNode {
  readonly dir: string;
  readonly root: string;
  readonly client: TestClient;
  readonly service: AdminClient;
  readonly #children = new Map<string, ChildProcess>();
  readonly #mounted: string[] = [];

  private constructor(dir: string) {
    this.dir = dir;
    this.root = join(dir, 'root');
    this.client = new TestClient(join(dir, 'snap', 's.sock'));
    this.service = new AdminClient(join(dir, 'run', 'o.sock'));
  }

  static async start(
    t: TestContext,
    host: string,
    config: object = {},
    service: object = {},
  ): Promise<SnapshotterNode> {
    const before = takeSnapshot();
    const remove: (() => unknown)[] = [];
    const node = new SnapshotterNode(tempDir({ after: (work) => remove.push(work as () => unknown) }));
    t.after(async () => {
      await node.#end();
      for (const work of remove) work();
      assert.deepEqual(await leftSince(before), []);
    });
    await writeFile(
      join(node.dir, 'overlaybd.json'),
      JSON.stringify({
        apiSocket: node.service.socketPath,
        transport: 'fuse',
        logConfig: { logPath: join(node.dir, 'service.log'), logLevel: 0 },
        cacheConfig: { cacheType: 'file', cacheDir: join(node.dir, 'cache'), cacheSizeGB: 1 },
        registryConfig: { plainHttpHosts: [host, DEAD_HOST] },
        ...service,
      }),
    );
    await writeFile(
      join(node.dir, 'config.json'),
      JSON.stringify({
        root: node.root,
        address: join(node.dir, 'snap', 's.sock'),
        verbose: 'debug',
        serviceConfig: join(node.dir, 'overlaybd.json'),
        mirrorRegistry: [host, DEAD_HOST].map((name) => ({ host: name, insecure: true })),
        ...config,
      }),
    );
    await node.startService();
    await node.startSnapshotter();
    return node;
  }

  async startService(): Promise<void> {
    this.#spawn('overlaybd-tcmu', 'overlaybd.json', '--state-dir', join(this.dir, 'state'));
    await until(() => this.service.info());
  }

  async startSnapshotter(): Promise<void> {
    this.#spawn('overlaybd-snapshotter', 'config.json');
    await until(() => this.client.list());
  }

  #spawn(program: string, config: string, ...args: string[]): void {
    const child = spawn(process.execPath, [join(checkout, 'bin', program), join(this.dir, config), ...args], {
      stdio: 'ignore',
    });
    this.#children.set(program, child);
  }

  async stop(program: string, signal: NodeJS.Signals): Promise<void> {
    const child = this.#children.get(program);
    this.#children.delete(program);
    if (child === undefined || child.exitCode !== null) return;
    child.kill(signal);
    await once(child, 'exit');
  }

  /** Mounts as containerd would; all goes again with the test. */
  async mount(name: string, mounts: readonly Mount[]): Promise<string> {
    const target = join(this.dir, 'mnt', name);
    await mkdir(target, { recursive: true });
    const [{ type, source, options } = { type: '', source: '', options: [] }] = mounts;
    const what = type === 'bind' ? ['--bind', source] : ['-t', type, source];
    const flags = options.filter((option) => option !== 'rbind' && option !== 'bind');
    await run('mount', [...what, '-o', flags.join(','), target]);
    this.#mounted.push(target);
    return target;
  }

  async unmount(target: string): Promise<void> {
    this.#mounted.splice(this.#mounted.indexOf(target), 1);
    await run('umount', [target]);
  }

  async removeAll(): Promise<void> {
    for (const target of [...this.#mounted]) await this.unmount(target);
    for (let left = await this.client.list(); left.length > 0; left = await this.client.list()) {
      const parents = new Set(left.map(({ parent }) => parent));
      for (const { name } of left.filter((info) => !parents.has(info.name))) await this.client.remove(name);
    }
    await this.client.cleanup();
    assert.deepEqual(await readdir(join(this.root, 'snapshots')), []);
    assert.deepEqual(await this.service.list(), []);
  }

  async #end(): Promise<void> {
    for (const target of [...this.#mounted]) await run('umount', ['-l', target]).catch(() => undefined);
    await this.removeAll().catch(() => undefined); // a test that failed has said so
    this.client.close();
    await this.stop('overlaybd-snapshotter', 'SIGTERM');
    const mounts = (await readFile('/proc/self/mounts', 'utf8'))
      .split('\n')
      .map((line) => line.split(' ')[1]);
    for (const target of mounts.filter((path) => path?.startsWith(`${this.dir}/`)))
      await run('umount', ['-l', target ?? '']).catch(() => undefined);
    await this.stop('overlaybd-tcmu', 'SIGTERM');
  }
}

export async function until(attempt: () => Promise<unknown>): Promise<void> {
  for (let n = 0; ; n++)
    try {
      await attempt();
      return;
    } catch (error) {
      if (n === 300) throw error;
      await sleep(100);
    }
}

export interface Registry extends AsyncDisposable {
  readonly host: string;
  readonly layers: readonly Descriptor[];
}

export async function registryWithDebian(t: TestContext): Promise<Registry> {
  const registry = await startRegistryServer({ directory: tempDir(t) });
  t.after(() => registry[Symbol.asyncDispose]());
  const client = new RegistryClient({ plainHttpHosts: [registry.host] });
  try {
    const source = openImageSource(`oci:${fixture('debian', 'oci-obd')}`, client);
    const target = openImageTarget(`docker://${registry.host}/team/debian:obd`, client);
    const { manifest } = await resolveManifest(source);
    for (const part of manifest.layers) {
      const blob = await source.openBlob(part);
      await target.pushBlob(part, blob);
      await blob.close();
    }
    return {
      host: registry.host,
      layers: manifest.layers,
      [Symbol.asyncDispose]: () => registry[Symbol.asyncDispose](),
    };
  } finally {
    await client.close();
  }
}

export async function rejects(work: Promise<unknown>, code: number, details = /./): Promise<void> {
  await assert.rejects(work, (error: { code: number; details: string }) => {
    assert.equal(error.code, code, error.details);
    assert.match(error.details, details);
    return true;
  });
}

export function labelsOf(host: string, layer: Descriptor, target: string): Record<string, string> {
  return {
    [REF]: target,
    'containerd.io/snapshot/cri.image-ref': `${host}/team/debian:obd`,
    [`${OBD}/blob-digest`]: layer.digest,
    [`${OBD}/blob-size`]: String(layer.size),
  };
}

/** What containerd does for each layer of a lazy pull. @returns the name of the top layer. */
export async function pull(
  node: SnapshotterNode,
  host: string,
  layers: readonly Descriptor[],
): Promise<string> {
  let parent = '';
  for (const [i, layer] of layers.entries()) {
    const target = `chain-${i}`;
    await rejects(
      node.client.prepare(`extract-${i}`, parent, labelsOf(host, layer, target)),
      Code.EXISTS,
      /target snapshot/,
    );
    const [found] = await node.client.list(`labels."${REF}"==${target},parent=="${parent}"`);
    assert.equal(found?.name, target);
    assert.equal(found.kind, 3);
    await rejects(node.client.stat(`extract-${i}`), Code.NOT_FOUND);
    parent = target;
  }
  return parent;
}

/** Says what a container would see. */
export function release(mounted: string): Promise<string> {
  return readFile(join(mounted, 'etc', 'debian_version'), 'utf8');
}
