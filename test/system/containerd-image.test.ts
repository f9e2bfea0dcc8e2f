/** `containerd:` images as source and target of obdconv, with Debian's containerd, runc and docker-registry. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import test from 'node:test';
import { collect, noLab, output, startLab } from '../support/containerd-lab.js';
import { fixture } from '../support/fixtures.js';
import { pushImage } from '../support/push-image.js';

test('obdconv reads and writes containerd’s images', { skip: noLab, timeout: 300_000 }, async (t) => {
  const lab = await startLab(t);
  const { node, registry } = lab;
  const plain = `${registry.host}/team/debian:plain`;
  const obd = `${registry.host}/team/debian:obd`;
  const convert = (from: string, to: string, ...more: string[]): Promise<string> =>
    lab.run(
      'obdconv',
      '-a',
      node.address,
      '--plain-http',
      '--quiet',
      '--workdir',
      node.dir,
      ...more,
      from,
      to,
    );
  await pushImage(fixture('debian', 'oci-src'), plain);
  await node.ctr('content', 'fetch', '--plain-http', plain);

  await t.test('an image of containerd becomes another, which is pushed, pulled lazily and run', async () => {
    await convert(`containerd:${plain}`, `containerd:${obd}`);
    assert.equal((await node.ctr('leases', 'ls', '-q')).trim(), '');
    await collect(node); // the labels keep what the lease kept
    await node.ctr('image', 'push', '--plain-http', obd);
    // Made by the same options, the same digests come out elsewhere.
    await convert(`docker://${plain}`, `oci:${join(node.dir, 'layout')}:obd`);
    const digestOf = async (name: string): Promise<string> => {
      const json = await lab.run('obd', 'inspect', '-a', node.address, '--plain-http', '--json', name);
      return (JSON.parse(json) as { manifest: { digest: string } }).manifest.digest;
    };
    const expected = await digestOf(`oci:${join(node.dir, 'layout')}:obd`);
    assert.equal(await digestOf(`docker://${obd}`), expected);
    assert.equal(await digestOf(`containerd:${obd}`), expected);

    // It runs as it is ...
    assert.match(await output(lab, obd, 'unpacked'), /^\d+\.\d+\n$/);
    await node.ctr('image', 'rm', '--sync', obd);
    // ... and from the registry, where its blobs are whole.
    const pulled = await lab.pull('rpull', obd);
    assert.deepEqual(
      pulled.layers.map(({ state }) => state),
      ['lazy', 'lazy'],
    );
    assert.match(await output(lab, obd, 'lazy'), /^\d+\.\d+\n$/);
    await node.ctr('image', 'rm', '--sync', obd);
  });

  await t.test('a name that leads elsewhere is moved, and the old image goes', async () => {
    const name = 'local/converted:1';
    const ctr = (...args: string[]): Promise<string> =>
      lab.run('overlaybd-ctr', '--address', node.address, ...args);
    await ctr('obdconv', '--vsize', '32', plain, name);
    assert.ok((await ctr('image', 'ls', '-q')).split('\n').includes(name));
    const before = await lab.blobs();
    await lab.run(
      'obdconv',
      ...['-a', node.address, '--quiet', '--algorithm', 'zstd', '--workdir', node.dir],
      ...[`containerd:${plain}`, `containerd:${name}`],
    );
    await collect(node);
    const after = await lab.blobs();
    assert.equal(after.length, before.length);
    assert.notDeepEqual(after, before);
    await node.ctr('image', 'rm', '--sync', name);
  });

  await t.test('archives that we write are imported', async () => {
    for (const kind of ['oci-archive', 'docker-archive']) {
      const name = `registry.example/${kind}:v1`;
      const file = join(node.dir, `${kind}.tar`);
      await convert(`containerd:${plain}`, `${kind}:${file}:${name}`);
      await node.ctr('image', 'import', '--no-unpack', file);
      const imported = await lab.run('obd', 'inspect', '-a', node.address, '--json', `containerd:${name}`);
      const { layers } = JSON.parse(imported) as { layers: { kind: string }[] };
      assert.deepEqual(
        layers.map(({ kind: found }) => found),
        ['overlaybd', 'overlaybd'],
      );
      await node.ctr('image', 'rm', '--sync', name);
    }
  });

  await t.test('names that lead nowhere, and lazily pulled sources, are told apart', async () => {
    const fails = (from: string, said: RegExp): Promise<void> =>
      assert.rejects(
        convert(from, 'containerd:local/x:1', '--no-cache'),
        (error: { code: number; stderr: string }) => {
          assert.match(error.stderr, said);
          assert.equal(error.code, 8);
          return true;
        },
      );
    await fails('containerd:local/none:1', /Cannot find image "local\/none:1" in namespace "default"/);
    const { ctr } = node;
    const [layer = ''] = (await lab.pull('pull', plain)).layers.map(({ digest }) => digest);
    await ctr('content', 'rm', layer);
    await fails(`containerd:${plain}`, new RegExp(`${layer}[\\s\\S]*obd pull`));
    assert.ok(!(await ctr('image', 'ls', '-q')).includes('local/x'));
  });

  await lab.removed(plain);
});
