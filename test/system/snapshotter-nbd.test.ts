/** Containers in mode `dev` over NBD: what a virtual machine with an NBD client of its own gets (ADR 0043). */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { missing } from '../support/commands.js';
import { noContainerd, startNode } from '../support/containerd-node.js';
import { NbdReader } from '../support/nbd-reader.js';
import {
  OBD,
  SnapshotterNode,
  noDevices,
  pull,
  registryWithDebian,
  rejects,
  until,
} from '../support/snapshotter-node.js';
import { Code } from '../support/snapshots-client.js';

const run = promisify(execFile);
const needs = missing({
  nbdinfo: 'libnbd-bin',
  nbdcopy: 'libnbd-bin',
  'qemu-img': 'qemu-utils',
  debugfs: 'e2fsprogs',
});
const skip = noDevices || needs;
const DEV = { [`${OBD}.writable`]: 'dev' };
const NBD = { ...DEV, [`${OBD}.transport`]: 'nbd' };
/** Of the devices that are mounted beside those over NBD. */
const SERVICE = { transport: 'auto' };

interface NbdInfo {
  readonly exports: readonly { readonly 'export-size': number; readonly is_read_only: boolean }[];
}

async function nodeWithImage(
  t: TestContext,
  config: object = {},
): Promise<{ node: SnapshotterNode; top: string }> {
  const registry = await registryWithDebian(t);
  const node = await SnapshotterNode.start(t, registry.host, config, SERVICE);
  return { node, top: await pull(node, registry.host, registry.layers) };
}

async function infoOf(uri: string): Promise<NbdInfo['exports'][0]> {
  const { exports } = JSON.parse((await run('nbdinfo', ['--json', uri])).stdout) as NbdInfo;
  assert.ok(exports[0]);
  return exports[0];
}

async function cat(disk: string, path: string): Promise<string> {
  return (await run('debugfs', ['-R', `cat ${path}`, disk])).stdout;
}

test('a writable disk over NBD: copied, changed, the service killed, committed, run', { skip }, async (t) => {
  const { node, top } = await nodeWithImage(t);
  const uri = `nbd+unix:///?socket=${node.dir}/run/nbd/nbd-4.sock`;
  const mounts = await node.client.prepare('vm', top, NBD);
  assert.deepEqual(mounts, [{ type: 'ext4', source: uri, target: '', options: ['rw', 'discard'] }]);
  assert.equal((await infoOf(uri)).is_read_only, false);
  const size = (await infoOf(uri))['export-size'];
  const { stdout } = await run('qemu-img', ['info', '--output=json', uri]);
  assert.equal((JSON.parse(stdout) as { 'virtual-size': number })['virtual-size'], size);

  const disk = join(node.dir, 'disk');
  await run('nbdcopy', [uri, disk]);
  assert.match(await cat(disk, '/etc/debian_version'), /^\d/);
  await writeFile(join(node.dir, 'note'), 'from a machine');
  await run('debugfs', ['-w', '-R', `write ${join(node.dir, 'note')} note`, disk]);
  await run('nbdcopy', ['--flush', disk, uri]);

  await node.stop('overlaybd-tcmu', 'SIGKILL');
  await node.startService();
  assert.deepEqual(await node.client.mounts('vm'), mounts);
  const again = join(node.dir, 'again');
  await until(() => run('nbdcopy', [uri, again]));
  await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', disk, again]);
  await run('e2fsck', ['-fn', again]);

  // A machine that runs keeps its disk, whatever it is that one wants to do with the snapshot.
  const machine = await NbdReader.connect(uri.slice(uri.indexOf('=') + 1));
  await rejects(node.client.commit('layer', 'vm'), Code.PRECONDITION, /in use/);
  assert.equal((await machine.read(0, 4096)).error, undefined);
  machine.close();
  await until(async () => {
    assert.equal((await node.service.list())[0]?.connections, 0);
  });
  await node.client.commit('layer', 'vm');
  assert.equal(existsSync(`${node.dir}/run/nbd/nbd-4.sock`), false);

  const over = await node.mount('over', await node.client.prepare('over', 'layer'));
  assert.equal(await readFile(join(over, 'note'), 'utf8'), 'from a machine');
  await node.removeAll();
  assert.deepEqual(await readdir(`${node.dir}/run/nbd`), []);
});

test(
  'a view over NBD is read-only, and one image has block devices and sockets at a time',
  { skip },
  async (t) => {
    const { node, top } = await nodeWithImage(t, { autoRemoveDev: true, devTransport: 'nbd' });
    const over = await node.mount('over', await node.client.prepare('over', top));
    const [view] = await node.client.view('view', top, DEV);
    const [other] = await node.client.view('other', top, DEV);
    assert.deepEqual(view?.options, ['ro', 'discard']);
    assert.equal(view.source, other?.source, 'both views have one device');
    assert.equal((await infoOf(view.source)).is_read_only, true);
    const [block] = await node.client.prepare('block', top, { ...DEV, [`${OBD}.transport`]: 'block' });
    assert.match(block?.source ?? '', /^\/dev\//);
    assert.deepEqual((await node.service.list()).map(({ transport }) => transport).sort(), [
      ...['fuse', 'fuse'],
      'nbd',
    ]);
    const disk = join(node.dir, 'disk');
    await run('nbdcopy', [view.source, disk]);
    assert.equal(
      await cat(disk, '/etc/debian_version'),
      await readFile(join(over, 'etc/debian_version'), 'utf8'),
    );

    await rejects(
      node.client.prepare('wrong', top, { ...DEV, [`${OBD}.transport`]: 'tcp' }),
      Code.INVALID,
      /expected "block" or "nbd"/,
    );
    await node.unmount(over);
    for (const name of ['over', 'block', 'view']) await node.client.remove(name);
    assert.equal((await infoOf(view.source)).is_read_only, true, 'the other view still has it');
    // Removed while a machine runs on it: what it has stays until it has ended.
    const machine = await NbdReader.connect(view.source.slice(view.source.indexOf('=') + 1));
    await node.client.remove('other');
    assert.equal((await machine.read(0, 4096)).error, undefined);
    machine.close();
    await node.removeAll();
  },
);

test(
  'containerd prepares and names a disk over NBD (ctr snapshots), and removes it',
  { skip: noContainerd || needs },
  async (t) => {
    const node = await startNode(t, { rwMode: 'dev', devTransport: 'nbd' }, SERVICE);
    const ctr = (...args: string[]): Promise<string> =>
      node.ctr('snapshots', '--snapshotter', 'overlaybd', ...args);
    await ctr('prepare', 'empty');
    const command = await ctr('mounts', '/mnt', 'empty');
    const [, uri = ''] = /^mount -t ext4 (nbd\+unix:\S+) \/mnt -o rw,discard$/m.exec(command) ?? [];
    assert.equal((await infoOf(uri))['export-size'], 64 * 2 ** 30, command);
    await run('qemu-img', ['info', uri]);
    await ctr('rm', 'empty');
    // containerd tells the snapshotter with its next garbage collection.
    await until(async () => {
      assert.deepEqual(await node.service.list(), []);
    });
    assert.deepEqual(await readdir(join(node.dir, 'o', 'nbd')), []);
  },
);
