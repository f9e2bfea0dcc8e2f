/** Limits of containers' overlays, on an ext4 of the test's own, with project quota and without. */
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { silentLogger, type Logger } from '../../src/log/index.js';
import { setProjectQuota } from '../../src/native/index.js';
import { missing } from '../support/commands.js';
import { Code, startServer } from '../support/snapshots-client.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);
const PROJECT_QUOTA = ['-O', 'quota,project', '-E', 'quotatype=prjquota'];
const skip =
  process.getuid?.() !== 0
    ? 'needs root'
    : missing({ 'mkfs.ext4': 'e2fsprogs', setpriv: 'util-linux', mount: 'mount' });

/** Runs a test on a new file system, or skips it where the kernel does not mount that. */
async function onFileSystem(
  t: TestContext,
  mkfs: readonly string[],
  body: (t: TestContext, root: string) => Promise<void>,
): Promise<void> {
  const dir = tempDir(t);
  const [disk, target] = [join(dir, 'disk'), join(dir, 'mnt')];
  await mkdir(target);
  await writeFile(disk, '');
  await truncate(disk, 256 << 20);
  await run('mkfs.ext4', ['-q', ...mkfs, disk]);
  const options = mkfs.length > 0 ? 'loop,prjquota' : 'loop';
  const { status, stderr } = spawnSync('mount', ['-o', options, disk, target], { encoding: 'utf8' });
  if (status !== 0) {
    t.skip(`this kernel does not mount it: ${stderr}`);
    return;
  }
  try {
    await t.test('with a snapshotter', (sub) => body(sub, join(target, 'root')));
  } finally {
    await run('umount', [target]);
  }
}

/** What `dd` says; it writes as a container does: without the right to take more than its share. */
function write(path: string, mebibytes: number): string {
  const limited = ['--inh-caps=-sys_resource', '--bounding-set=-sys_resource'];
  const dd = ['dd', 'if=/dev/zero', `of=${path}`, 'bs=1M', `count=${mebibytes}`, 'conv=fsync'];
  return spawnSync('setpriv', [...limited, ...dd], { encoding: 'utf8' }).stderr;
}

test('each container may write what its quota says, and no more', { skip }, (t) =>
  onFileSystem(t, PROJECT_QUOTA, async (sub, root) => {
    const config = { root, rootfsQuota: '10m' };
    const { client } = await startServer(sub, config, { limitSpace: setProjectQuota });
    const fs = (id: number): string => join(root, 'snapshots', String(id), 'fs');
    await client.prepare('layer-key', '', { 'containerd.io/snapshot.ref': 'sha256:a' });
    assert.doesNotMatch(write(join(fs(1), 'layer'), 20), /quota/, 'layers have no limit');
    await client.commit('layer', 'layer-key');

    await client.prepare('a', 'layer');
    await client.prepare('b', 'layer');
    await client.prepare('c', 'layer', { 'containerd.io/snapshot/disk_quota': '30m' });
    assert.doesNotMatch(write(join(fs(2), 'small'), 8), /quota/);
    assert.match(write(join(fs(2), 'large'), 8), /quota/);
    assert.doesNotMatch(write(join(fs(3), 'other'), 8), /quota/, 'each has its own');
    assert.doesNotMatch(write(join(fs(4), 'more'), 25), /quota/);
    assert.match(write(join(fs(4), 'too-much'), 25), /quota/);
    await client.view('v', 'layer');
    await assert.rejects(client.prepare('d', 'layer', { 'containerd.io/snapshot/disk_quota': 'much' }), {
      code: Code.INVALID,
    });
    for (const key of ['a', 'b', 'c', 'v']) await client.remove(key);
  }),
);

test('without project quota containers start, and the log names the key', { skip }, (t) =>
  onFileSystem(t, [], async (sub, root) => {
    const warnings: unknown[] = [];
    const log = { ...silentLogger, warn: (fields: unknown) => warnings.push(fields) } as unknown as Logger;
    const config = { root, rootfsQuota: '10m' };
    const { client } = await startServer(sub, config, { limitSpace: setProjectQuota, log });
    await client.prepare('a');
    assert.doesNotMatch(write(join(root, 'snapshots', '1', 'fs', 'file'), 20), /quota/);
    assert.equal((warnings as { key: string }[])[0]?.key, 'rootfsQuota');
  }),
);
