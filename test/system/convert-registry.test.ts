/** What obdconv pushes, as Debian's docker-registry, skopeo and containerd see it; and what a broken push leaves. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import type { Index, Manifest } from '../../src/oci/index.js';
import { tarOf, writeIndexLayout, writeLayout } from '../convert/make-image.js';
import { breakingLine } from '../support/breaking-line.js';
import { missing } from '../support/commands.js';
import { dockerRegistry } from '../support/docker-registry.js';
import { checkout } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);
const skip = missing({ 'docker-registry': 'docker-registry', skopeo: 'skopeo' });
const OBDCONV = join(checkout, 'bin', 'obdconv');

async function skopeo(...args: string[]): Promise<string> {
  return (await run('skopeo', ['--insecure-policy', ...args])).stdout;
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
const inspect = (name: string): Promise<string> => skopeo('inspect', '--tls-verify=false', '--raw', name);

test(
  'docker-registry takes an index with attestations and referrers, and skopeo copies it',
  { skip },
  async (t) => {
    const dir = tempDir(t);
    mkdirSync(join(dir, 'registry'));
    await using registry = await dockerRegistry(join(dir, 'registry'));
    const tar = tarOf([{ path: 'file', content: 'x' }]);
    const source = writeIndexLayout(join(dir, 'src'), [
      { platform: 'linux/amd64', tars: [tar], attested: true },
      { platform: 'linux/arm64', tars: [tar, tarOf([])], attested: true },
    ]);
    const original = `docker://${registry.host}/team/app:v1`;
    await skopeo('copy', '--quiet', '--all', '--dest-tls-verify=false', source, original);
    const common = [
      '--quiet',
      '--plain-http',
      '--vsize',
      '1',
      '--workdir',
      dir,
      '--cache-dir',
      join(dir, 'cache'),
    ];
    const target = `docker://${registry.host}/team/app:v1_obd`;
    await run(OBDCONV, [...common, '--all-platforms', '--referrer', original, target]);

    const raw = await inspect(target);
    const index = JSON.parse(raw) as Index;
    assert.deepEqual(
      index.manifests.map(({ platform }) => platform?.architecture),
      ['amd64', 'arm64', 'unknown', 'unknown'],
    );
    await skopeo('copy', '--quiet', '--all', '--src-tls-verify=false', target, `oci:${dir}/copy:x`);
    // Debian's docker-registry has no referrers API: the fallback tags name the results.
    const digest = sha256(await inspect(original));
    const referrers = JSON.parse(
      await inspect(`docker://${registry.host}/team/app:sha256-${digest}`),
    ) as Index;
    assert.deepEqual(
      referrers.manifests.map((entry) => entry.digest),
      [`sha256:${sha256(raw)}`],
    );

    // Another repository of it: everything is mounted there, and nothing is fetched or made.
    const other = `docker://${registry.host}/team/other:v1_obd`;
    const { stdout } = await run(OBDCONV, [...common, '--json', '--all-platforms', original, other]);
    const outcomes = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { event: string; outcome: string })
      .flatMap(({ event, outcome }) => (event === 'layer' ? [outcome] : []));
    assert.deepEqual(new Set(outcomes), new Set(['mounted', 'exists']));
    // skopeo would leave out the referrers' fields, which are younger than it is; here are none.
    const copy = ['copy', '--quiet', '--all', '--preserve-digests', '--src-tls-verify=false'];
    await skopeo(...copy, other, `oci:${dir}/copy:y`);
  },
);

test('An upload goes on where its line broke', { skip, timeout: 180_000 }, async (t) => {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'registry'));
  await using registry = await dockerRegistry(join(dir, 'registry'));
  const noise = randomBytes(2 ** 20);
  // Incompressible in blocks of 4 KiB, so the layer is larger than what goes in one request.
  const big = { path: 'big', content: Buffer.concat(Array<Buffer>(80).fill(noise)) };
  const source = writeLayout(join(dir, 'src'), [tarOf([big])]);
  await using line = await breakingLine(registry.host, 20 * 2 ** 20, 3);
  const target = `docker://${line.host}/team/app:obd`;
  const args = [
    '--quiet',
    '--no-cache',
    '--plain-http',
    '--platform',
    'linux/amd64',
    '--vsize',
    '1',
    '--workdir',
    dir,
  ];
  await run(OBDCONV, [...args, source, target]);
  assert.equal(line.breaks, 3);
  const name = `docker://${registry.host}/team/app:obd`;
  const manifest = JSON.parse(await inspect(name)) as Manifest;
  assert.ok((manifest.layers[0]?.size ?? 0) > 80 * 2 ** 20);
  // The registry has checked its digest.
});

test(
  'A tag leads to a whole image or to none, whenever the conversion is killed',
  { skip, timeout: 180_000 },
  async (t) => {
    const dir = tempDir(t);
    mkdirSync(join(dir, 'registry'));
    await using registry = await dockerRegistry(join(dir, 'registry'));
    const tars = Array.from({ length: 3 }, (_, i) =>
      tarOf([{ path: `f${i}`, content: randomBytes(3_000_000) }]),
    );
    const source = writeLayout(join(dir, 'src'), tars);
    const name = `docker://${registry.host}/team/app:obd`;
    const args = ['--no-cache', '--json', '--plain-http', '--platform', 'linux/amd64', '--workdir', dir];
    let killed = 0;
    for (let layers = 0; layers < 4; layers++) {
      // A different image each time: nothing is there already.
      const child = spawn(OBDCONV, [...args, '--vsize', String(layers + 1), source, name], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const ended = once(child, 'exit');
      let seen = 0;
      let rest = '';
      child.stdout.on('data', (chunk: Buffer) => {
        rest += chunk.toString();
        seen += rest.split('"event":"layer"').length - 1;
        rest = rest.slice(rest.lastIndexOf('\n') + 1);
        if (seen >= layers) child.kill('SIGKILL');
      });
      const [code] = (await ended) as [number | null];
      if (code === null) killed++;
      const there = await inspect(name).catch(() => undefined);
      if (there !== undefined)
        await skopeo('copy', '--quiet', '--src-tls-verify=false', name, `oci:${dir}/copy${layers}:x`);
    }
    assert.ok(killed >= 2, `${killed} were killed before they were done`);
  },
);
