/**
 * Images in overlaybd format through the snapshotter, its service and a registry, all real; the test is containerd: it
 * says what containerd would say, and mounts what it is told to mount.
 */
import assert from 'node:assert/strict';
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { fuseUnsupported } from '../../src/blockdev/index.js';
import { openImageSource, openImageTarget, resolveManifest, type Descriptor } from '../../src/oci/index.js';
import { RegistryClient } from '../../src/registryblob/index.js';
import { startRegistryServer } from '../../src/registryserver/index.js';
import { AdminClient } from '../../src/service/index.js';
import { checkout, fixture, noFixtures } from '../support/fixtures.js';
import { leftSince, takeSnapshot } from '../support/leaks.js';
import { Code, TestClient } from '../support/snapshots-client.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);
const reason = await fuseUnsupported();
const skip =
  process.getuid?.() !== 0
    ? 'needs root'
    : reason === undefined
      ? noFixtures
      : `FUSE and loop devices: ${reason}`;

const OBD = 'containerd.io/snapshot/overlaybd';
const REF = 'containerd.io/snapshot.ref';
/** Nobody listens there. */
const DEAD_HOST = '127.0.0.1:9';

interface Mount {
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

/** A service, a snapshotter and a client of it; all end with the test, which then has leaked nothing. */
class Node {
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

  static async start(t: TestContext, host: string, config: object = {}): Promise<Node> {
    const before = takeSnapshot();
    const remove: (() => unknown)[] = [];
    const node = new Node(tempDir({ after: (work) => remove.push(work as () => unknown) }));
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

async function until(attempt: () => Promise<unknown>): Promise<void> {
  for (let n = 0; ; n++)
    try {
      await attempt();
      return;
    } catch (error) {
      if (n === 300) throw error;
      await sleep(100);
    }
}

interface Registry extends AsyncDisposable {
  readonly host: string;
  readonly layers: readonly Descriptor[];
}

async function registryWithDebian(t: TestContext): Promise<Registry> {
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

async function rejects(work: Promise<unknown>, code: number, details = /./): Promise<void> {
  await assert.rejects(work, (error: { code: number; details: string }) => {
    assert.equal(error.code, code, error.details);
    assert.match(error.details, details);
    return true;
  });
}

function labelsOf(host: string, layer: Descriptor, target: string): Record<string, string> {
  return {
    [REF]: target,
    'containerd.io/snapshot/cri.image-ref': `${host}/team/debian:obd`,
    [`${OBD}/blob-digest`]: layer.digest,
    [`${OBD}/blob-size`]: String(layer.size),
  };
}

/** What containerd does for each layer of a lazy pull. @returns the name of the top layer. */
async function pull(node: Node, host: string, layers: readonly Descriptor[]): Promise<string> {
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
function release(mounted: string): Promise<string> {
  return readFile(join(mounted, 'etc', 'debian_version'), 'utf8');
}

describe('overlaybd images through the snapshotter', { skip, timeout: 300_000 }, () => {
  test('a lazily pulled image runs; ten containers share one device; nothing is left', async (t) => {
    const registry = await registryWithDebian(t);
    const node = await Node.start(t, registry.host);
    const top = await pull(node, registry.host, registry.layers);
    await rejects(
      node.client.prepare('again', '', labelsOf(registry.host, registry.layers[0] as Descriptor, 'chain-0')),
      Code.EXISTS,
    );
    const s = join(node.root, 'snapshots');
    const ids = await readdir(s);
    assert.equal(ids.length, 3); // the second attempt left no directory
    const config = JSON.parse(await readFile(join(s, '3', 'block', 'config.v1.json'), 'utf8')) as unknown;
    assert.deepEqual(config, {
      repoBlobUrl: `http://${registry.host}/v2/team/debian/blobs`,
      lowers: registry.layers.map(({ digest, size }, i) => ({ digest, size, dir: `${s}/${i + 1}/fs` })),
      resultFile: `${s}/3/block/init-debug.log`,
    });
    assert.deepEqual(await node.service.list(), []); // a pull attaches nothing

    const keys = Array.from({ length: 10 }, (_, i) => `container-${i}`);
    const mounts = await Promise.all(keys.map((key) => node.client.prepare(key, top)));
    const devices = await node.service.list();
    assert.equal(devices.length, 1);
    assert.deepEqual(mounts[0]?.[0]?.options.at(-1), `lowerdir=${s}/3/block/mountpoint`);
    assert.equal(mounts[0][0].type, 'overlay');
    assert.equal(await readFile(join(s, '3', 'block', 'init-debug.log'), 'utf8'), 'success');
    assert.equal(await readFile(join(s, '3', 'block', 'backstore_mark'), 'utf8'), devices[0]?.devicePath);
    const first = await node.mount('first', mounts[0]);
    assert.match(await release(first), /^\d+\.\d+/);
    const { stdout } = await run('chroot', [first, '/bin/sh', '-c', 'echo runs > /written; cat /written']);
    assert.equal(stdout, 'runs\n');
    const fetched = (await node.service.list())[0]?.bytesFetched ?? 0;
    const whole = registry.layers.reduce((sum, { size }) => sum + size, 0);
    assert.ok(fetched > 0 && fetched < whole / 2, `${fetched} of ${whole} bytes were fetched`);

    assert.deepEqual(await node.client.view('view', top), [
      { type: 'bind', source: `${s}/3/block/mountpoint`, target: '', options: ['ro', 'rbind'] },
    ]);
    // What a container wrote becomes an ordinary layer on the image, and runs.
    await node.unmount(first);
    await node.client.commit('written', 'container-0');
    const second = await node.mount('second', await node.client.prepare('on-written', 'written'));
    assert.equal(await readFile(join(second, 'written'), 'utf8'), 'runs\n');
    assert.match(await release(second), /^\d+\.\d+/);
    await node.removeAll();
  });

  test('an image that the client unpacks runs from its files', async (t) => {
    const node = await Node.start(t, 'unused.example');
    let parent = '';
    for (const i of [1, 2, 3]) {
      const [mount] = await node.client.prepare(`extract-${i}`, parent, { [REF]: `local-${i}` });
      const fs =
        mount?.type === 'bind' ? mount.source : (mount?.options.at(-2) ?? '').replace('upperdir=', '');
      await run('tar', ['-xf', fixture('small', 'native-lz4', `layer${i}.tar`), '-C', fs]);
      await node.client.commit(`local-${i}`, `extract-${i}`, { [REF]: `local-${i}` });
      const { labels } = await node.client.stat(`local-${i}`);
      assert.equal(labels[`${OBD}.localcommitpath`], join(fs, 'overlaybd.commit'));
      parent = `local-${i}`;
    }
    const target = await node.mount('c', await node.client.prepare('c', parent));
    assert.ok((await readdir(target)).includes('lost+found'));
    const { size } = await node.client.usage('local-1');
    assert.ok(size >= 2_880_497);
    await node.removeAll();
  });

  test('kill -9 of the snapshotter: containers go on, and the next one starts', async (t) => {
    const registry = await registryWithDebian(t);
    const node = await Node.start(t, registry.host);
    const top = await pull(node, registry.host, registry.layers);
    const first = await node.mount('first', await node.client.prepare('first', top));
    await node.stop('overlaybd-snapshotter', 'SIGKILL');
    assert.match(await release(first), /^\d+\.\d+/);
    await node.startSnapshotter();
    const second = await node.mount('second', await node.client.prepare('second', top));
    assert.match(await release(second), /^\d+\.\d+/);
    assert.equal((await node.service.list()).length, 1);
    await node.removeAll();
  });

  test('kill -9 of a FUSE service: the next use attaches and mounts again', async (t) => {
    const registry = await registryWithDebian(t);
    const node = await Node.start(t, registry.host);
    const top = await pull(node, registry.host, registry.layers);
    await node.client.prepare('first', top);
    await node.stop('overlaybd-tcmu', 'SIGKILL');
    await node.startService();
    const first = await node.mount('first', await node.client.mounts('first'));
    assert.match(await release(first), /^\d+\.\d+/);
    await node.removeAll();
  });

  test('autoRemoveDev detaches with the last container, and not before', async (t) => {
    const registry = await registryWithDebian(t);
    const node = await Node.start(t, registry.host, { autoRemoveDev: true });
    const top = await pull(node, registry.host, registry.layers);
    await node.client.prepare('a', top);
    await node.client.prepare('b', top);
    await node.client.remove('a');
    assert.equal((await node.service.list()).length, 1);
    await node.client.remove('b');
    assert.deepEqual(await node.service.list(), []);
    const again = await node.mount('c', await node.client.prepare('c', top));
    assert.match(await release(again), /^\d+\.\d+/);
    await node.removeAll();
  });

  test('a dead registry fails the container with its reason, and only that container', async (t) => {
    const registry = await registryWithDebian(t);
    const node = await Node.start(t, registry.host, { attachTimeout: 3 });
    const top = await pull(node, DEAD_HOST, registry.layers);
    const began = performance.now();
    const failing = assert.rejects(node.client.prepare('c', top), (error: { details: string }) => {
      assert.match(error.details, /127\.0\.0\.1:9|not ready within 3 s/);
      return true;
    });
    await node.client.prepare('other');
    assert.ok(performance.now() - began < 2500);
    await failing;
    assert.ok(performance.now() - began < 20_000);
    await rejects(node.client.stat('c'), Code.NOT_FOUND);
    assert.equal(existsSync(join(node.root, 'snapshots', '4')), false);
    await until(async () => {
      await node.removeAll();
    });
  });

  test('labels that cannot be are refused, and leave nothing', async (t) => {
    const node = await Node.start(t, 'unused.example');
    const layer = { digest: `sha256:${'0'.repeat(64)}`, size: 4096 } as Descriptor;
    const good = labelsOf('unused.example', layer, 'chain');
    const wrong = (labels: object, details: RegExp, parent = ''): Promise<void> =>
      rejects(node.client.prepare('x', parent, { ...good, ...labels }), Code.INVALID, details);
    await wrong({ [`${OBD}/blob-digest`]: '../../etc/passwd' }, /blob-digest/);
    await wrong({ [`${OBD}/blob-size`]: '12x' }, /blob-size/);
    await wrong({ 'containerd.io/snapshot/image-ref': 'no reference at all' }, /image reference/);
    await node.client.prepare('plain-key');
    await node.client.commit('plain', 'plain-key');
    await wrong({}, /on top of an ordinary one/, 'plain');
    assert.equal((await readdir(join(node.root, 'snapshots'))).length, 1);
    await node.removeAll();
  });
});
