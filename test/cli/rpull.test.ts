/** `obd rpull` against a registry that asks for a password and a containerd that notes what it is told. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test, { type TestContext } from 'node:test';
import { convertImage } from '../../src/convert/index.js';
import { chainIds, openImageSource, openImageTarget, resolveManifest } from '../../src/oci/index.js';
import { RegistryClient } from '../../src/registryblob/index.js';
import { startRegistryServer } from '../../src/registryserver/index.js';
import { fakeContainerd, Refusal, type Answer, type Asked } from '../containerd/fake-containerd.js';
import { tarOf, writeLayout } from '../convert/make-image.js';
import { checkout } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';

const OBD = 'containerd.io/snapshot/overlaybd/';

/** A containerd with a snapshotter that takes every layer without its content. */
function lazyContainerd(t: TestContext): Promise<{ readonly address: string; readonly asked: Asked[] }> {
  let written = 0;
  const snapshots = new Map<unknown, Record<string, string>>();
  const answers: Readonly<Record<string, Answer>> = {
    'introspection.v1.Introspection/Plugins': () => [
      { plugins: [{ type: 'io.containerd.snapshotter.v1', id: 'overlaybd' }] },
    ],
    'leases.v1.Leases/Create': ({ id }) => [{ lease: { id } }],
    'leases.v1.Leases/Delete': () => [{}],
    'leases.v1.Leases/AddResource': () => [{}],
    'content.v1.Content/Write': ({ action, data }) => {
      if (action === 'STAT' || action === 0) written = 0;
      written += (data as Buffer).length;
      return [{ action, offset: written }];
    },
    'content.v1.Content/Update': () => [{}],
    'snapshots.v1.Snapshots/Stat': ({ key }) => {
      const labels = snapshots.get(key);
      if (labels !== undefined) return [{ info: { name: key, kind: 3, labels } }];
      throw new Refusal(5, 'not found');
    },
    'snapshots.v1.Snapshots/Prepare': (request) => {
      const labels = request['labels'] as Record<string, string>;
      snapshots.set(labels['containerd.io/snapshot.ref'], labels);
      throw new Refusal(6, 'target snapshot already exists');
    },
    'images.v1.Images/Create': () => [{}],
  };
  return fakeContainerd(t, answers);
}

async function rpull(
  args: readonly string[],
  input = '',
): Promise<{ readonly status: number; readonly stdout: string; readonly stderr: string }> {
  const child = spawn(join(checkout, 'bin', 'obd'), ['rpull', ...args], {
    env: { ...process.env, CONTAINERD_ADDRESS: '', CONTAINERD_NAMESPACE: '', CONTAINERD_SNAPSHOTTER: '' },
  });
  child.stdin.on('error', () => undefined);
  child.stdin.end(input);
  const [[status], stdout, stderr] = await Promise.all([
    once(child, 'exit') as Promise<[number]>,
    text(child.stdout),
    text(child.stderr),
  ]);
  return { status, stdout, stderr };
}

test('obd rpull tells containerd all that it needs to run, keep and remove a lazily pulled image', async (t) => {
  const dir = tempDir(t);
  const registry = await startRegistryServer({
    directory: join(dir, 'registry'),
    users: [{ username: 'me', password: 'sec:ret' }],
  });
  t.after(() => registry[Symbol.asyncDispose]());
  const client = new RegistryClient({
    plainHttpHosts: [registry.host],
    credentials: [{ find: () => Promise.resolve({ username: 'me', password: 'sec:ret' }) }],
  });
  t.after(() => client.close());
  const name = `${registry.host}/team/app:obd`;
  const source = openImageSource(
    writeLayout(join(dir, 'src'), [tarOf([{ path: 'a/' }]), tarOf([{ path: 'b/' }])]),
    client,
  );
  const platform = { os: 'linux', architecture: 'amd64' };
  const target = openImageTarget(`docker://${name}`, client);
  await convertImage(source, target, { workDir: dir, virtualSize: 2 ** 30, platform });
  const { manifest, descriptor } = await resolveManifest(
    openImageSource(`docker://${name}`, client),
    platform,
  );

  const { address, asked } = await lazyContainerd(t);
  const common = ['-a', address, '-n', 'k8s.io', '--plain-http', '--platform', 'linux/amd64', name];
  const refused = await rpull([...common, '--user', 'me:wrong']);
  assert.equal(refused.status, 4, refused.stderr);
  assert.match(refused.stderr, /OBD_REGISTRY_AUTH/);
  assert.ok(!refused.stderr.includes('wrong'));
  assert.equal(asked.at(-1)?.method, 'leases.v1.Leases/Delete');
  asked.length = 0;

  const { status, stdout, stderr } = await rpull(
    [...common, '--user', 'me', '--password-stdin'],
    'sec:ret\n',
  );
  assert.equal(status, 0, stderr);
  assert.match(stdout, /lazy[\s\S]*0 B of .* fetched/);
  const of = (method: string): Asked[] => asked.filter((one) => one.method.endsWith(method));
  assert.ok(asked.every(({ namespace }) => namespace === 'k8s.io'));
  const lease = of('Leases/Create')[0]?.request['id'];
  assert.deepEqual(
    of('Leases/Delete').map(({ request }) => request['id']),
    [lease],
  );
  for (const part of ['Content/Write', 'Snapshots/Prepare', 'Images/Create'])
    for (const one of of(part)) assert.equal(one.lease, lease, part);

  // Content: the manifest and the configuration, each with where it came from and what it leads to.
  const layers = manifest.layers.map(({ digest }) => digest);
  const from = { [`containerd.io/distribution.source.${registry.host}`]: 'team/app' };
  const commits = of('Content/Write').filter(({ request }) => request['action'] === 2);
  assert.deepEqual(
    commits.map(({ request }) => [request['expected'], request['labels']]),
    [
      [
        descriptor.digest,
        {
          'containerd.io/gc.ref.content.config': manifest.config.digest,
          'containerd.io/gc.ref.content.l.0': layers[0],
          'containerd.io/gc.ref.content.l.1': layers[1],
          ...from,
        },
      ],
      [manifest.config.digest, from],
    ],
  );
  const chain = chainIds(layers);
  const prepared = of('Snapshots/Prepare').map(({ request }) => request);
  assert.deepEqual(
    prepared.map(({ snapshotter, parent, labels }) => ({ snapshotter, parent, labels })),
    manifest.layers.map((layer, i) => ({
      snapshotter: 'overlaybd',
      parent: chain[i - 1] ?? '',
      labels: {
        'containerd.io/snapshot.ref': chain[i],
        'containerd.io/snapshot/image-ref': name,
        [`${OBD}blob-digest`]: layer.digest,
        [`${OBD}blob-size`]: String(layer.size),
        [`${OBD}version`]: '0.1.0',
      },
    })),
  );
  for (const [i, { key }] of prepared.entries())
    assert.match(String(key), new RegExp(`^extract-\\S+ ${chain[i]}$`));
  const [labelled] = of('Content/Update').map(({ request }) => request);
  assert.deepEqual(labelled, {
    info: {
      digest: manifest.config.digest,
      size: 0,
      labels: { 'containerd.io/gc.ref.snapshot.overlaybd': chain[1] },
    },
    updateMask: { paths: ['labels.containerd.io/gc.ref.snapshot.overlaybd'] },
  });
  const [record] = of('Images/Create').map(({ request }) => request['image']);
  assert.deepEqual(record, {
    name,
    labels: {},
    target: {
      mediaType: descriptor.mediaType,
      digest: descriptor.digest,
      size: descriptor.size,
      annotations: {},
    },
  });
});

test('obd rpull refuses what it cannot do before it does anything', async () => {
  const wrong: readonly (readonly [readonly string[], RegExp])[] = [
    [[], /missing required argument/],
    [['Not A Reference'], /Cannot parse image reference/],
    [['h.example/x', '--hosts-dir', '/etc/containerd/certs.d'], /--hosts-dir is not supported/],
    [['h.example/x', '--label', 'x'], /expected KEY=VALUE/],
    [['h.example/x', '--user', 'me'], /There is no password for user "me"/],
    [['h.example/x', '-a', 'tcp://1.2.3.4:5'], /expected a Unix socket/],
  ];
  const results = await Promise.all(wrong.map(([args]) => rpull(args)));
  for (const [i, { status, stderr }] of results.entries()) {
    assert.match(stderr, wrong[i]?.[1] ?? /never/);
    assert.equal(status, 2);
  }
});
