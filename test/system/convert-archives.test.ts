import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { openImageSource, type Manifest } from '../../src/oci/index.js';
import { RegistryClient } from '../../src/registryblob/index.js';
import { tarOf, writeLayout } from '../convert/make-image.js';
import { checkout } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';

const has = (program: string): boolean => spawnSync(program, ['--version']).error === undefined;
const noSkopeo = has('skopeo') ? false : 'needs skopeo';

function obdconv(dir: string, source: string, target: string): void {
  execFileSync(process.execPath, [
    join(checkout, 'bin', 'obdconv'),
    ...[
      '--quiet',
      '--no-cache',
      '--vsize',
      '1',
      '--platform',
      'linux/amd64',
      '--workdir',
      dir,
      source,
      target,
    ],
  ]);
}

function skopeo(...args: string[]): string {
  return execFileSync('skopeo', ['--insecure-policy', ...args], { encoding: 'utf8' });
}

async function manifestOf(name: string): Promise<Manifest> {
  const source = openImageSource(name, new RegistryClient({}));
  const document = await source.resolve();
  await source.close();
  assert.equal(document.kind, 'manifest');
  return document.manifest;
}

test(
  'skopeo writes archives that we convert, and reads those that we write',
  { skip: noSkopeo },
  async (t) => {
    const dir = tempDir(t);
    const layout = writeLayout(join(dir, 'src'), [
      tarOf([{ path: 'etc/' }, { path: 'etc/one', content: '1' }]),
      tarOf([{ path: 'etc/two', content: '2'.repeat(5000) }]),
    ]);
    obdconv(dir, layout, `oci:${dir}/want:x`);
    const want = await manifestOf(`oci:${dir}/want:x`);
    for (const kind of ['oci-archive', 'docker-archive']) {
      const source = `${kind}:${dir}/${kind}.tar:app:v1`;
      skopeo('copy', '--quiet', layout, source);
      const target = `${kind}:${dir}/${kind}-obd.tar:app:v1`;
      obdconv(dir, source, target);
      const digests = (manifest: Manifest): string[] => manifest.layers.map(({ digest }) => digest);
      assert.deepEqual(digests(await manifestOf(target)), digests(want), kind);
      mkdirSync(join(dir, `${kind}-copy`));
      skopeo('copy', '--quiet', '--preserve-digests', target, `oci:${dir}/${kind}-copy:x`);
      assert.deepEqual(digests(await manifestOf(`oci:${dir}/${kind}-copy:x`)), digests(want), kind);
    }
    // What skopeo says of the archive is what is in it.
    const raw = JSON.parse(skopeo('inspect', '--raw', `oci-archive:${dir}/oci-archive-obd.tar`)) as Manifest;
    assert.deepEqual(
      raw.layers.map(({ digest }) => digest),
      want.layers.map(({ digest }) => digest),
    );
    assert.equal(readFileSync(join(dir, 'docker-archive-obd.tar')).includes('manifest.json'), true);
  },
);
