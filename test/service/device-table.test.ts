import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test, type TestContext } from 'node:test';
import { DeviceError, MemoryBlob } from '../../src/blob/index.js';
import { BlockDevice, IoWorkers, MemoryFrontEnd } from '../../src/blockdev/index.js';
import { silentLogger } from '../../src/log/index.js';
import { DeviceTable, Openings, type ImageLoader } from '../../src/service/index.js';
import { tempDir } from '../support/unpack.js';

const workers = new IoWorkers({ logger: silentLogger, count: 1 });
after(() => workers.close());

/** An image of 1 MiB, 100 bytes of which were fetched. */
const load: ImageLoader = async (configPath) => ({
  device: new BlockDevice(new MemoryBlob(new Uint8Array(1 << 20), configPath)),
  stats: () => ({ bytesFetched: 100, remoteBytes: 1000, presentBytes: 500 }),
});

function makeTable(loader: ImageLoader = load) {
  const openings = new Openings(loader, silentLogger);
  const frontEnd = new MemoryFrontEnd(openings.open, workers);
  const table = new DeviceTable({
    frontEnds: [frontEnd],
    openings,
    unsupported: new Map([['tcmu', 'not in this test']]),
    log: silentLogger,
  });
  return { table, openings, frontEnd };
}

/** An image configuration that names a result file. */
function withResultFile(t: TestContext): { config: string; result: string } {
  const dir = tempDir(t);
  const config = join(dir, 'config.v1.json');
  const result = join(dir, 'result');
  writeFileSync(config, JSON.stringify({ resultFile: result }));
  return { config, result };
}

test('DeviceTable.attach() gives a device that list() and get() show until detach()', async () => {
  const { table } = makeTable();
  assert.equal(table.idle, true);
  const made = await table.attach({ config: '/images/one/config.v1.json', image: 'docker://h/a/app:1' });
  assert.equal(made.id, 'app');
  assert.equal(made.state, 'ready');
  assert.equal(made.size, 1 << 20);
  assert.equal(made.readOnly, true);
  assert.equal(made.image, 'docker://h/a/app:1');
  assert.deepEqual([made.bytesFetched, made.remoteBytes, made.presentBytes], [100, 1000, 500]);
  assert.deepEqual(table.list(), [table.get('app')]);
  assert.equal(table.idle, false);
  await table.detach('app');
  assert.deepEqual(table.list(), []);
  assert.throws(() => table.get('app'), { code: 'OBD_DEVICE_NOT_FOUND' });
  assert.equal(table.idle, true);
});

test('DeviceTable names devices after their image, and numbers those that share a name', async () => {
  const { table, frontEnd } = makeTable();
  const id = async (request: Parameters<typeof table.attach>[0]) => (await table.attach(request)).id;
  assert.equal(await id({ config: '/x/snapshots/45/config.v1.json' }), '45');
  assert.equal(await id({ config: '/x/image.json' }), 'image');
  assert.equal(await id({ config: '/x/image.json' }), 'image-2');
  assert.equal(await id({ config: '/x/image.json' }), 'image-3');
  assert.equal(
    await id({ config: '/y', image: 'docker://h:5000/a/very.long.repository.name:1' }),
    'very-long-rep',
  );
  assert.equal(
    await id({ config: '/y', image: 'docker://h:5000/a/very.long.repository.name:1' }),
    'very-long-r-2',
  );
  assert.equal(await id({ config: '/y', image: 'oci:/srv/app' }), 'app');
  await assert.rejects(table.attach({ config: '/x', id: 'app' }), { code: 'OBD_DEVICE_EXISTS' });
  await frontEnd.close();
});

test('a device that fails to open is listed with its reason until it is dismissed or tried again', async () => {
  let broken = true;
  const { table, frontEnd } = makeTable(async (path, signal) => {
    if (broken) throw new DeviceError('OBD_DEVICE_KERNEL', 'No luck', { hint: 'Try again' });
    return load(path, signal);
  });
  await assert.rejects(table.attach({ config: '/x/a.json' }), { message: 'No luck' });
  const [failed, ...more] = table.list();
  assert.deepEqual(more, []);
  assert.equal(failed?.state, 'failed');
  assert.deepEqual(failed.reason, { code: 'OBD_DEVICE_KERNEL', message: 'No luck', hint: 'Try again' });
  assert.equal(table.idle, true);
  await table.detach('a');
  assert.deepEqual(table.list(), []);
  await assert.rejects(table.attach({ config: '/x/a.json', id: 'b' }));
  broken = false;
  assert.equal((await table.attach({ config: '/x/a.json', id: 'b' })).state, 'ready');
  assert.equal(table.list().length, 1);
  await frontEnd.close();
});

test('failures are kept in bounded number', async () => {
  const { table } = makeTable(() => Promise.reject(new Error('no')));
  for (let i = 0; i < 100; i++)
    await table.attach({ config: `/x/${i}.json`, id: `d${i}` }).catch(() => undefined);
  const ids = table.list().map(({ id }) => id);
  assert.equal(ids.length, 64);
  assert.ok(ids.includes('d99') && !ids.includes('d35'));
});

test('a device is "opening" while its image opens, cannot be detached, and its name is taken', async () => {
  let go: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => (go = resolve));
  const { table, frontEnd } = makeTable(async (path, signal) => {
    await gate;
    return load(path, signal);
  });
  const attaching = table.attach({ config: '/x/slow.json' });
  assert.equal(table.get('slow').state, 'opening');
  assert.equal(table.idle, false);
  await assert.rejects(table.detach('slow'), { code: 'OBD_DEVICE_BUSY' });
  await assert.rejects(table.attach({ config: '/y', id: 'slow' }), { code: 'OBD_DEVICE_EXISTS' });
  go();
  assert.equal((await attaching).state, 'ready');
  await frontEnd.close();
});

test('what a request made is released after a failure, and after a detach', async () => {
  const { table } = makeTable();
  const released: string[] = [];
  const release = async (id: string) => {
    released.push(id);
  };
  const config = () => Promise.reject(new Error('no such image'));
  await assert.rejects(table.attach({ config, id: 'a', release }), { message: 'no such image' });
  assert.deepEqual(released, ['a']);
  await table.attach({ config: async (id) => `/made/for/${id}`, id: 'b', release });
  assert.equal(table.get('b').configPath, '/made/for/b');
  assert.deepEqual(released, ['a']);
  await table.detach('b');
  assert.deepEqual(released, ['a', 'b']);
});

test('a transport that this machine lacks is refused with its reason', async () => {
  const { table } = makeTable();
  await assert.rejects(table.attach({ config: '/x', transport: 'tcmu' }), {
    code: 'OBD_DEVICE_UNSUPPORTED',
    message: /not in this test/,
  });
  assert.deepEqual(table.list(), []);
});

test('Openings writes "success" to the result file', async (t) => {
  const { config, result } = withResultFile(t);
  const { openings } = makeTable();
  const device = await openings.open(config);
  assert.equal(readFileSync(result, 'utf8'), 'success');
  assert.equal(openings.of(device)?.configPath, config);
  await device.close();
});

test('Openings writes why an image did not open before the front end hears of it', async (t) => {
  const { config, result } = withResultFile(t);
  writeFileSync(result, 'an older and much longer text that must not shine through');
  const { openings } = makeTable(() => Promise.reject(new Error('it is broken')));
  await assert.rejects(openings.open(config), { message: 'it is broken' });
  assert.equal(readFileSync(result, 'utf8'), 'failed:failed to create overlaybd device: it is broken');
});

test('Openings opens at most 32 images at once, and rejects the rest when it is closed', async () => {
  let now = 0;
  let most = 0;
  const { openings } = makeTable(
    (_, signal) =>
      new Promise((_resolve, reject) => {
        most = Math.max(most, ++now);
        signal.addEventListener('abort', () => {
          now--;
          reject(new Error('stopped'));
        });
      }),
  );
  const all = Promise.allSettled(Array.from({ length: 100 }, (_, i) => openings.open(`/x/${i}`)));
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(most, 32);
  assert.equal(openings.running().length, 100);
  openings.close();
  assert.ok((await all).every(({ status }) => status === 'rejected'));
  assert.equal(most, 32);
});
