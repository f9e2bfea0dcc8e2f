import assert from 'node:assert/strict';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startRegistryServer } from '../../src/registryserver/index.js';
import { tarOf, writeLayout } from '../convert/make-image.js';
import { checkout } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';

interface Finished {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

function run(program: 'obd' | 'obdconv', ...args: string[]): Promise<Finished> {
  return new Promise((resolve) => {
    execFile(join(checkout, 'bin', program), args, (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

const TAR = tarOf([{ path: 'dir/' }, { path: 'dir/file', content: 'hello' }]);

test('obdconv converts, tells what it did, and says the same as JSON', async (t) => {
  const dir = tempDir(t);
  const source = writeLayout(join(dir, 'src'), [TAR]);
  const common = ['--vsize', '1', '--platform', 'linux/amd64', '--workdir', dir];
  const first = await run('obdconv', ...common, source, `oci:${dir}/out:a`);
  assert.equal(first.status, 0, first.stderr);
  assert.match(first.stdout, /LAYER +BEFORE/);
  assert.match(first.stdout, /became/);
  const second = await run('obd', 'convert', ...common, '--json', source, `oci:${dir}/out:b`);
  assert.equal(second.status, 0, second.stderr);
  const result = JSON.parse(second.stdout) as {
    target: string;
    descriptor: { digest: string };
    layers: { outcome: string; counts: { entries: number } }[];
  };
  assert.equal(result.target, `oci:${dir}/out:b`);
  assert.ok(first.stdout.includes(result.descriptor.digest), 'the same digests on a second run');
  assert.deepEqual(
    result.layers.map(({ outcome, counts }) => [outcome, counts.entries]),
    [['exists', 2]],
  );
});

test('obdconv reads and writes archives, and replaces one only with --force', async (t) => {
  const dir = tempDir(t);
  writeLayout(join(dir, 'src'), [TAR]);
  execFileSync('tar', ['-C', join(dir, 'src'), '-cf', join(dir, 'src.tar'), '.']);
  const args = [
    '--vsize',
    '1',
    '--platform',
    'linux/amd64',
    '--workdir',
    dir,
    `oci-archive:${dir}/src.tar:src`,
  ];
  const target = `docker-archive:${dir}/out.tar:app:1`;
  const first = await run('obdconv', ...args, target);
  assert.equal(first.status, 0, first.stderr);
  const again = await run('obdconv', ...args, target);
  assert.equal(again.status, 7);
  assert.match(again.stderr, /OBD_IO_EXISTS/);
  assert.match(again.stderr, /--force/);
  const bytes = readFileSync(join(dir, 'out.tar'));
  assert.equal((await run('obdconv', ...args, '--force', target)).status, 0);
  assert.deepEqual(readFileSync(join(dir, 'out.tar')), bytes);
  const inspected = await run('obd', 'inspect', `docker-archive:${dir}/out.tar`);
  assert.equal(inspected.status, 0, inspected.stderr);
  assert.deepEqual(readdirSync(dir).sort(), ['out.tar', 'src', 'src.tar']);
});

test('obdconv refuses wrong command lines with status 2', async () => {
  for (const args of [
    [],
    ['a'],
    ['a', 'b', 'c'],
    ['--vsize', '0', 'a', 'b'],
    ['--vsize', '1.5', 'a', 'b'],
    ['--bs', '3', 'a', 'b'],
    ['--algorithm', 'gzip', 'a', 'b'],
    ['--oci', '--docker', 'a', 'b'],
    ['--platform', '/', 'a', 'b'],
    ['docker-daemon:a', 'oci:b'],
    ['oci-archive:', 'oci:b'],
  ]) {
    const { status, stderr } = await run('obdconv', ...args);
    assert.equal(status, 2, `${args.join(' ')}: ${stderr}`);
    assert.notEqual(stderr, '');
  }
});

test('obdconv reports a bad layer with status 6 and where it is', async (t) => {
  const dir = tempDir(t);
  const source = writeLayout(join(dir, 'src'), [tarOf([{ path: 'h', type: '1', link: 'nowhere' }])]);
  const { status, stderr } = await run('obdconv', '--platform', 'linux/amd64', source, `oci:${dir}/out:a`);
  assert.equal(status, 6);
  assert.match(stderr, /"nowhere", which does not exist in any layer, member at byte 0/);
  assert.match(stderr, /OBD_CONVERT_BAD_TAR/);
});

test('obdconv that is interrupted ends at once, leaves no files and no tag', async (t) => {
  const dir = tempDir(t);
  for (const name of ['work', 'registry']) mkdirSync(join(dir, name));
  await using server = await startRegistryServer({
    directory: join(dir, 'registry'),
    bytesPerSecond: 2 ** 20,
  });
  // The server shows layouts in its directory as repositories.
  writeLayout(join(dir, 'registry', 'slow'), [tarOf([{ path: 'big', content: randomBytes(8 * 2 ** 20) }])]);
  const name = `docker://${server.host}/slow:src`;
  const child = spawn(
    join(checkout, 'bin', 'obdconv'),
    ['--plain-http', '--platform', 'linux/amd64', '--workdir', join(dir, 'work'), name, `oci:${dir}/out:x`],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let stderr = '';
  child.stderr.on('data', (data: Buffer) => (stderr += data.toString()));
  const exited = once(child, 'exit');
  // The configuration has been read, so the layer, which takes 8 s, is on its way.
  while (server.stats.blobRequests < 1 && child.exitCode === null) await sleep(20);
  await sleep(1000);
  const stopped = Date.now();
  child.kill('SIGINT');
  const [status] = (await exited) as [number | null];
  assert.equal(status, 130, stderr);
  assert.ok(Date.now() - stopped < 5000);
  assert.match(stderr, /Stopped by SIGINT; "oci:.*" is as it was/);
  assert.deepEqual(readdirSync(join(dir, 'work')), []);
  const index = join(dir, 'out', 'index.json');
  assert.ok(!existsSync(index) || !readFileSync(index, 'utf8').includes('"x"'));
});
