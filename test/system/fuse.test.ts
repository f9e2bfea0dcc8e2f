import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { fuseUnsupported } from '../../src/blockdev/index.js';
import type { DeviceInfo } from '../../src/service/index.js';
import { differingChunks, readDeviceDump } from '../support/device-dump.js';
import { checkout, fixture, noFixtures } from '../support/fixtures.js';
import { leftSince, takeSnapshot } from '../support/leaks.js';
import { compareTree, readExpectedTree } from '../support/mounted-tree.js';
import { tempDir } from '../support/unpack.js';

const reason = await fuseUnsupported();
const skip = reason === undefined ? noFixtures : `FUSE and loop devices: ${reason}`;
const obd = join(checkout, 'bin', 'obd');

interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const umount = promisify((target: string, done: (error: Error | null) => void) =>
  execFile('umount', ['-l', target], () => {
    done(null);
  }),
);

function ownMounts(dir: string): { target: string }[] {
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => ({ target: line.split(' ')[1] ?? '' }))
    .filter(({ target }) => target.startsWith(`${dir}/`));
}

/** Which of the flags that keep set-user-ID files, devices and writes from working a mount has. */
function strictFlags(target: string): string[] {
  const line = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .find((mount) => mount.split(' ')[1] === target);
  const options = line?.split(' ')[3]?.split(',') ?? [];
  return ['nodev', 'nosuid', 'ro'].filter((flag) => options.includes(flag));
}

/** A machine of its own: configuration, run directory, state, cache, log. */
class Sandbox {
  readonly dir: string;
  readonly flags: readonly string[];

  constructor(t: TestContext) {
    let remove = (): unknown => undefined;
    this.dir = tempDir({ after: (work) => (remove = work as () => unknown) });
    // A test that failed midway must not leave its devices to the others, nor its files on their mounts.
    t.after(async () => {
      for (const { target } of ownMounts(this.dir)) await umount(target);
      await this.endService();
      remove();
    });
    const config = join(this.dir, 'overlaybd.json');
    writeFileSync(
      config,
      JSON.stringify({
        apiSocket: join(this.dir, 'run', 'o.sock'),
        transport: 'fuse',
        logConfig: { logPath: join(this.dir, 'log'), logLevel: 0 },
        cacheConfig: {
          cacheType: 'file',
          cacheDir: join(this.dir, 'cache'),
          cacheSizeGB: 1,
          refillSize: 262144,
        },
      }),
    );
    this.flags = ['--service-config', config, '--state-dir', join(this.dir, 'state')];
  }

  /** Runs `obd` and gives how it ended. */
  async run(...args: string[]): Promise<Ended> {
    const child = spawn(process.execPath, [obd, ...args, ...this.flags], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const [status] = (await once(child, 'close')) as [number | null];
    return { status, stdout, stderr };
  }

  /** Runs `obd`, which must succeed; gives its standard output. */
  async obd(...args: string[]): Promise<string> {
    const { status, stdout, stderr } = await this.run(...args);
    assert.equal(status, 0, `obd ${args.join(' ')}: ${stderr}\n${this.log()}`);
    return stdout.trim();
  }

  async list(): Promise<DeviceInfo[]> {
    return JSON.parse(await this.obd('list', '--json')) as DeviceInfo[];
  }

  directory(name: string): string {
    const path = join(this.dir, name);
    mkdirSync(path, { recursive: true });
    return path;
  }

  /** A golden image's configuration. */
  image(...parts: string[]): string {
    const from = fixture(...parts);
    const path = join(this.directory('images'), `${parts.at(-2)}-${parts.at(-1)}`);
    writeFileSync(path, readFileSync(from, 'utf8').replaceAll('@DIR@', dirname(from)));
    return path;
  }

  log(): string {
    return existsSync(join(this.dir, 'log')) ? readFileSync(join(this.dir, 'log'), 'utf8') : '';
  }

  servicePid(): number {
    return Number(readFileSync(join(this.dir, 'run', 'o.sock.lock'), 'utf8'));
  }

  /** Ends the service, if one runs, and waits for its end. */
  async endService(): Promise<void> {
    const lock = join(this.dir, 'run', 'o.sock.lock');
    if (!existsSync(lock)) return;
    process.kill(this.servicePid(), 'SIGTERM');
    for (let i = 0; i < 100 && existsSync(lock); i++) await sleep(50);
  }

  /** What is left of the service when its last device is gone. */
  async leftovers(): Promise<string[]> {
    for (let i = 0; i < 100 && existsSync(join(this.dir, 'run')); i++) await sleep(50);
    return ['run', 'state/devices'].flatMap((name) => {
      const path = join(this.dir, name);
      return existsSync(path) ? readdirSync(path).map((entry) => join(name, entry)) : [];
    });
  }
}

describe('obd through FUSE', { skip }, () => {
  test('attach shows the whole device as the reference does, and detach leaves nothing', async (t) => {
    const before = takeSnapshot();
    const box = new Sandbox(t);
    const device = await box.obd('attach', box.image('small', 'native-lz4', 'image.json'));
    const dump = readDeviceDump(fixture('small', 'native-lz4', 'device.json'));
    assert.deepEqual(differingChunks(device, dump, 1024), []);
    const [info] = await box.list();
    assert.equal(info?.state, 'ready');
    assert.equal(info.devicePath, device);
    assert.equal(info.transport, 'fuse');
    assert.equal(info.size, dump.virtualSize);
    assert.equal(info.errors, 0);
    assert.ok(info.bytesRead > dump.chunks.length * dump.chunkSize);
    await box.obd('detach', info.id);
    assert.deepEqual(await box.leftovers(), []);
    assert.deepEqual(await leftSince(before), []);
  });

  test('mount shows every file of the Debian image as it was, and umount leaves nothing', async (t) => {
    const before = takeSnapshot();
    const box = new Sandbox(t);
    const mnt = box.directory('mnt');
    await box.obd('mount', `oci:${fixture('debian', 'oci-obd')}:debian-slim_overlaybd`, mnt, '--allow-suid');
    assert.deepEqual(strictFlags(mnt), ['ro'], 'as it was asked for');
    assert.deepEqual(compareTree(mnt, readExpectedTree(fixture('debian', 'expected.json'), 2)), []);
    const [info] = await box.list();
    assert.match(info?.image ?? '', /^oci:.*debian-slim_overlaybd$/);
    assert.equal((await box.run('detach', info?.id ?? '')).status, 5, 'a mounted device is not detached');
    await box.obd('umount', mnt);
    assert.deepEqual(await box.leftovers(), []);
    assert.deepEqual(await leftSince(before), []);
  });

  test('several devices share one service, by name and by path', async (t) => {
    const before = takeSnapshot();
    const box = new Sandbox(t);
    const image = box.image('small', 'native-zstd', 'image.json');
    const [a, b] = await Promise.all([
      box.obd('attach', image, '--name', 'a'),
      box.obd('attach', image, '--name', 'b'),
    ]);
    assert.notEqual(a, b);
    assert.deepEqual((await box.list()).map(({ id }) => id).sort(), ['a', 'b']);
    const again = await box.run('attach', image, '--name', 'a');
    assert.equal(again.status, 5);
    assert.match(again.stderr, /OBD_DEVICE_EXISTS/);
    await box.obd('detach', 'a');
    await box.obd('detach', b);
    assert.deepEqual(await leftSince(before), []);
  });

  test('nothing is left when an attach or a mount fails', async (t) => {
    const before = takeSnapshot();
    const box = new Sandbox(t);
    const good = box.image('small', 'native-lz4', 'image.json');
    const broken = join(box.dir, 'broken.json');
    const result = join(box.dir, 'result');
    writeFileSync(broken, JSON.stringify({ lowers: [{ file: '/nonexistent/layer' }], resultFile: result }));
    const noFilesystem = join(box.dir, 'raw.json');
    writeFileSync(noFilesystem, JSON.stringify({ lowers: [{ file: fixture('lsmt', 'k2', 'layer1.lsmt') }] }));
    const mnt = box.directory('mnt');
    for (const [args, says] of [
      [['attach', broken], /nonexistent/],
      [['attach', join(box.dir, 'missing.json')], /OBD_CONFIG_NOT_FOUND/],
      [['attach', `oci:${fixture('debian', 'oci-src')}:debian-slim`], /Convert it first/],
      [['attach', good, '--name', 'much-too-long-a-name'], /1 to 13/],
      [['attach', good, '--transport', 'tcmu'], /OBD_DEVICE_UNSUPPORTED/],
      [['mount', good, join(box.dir, 'no-directory')], /no-directory/],
      [['mount', noFilesystem, mnt], /OBD_/],
      [['umount', mnt], /nothing is mounted/],
      [['detach', 'nobody'], /OBD_/],
    ] as const) {
      const { status, stdout, stderr } = await box.run(...args);
      assert.notEqual(status, 0, args.join(' '));
      assert.equal(stdout, '', args.join(' '));
      assert.match(stderr, says, args.join(' '));
    }
    assert.match(readFileSync(result, 'utf8'), /^failed:failed to open local file \/nonexistent\/layer/);
    await box.endService();
    assert.deepEqual(await leftSince(before), []);
  });

  test('after kill -9 under reads nothing hangs, and the next start removes the mount', async (t) => {
    const before = takeSnapshot();
    const box = new Sandbox(t);
    const mnt = box.directory('mnt');
    const image = `oci:${fixture('debian', 'oci-obd')}:debian-slim_overlaybd`;
    await box.obd('mount', image, mnt, '--name', 'first');
    const reader = spawn('sh', [
      '-c',
      `while :; do cat ${mnt}/usr/bin/* >/dev/null 2>&1 || sleep 0.05; done`,
    ]);
    await sleep(300);
    process.kill(box.servicePid(), 'SIGKILL');
    await sleep(300);
    reader.kill('SIGKILL');
    await once(reader, 'exit');
    const mnt2 = box.directory('mnt2');
    await box.obd('mount', image, mnt2, '--name', 'second');
    const mounts = readFileSync('/proc/self/mounts', 'utf8');
    assert.equal(mounts.includes(`${mnt} `), false, 'the dead mount is gone');
    assert.match(box.log(), /removing the mount of a device whose service was killed/);
    assert.deepEqual(
      (await box.list()).map(({ id }) => id),
      ['second'],
    );
    assert.equal(readFileSync(join(mnt2, 'etc/debian_version'), 'utf8').slice(0, 3), '12.');
    await box.obd('umount', mnt2);
    assert.deepEqual(await box.leftovers(), []);
    assert.deepEqual(await leftSince(before), []);
  });

  test('SIGTERM ends the service and takes its devices with it, mounted ones too', async (t) => {
    const before = takeSnapshot();
    const box = new Sandbox(t);
    const image = `oci:${fixture('debian', 'oci-obd')}:debian-slim_overlaybd`;
    const mnt = box.directory('mnt');
    await box.obd('attach', box.image('small', 'native-lz4', 'image.json'));
    await box.obd('mount', image, mnt);
    assert.deepEqual(strictFlags(mnt), ['nodev', 'nosuid', 'ro']);
    await box.endService();
    assert.match(box.log(), /service has ended/);
    assert.equal(existsSync(join(box.dir, 'state', 'devices', 'oci-obd')), false, 'its files are gone');
    assert.throws(() => readFileSync(join(mnt, 'usr/bin/bash')), { code: 'EIO' });
    await box.obd('umount', mnt);
    assert.deepEqual(await box.leftovers(), []);
    assert.deepEqual(await leftSince(before), []);
  });
});
