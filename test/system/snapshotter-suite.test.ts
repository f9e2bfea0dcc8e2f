/** containerd's own conformance suite for snapshotters (snapshotter-suite/suite_test.go). */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { fuseUnsupported } from '../../src/blockdev/index.js';
import { AdminClient } from '../../src/service/index.js';
import { missing } from '../support/commands.js';
import { checkout } from '../support/fixtures.js';
import { leftSince, takeSnapshot } from '../support/leaks.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);
const GOPATH = '/usr/share/gocode';
const containerd = `${GOPATH}/src/github.com/containerd/containerd/snapshots/testsuite`;
const skip =
  process.getuid?.() !== 0
    ? 'needs root'
    : !existsSync(containerd)
      ? "containerd's suite is not installed (package golang-github-containerd-containerd-dev)"
      : missing({ go: 'golang-go' });

/** A server and a directory tree for each; the suite's own default is one per CPU. */
const PARALLEL = 4;
const TESTS = 21;
/** Where the suite is built. */
const buildDir = mkdtempSync(join(tmpdir(), 'obd-suite-'));
after(() => {
  rmSync(buildDir, { recursive: true, force: true });
});

/** Configurations of the snapshotter; without a mode of their own, the snapshots are directories. */
const modes = [
  { name: 'overlayfs', config: {} },
  { name: 'dir', config: { rwMode: 'dir' } },
  { name: 'dev, sparse', config: { rwMode: 'dev', writableLayerType: 'sparse' } },
];
/** Of the devices: `tcmu` in a kernel that has it (test/vm). */
const TRANSPORT = process.env['OBD_SUITE_TRANSPORT'] ?? 'fuse';
const noDevices = await fuseUnsupported();

let suite = '';
before(async () => {
  if (skip !== false) return;
  suite = join(buildDir, 'suite');
  await run('go', ['test', '-c', '-o', suite], {
    cwd: join(checkout, 'test', 'system', 'snapshotter-suite'),
    env: { ...process.env, GO111MODULE: 'off', GOPATH, GOFLAGS: '-p=2' },
  });
});

/** Starts a service for devices. */
async function startService(dir: string): Promise<{ path: string; stop: () => Promise<void> }> {
  const path = join(dir, 'overlaybd.json');
  const apiSocket = join(dir, 'o', 'o.sock');
  await writeFile(
    path,
    JSON.stringify({
      apiSocket,
      transport: TRANSPORT,
      logConfig: { logPath: join(dir, 'service.log') },
      cacheConfig: { cacheType: 'file', cacheDir: join(dir, 'cache'), cacheSizeGB: 1 },
    }),
  );
  const program = join(checkout, 'bin', 'overlaybd-tcmu');
  const child = spawn(process.execPath, [program, path, '--state-dir', join(dir, 'state')], {
    stdio: 'ignore',
  });
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.kill('SIGTERM')) await once(child, 'exit');
  };
  const service = new AdminClient(apiSocket);
  for (let n = 0; ; n++)
    try {
      await service.info();
      return { path, stop };
    } catch (error) {
      if (n === 300) {
        await stop();
        throw error;
      }
      await sleep(100);
    }
}

for (const { name, config } of modes) {
  const own = name !== 'overlayfs';
  const why = skip || (own && noDevices !== undefined && `FUSE and loop devices: ${noDevices}`);
  test(`containerd’s conformance suite passes: ${name}`, { skip: why }, async (t) => {
    const before = takeSnapshot();
    const dir = tempDir(t);
    const service = own ? await startService(dir) : undefined;
    const serviceConfig = service === undefined ? {} : { serviceConfig: service.path };
    const { stdout } = await run(
      suite,
      ['-test.v', '-test.root', '-test.parallel', String(PARALLEL), '-test.timeout', '10m'],
      {
        cwd: dir,
        env: {
          ...process.env,
          TMPDIR: dir,
          OBD_SNAPSHOTTER: join(checkout, 'bin', 'overlaybd-snapshotter'),
          OBD_SNAPSHOTTER_CONFIG: JSON.stringify({ ...config, ...serviceConfig }),
          ...(own ? { OBD_RENAMES_DIRECTORIES: 'yes' } : {}),
        },
        maxBuffer: 2 ** 28,
      },
    )
      .catch((error: unknown) => {
        const { stdout } = error as { stdout: string };
        throw new Error(stdout.slice(-10_000), { cause: error });
      })
      .finally(() => service?.stop());
    assert.deepEqual(await leftSince(before), []);
    const results = [...stdout.matchAll(/^ {4}--- (\w+): TestSnapshotter\/(\w+)/gm)];
    const named = (result: string): string[] =>
      results.filter((found) => found[1] === result).map((found) => found[2] ?? '');
    assert.equal(results.length, TESTS);
    assert.deepEqual(named('FAIL'), []);
    // containerd 1.6 skips it everywhere; our own TestRename does what it would.
    assert.ok(named('SKIP').every((skipped) => skipped === 'Rename'));
    assert.match(stdout, /^--- PASS: TestRename/m);
  });
}
