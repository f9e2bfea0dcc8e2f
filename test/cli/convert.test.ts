import assert from 'node:assert/strict';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startRegistryServer } from '../../src/registryserver/index.js';
import { tarOf, writeIndexLayout, writeLayout } from '../convert/make-image.js';
import { checkout } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';

interface Finished {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

const cacheHome = mkdtempSync(join(tmpdir(), 'obd-test-'));
after(() => {
  rmSync(cacheHome, { recursive: true, force: true });
});

function run(program: 'obd' | 'obdconv', ...args: string[]): Promise<Finished> {
  return new Promise((resolve) => {
    // Nobody's own cache is used, nor added to.
    const env = { ...process.env, XDG_CACHE_HOME: cacheHome };
    execFile(join(checkout, 'bin', program), args, { env }, (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

interface Event {
  readonly event: string;
  readonly [key: string]: unknown;
}

function eventsOf({ stdout }: Finished): Event[] {
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Event);
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
  const second = await run('obd', 'convert', ...common, '--no-cache', '--json', source, `oci:${dir}/out:b`);
  assert.equal(second.status, 0, second.stderr);
  const events = eventsOf(second);
  assert.deepEqual(
    events.map(({ event }) => event),
    ['start', 'progress', 'layer', 'pushed', 'done'],
  );
  const done = events.at(-1) as unknown as {
    target: string;
    result: {
      descriptor: { digest: string };
      layers: { outcome: string; reused: boolean; counts: { entries: number } }[];
    };
  };
  assert.equal(done.target, `oci:${dir}/out:b`);
  assert.ok(first.stdout.includes(done.result.descriptor.digest), 'the same digests on a second run');
  assert.deepEqual(
    done.result.layers.map(({ outcome, reused, counts }) => [outcome, reused, counts.entries]),
    [['exists', false, 2]],
  );
});

test('obdconv --json tells of a failure as its last event', async (t) => {
  const dir = tempDir(t);
  const failed = await run('obdconv', '--no-cache', '--json', `oci:${dir}:x`, `oci:${dir}/out:b`);
  assert.equal(failed.status, 2);
  assert.deepEqual(
    eventsOf(failed).map(({ event, code }) => [event, code]),
    [['error', 'OBD_CONFIG_NOT_FOUND']],
  );
  assert.match(failed.stderr, /OBD_CONFIG_NOT_FOUND/);
});

test('obdconv uses what it converted before, unless --no-cache says otherwise', async (t) => {
  const dir = tempDir(t);
  const source = writeLayout(join(dir, 'src'), [TAR]);
  const more = tarOf([{ path: 'dir/more', content: 'x' }]);
  const larger = writeLayout(join(dir, 'larger'), [TAR, more]);
  const convert = async (from: string, ...args: string[]): Promise<boolean[]> => {
    const common = ['--vsize', '1', '--platform', 'linux/amd64', '--workdir', dir, '--json'];
    const finished = await run('obdconv', ...common, ...args, from, `oci:${dir}/out:x`);
    assert.equal(finished.status, 0, finished.stderr);
    return eventsOf(finished).flatMap(({ event, reused }) => (event === 'layer' ? [reused === true] : []));
  };
  const cache = ['--cache-dir', join(dir, 'cache')];
  assert.deepEqual(await convert(source, ...cache), [false]);
  assert.ok(readdirSync(join(dir, 'cache')).includes('layers.jsonl'));
  assert.deepEqual(await convert(source, ...cache), [true]);
  assert.deepEqual(await convert(source, ...cache, '--no-cache'), [false]);
  assert.deepEqual(await convert(larger, ...cache), [true, false]);
  // Other options, other layers.
  assert.deepEqual(await convert(source, ...cache, '--bs', '16'), [false]);
  assert.deepEqual(await convert(source, ...cache, '--algorithm', 'zstd'), [false]);
  assert.deepEqual(await convert(source, ...cache, '--vsize', '2'), [false]);
  // A cache that cannot be used is said and done without.
  const unusable = await run(
    ...(['obdconv', '--cache-dir', join(dir, 'src', 'index.json'), '--vsize', '1'] as const),
    ...['--platform', 'linux/amd64', source, `oci:${dir}/out:x`],
  );
  assert.equal(unusable.status, 0, unusable.stderr);
  assert.match(unusable.stderr, /Warning: what was converted before is not known/);
});

test('obdconv --plan says what would be done and does nothing', async (t) => {
  const dir = tempDir(t);
  const source = writeLayout(join(dir, 'src'), [TAR]);
  const args = ['--platform', 'linux/amd64', '--cache-dir', join(dir, 'cache'), source, `oci:${dir}/out:x`];
  const plan = await run('obdconv', '--plan', ...args);
  assert.equal(plan.status, 0, plan.stderr);
  assert.match(plan.stdout, /convert .* ~2\.5 KiB/);
  assert.match(plan.stdout, /linux\/amd64 .* on a disk of 64\.0 GiB/);
  assert.ok(!existsSync(join(dir, 'out')));
  assert.equal((await run('obdconv', '--workdir', dir, ...args)).status, 0);
  const events = eventsOf(await run('obdconv', '--plan', '--json', ...args)) as unknown as {
    event: string;
    images: { fetch: number; upload: number; layers: { action: string }[] }[];
  }[];
  assert.deepEqual(
    events.map(({ event, images }) => [event, images[0]?.fetch, images[0]?.layers[0]?.action]),
    [['plan', 0, 'reuse']],
  );
});

test('obdconv --all-platforms, --platform A,B, --referrer and --docker reach the conversion', async (t) => {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'registry'));
  await using server = await startRegistryServer({ directory: join(dir, 'registry') });
  const source = writeIndexLayout(join(dir, 'src'), [
    { platform: 'linux/amd64', tars: [TAR] },
    { platform: 'linux/arm64', tars: [TAR] },
    { platform: 'linux/s390x', tars: [TAR] },
  ]);
  const convert = async (target: string, ...args: string[]): Promise<string[]> => {
    const common = ['--vsize', '1', '--workdir', dir, '--no-cache', '--json', '--plain-http'];
    const finished = await run('obdconv', ...common, ...args, source, target);
    assert.equal(finished.status, 0, finished.stderr);
    return eventsOf(finished).flatMap(({ event, platform }) => (event === 'start' ? [String(platform)] : []));
  };
  const place = `docker://${server.host}/team/app`;
  assert.deepEqual(await convert(`${place}:all`, '--all-platforms'), [
    'linux/amd64',
    'linux/arm64',
    'linux/s390x',
  ]);
  assert.deepEqual(await convert(`${place}:two`, '--platform', 'linux/s390x,arm64', '--docker'), [
    'linux/arm64',
    'linux/s390x',
  ]);
  const mediaType = async (tag: string): Promise<unknown> =>
    (
      (await (await fetch(`http://${server.host}/v2/team/app/manifests/${tag}`)).json()) as {
        mediaType: string;
      }
    ).mediaType;
  assert.equal(await mediaType('all'), 'application/vnd.oci.image.index.v1+json');
  assert.equal(await mediaType('two'), 'application/vnd.docker.distribution.manifest.list.v2+json');
  assert.deepEqual(await convert(place, '--platform', 'arm64', '--referrer'), ['linux/arm64']);
  const tags = (await (await fetch(`http://${server.host}/v2/team/app/tags/list`)).json()) as {
    tags: string[];
  };
  assert.deepEqual(tags.tags, ['all', 'two'], 'a referrer without a tag gets none');
  const said = await run(
    ...([
      'obdconv',
      '--quiet',
      '--plain-http',
      '--platform',
      'arm64',
      '--referrer',
      '--workdir',
      dir,
      '--vsize',
      '1',
    ] as const),
    ...[source, place],
  );
  assert.match(said.stdout, /\/team\/app@sha256:/);
  await convert(`${place}:ref`, '--platform', 'arm64', '--referrer');
  const manifest = (await (await fetch(`http://${server.host}/v2/team/app/manifests/ref`)).json()) as {
    subject: { digest: string };
  };
  const referrers = (await (
    await fetch(`http://${server.host}/v2/team/app/referrers/${manifest.subject.digest}`)
  ).json()) as { manifests: { artifactType: string }[] };
  assert.deepEqual(
    referrers.manifests.map(({ artifactType }) => artifactType),
    ['application/vnd.containerd.overlaybd.native.v1+json'],
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
    ['--vsize', '9000', 'a', 'b'],
    ['--fstype', 'xfs', 'a', 'b'],
    ['--algorithm', 'gzip', 'a', 'b'],
    ['--all-platforms', '--platform', 'arm64', 'a', 'b'],
    ['--referrer', '--docker', 'a', 'b'],
    ['--platform', 'linux/amd64,', 'a', 'b'],
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

for (const kind of ['oci', 'oci-archive'])
  test(`obdconv to ${kind}: that is interrupted ends at once, leaves no files and no tag`, async (t) => {
    const dir = tempDir(t);
    for (const name of ['work', 'registry']) mkdirSync(join(dir, name));
    await using server = await startRegistryServer({
      directory: join(dir, 'registry'),
      bytesPerSecond: 2 ** 20,
    });
    // The server shows layouts in its directory as repositories.
    writeLayout(join(dir, 'registry', 'slow'), [
      TAR,
      tarOf([{ path: 'big', content: randomBytes(8 * 2 ** 20) }]),
    ]);
    const name = `docker://${server.host}/slow:src`;
    const child = spawn(
      join(checkout, 'bin', 'obdconv'),
      [
        '--no-cache',
        '--plain-http',
        '--platform',
        'linux/amd64',
        '--workdir',
        join(dir, 'work'),
        name,
        `${kind}:${dir}/out:x`,
      ],
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
    assert.match(stderr, /Stopped by SIGINT; "oci.*" is as it was/);
    assert.deepEqual(readdirSync(join(dir, 'work')), []);
    assert.deepEqual(
      readdirSync(dir).filter((name) => name.startsWith('.') || name === 'out.tar'),
      [],
    );
    if (kind === 'oci-archive') {
      assert.ok(!existsSync(join(dir, 'out')));
      return;
    }
    const index = join(dir, 'out', 'index.json');
    assert.ok(!existsSync(index) || !readFileSync(index, 'utf8').includes('"x"'));
  });
