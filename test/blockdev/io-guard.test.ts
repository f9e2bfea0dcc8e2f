import assert from 'node:assert/strict';
import test, { after, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FormatError, RegistryError, WritableMemoryBlob } from '../../src/blob/index.js';
import {
  BlockDevice,
  IoWorkers,
  MemoryFrontEnd,
  type IoPolicy,
  type MemoryAttachment,
} from '../../src/blockdev/index.js';
import { silentLogger, type Logger } from '../../src/log/index.js';

/** What a logger of the test was told at level warn. */
const said: { state: string; text: string }[] = [];
const logger: Logger = {
  ...silentLogger,
  child: () => logger,
  warn: (fields: object, text: string) => {
    said.push({ state: (fields as { state?: string }).state ?? '', text });
  },
} as unknown as Logger;
const workers = new IoWorkers({ logger, count: 1 });
after(() => workers.close());

const SIZE = 1 << 20;
const IO = -5;

/** A blob whose source can be taken away: reads then fail at once, or hang. */
class Source extends WritableMemoryBlob {
  mode: 'good' | 'failing' | 'hanging' | 'bad' = 'good';
  reads = 0;

  override async read(offset: number, into: Uint8Array): Promise<void> {
    this.reads++;
    if (this.mode === 'failing') throw new RegistryError('OBD_REGISTRY_CONNECTION', 'No route');
    if (this.mode === 'bad') throw new FormatError('OBD_FORMAT_CHECKSUM', 'Bad block');
    if (this.mode === 'hanging') await new Promise(() => undefined); // whatever the signal says
    await super.read(offset, into);
  }
}

async function attach(t: TestContext, policy: IoPolicy) {
  said.length = 0;
  const source = new Source(new Uint8Array(SIZE).fill(7));
  const frontEnd = new MemoryFrontEnd(
    () => Promise.resolve(new BlockDevice(source, { policy })),
    workers,
    logger,
  );
  const attachment = await frontEnd.attach({ configPath: '/image', id: '1' });
  t.after(() => attachment.detach());
  const state = async (wanted: string, withinMs = 5000): Promise<void> => {
    const until = performance.now() + withinMs;
    while (attachment.guard.health.state !== wanted) {
      assert.ok(performance.now() < until, `is ${attachment.guard.health.state}, expected ${wanted}`);
      await sleep(5);
    }
  };
  return { source, attachment, state };
}

function isEmpty(attachment: MemoryAttachment): void {
  const { state, since, reason, retrying } = attachment.guard.health;
  assert.deepEqual([state, since, reason, retrying], ['ready', undefined, undefined, 0]);
}

test('a device is degraded while a read is repeated, says why and since when, and is ready again by itself', async (t) => {
  const { source, attachment, state } = await attach(t, { deadlineMs: 60_000, then: 'error' });
  isEmpty(attachment);
  source.mode = 'failing';
  const before = Date.now();
  const reads = [attachment.client.read(0, 4096), attachment.client.read(8192, 4096)];
  await state('degraded');
  const { since, reason } = attachment.guard.health;
  assert.ok(since !== undefined && since.getTime() >= before - 1 && since.getTime() <= Date.now());
  assert.equal((reason as Error).message, 'No route');
  await sleep(200); // several repetitions: told once
  source.mode = 'good';
  for (const { status, data } of await Promise.all(reads)) {
    assert.equal(status, 0);
    assert.ok(data.every((byte) => byte === 7));
  }
  isEmpty(attachment);
  assert.deepEqual(
    said.map((s) => s.state),
    ['degraded', 'ready'],
  );
});

test('after the deadline of "error" reads fail, later ones soon, and the device recovers though nobody reads', async (t) => {
  const { source, attachment, state } = await attach(t, { deadlineMs: 300, then: 'error' });
  source.mode = 'failing';
  const started = performance.now();
  assert.equal((await attachment.client.read(0, 4096)).status, IO);
  const took = performance.now() - started;
  assert.ok(took >= 290 && took < 2000, `${took} ms`);
  assert.equal(attachment.guard.health.state, 'blocked');
  const again = performance.now();
  assert.equal((await attachment.client.read(4096, 4096)).status, IO);
  assert.ok(performance.now() - again < 2000);
  assert.equal(attachment.guard.health.errors, 2);
  source.mode = 'good';
  // Before the device knows it: what can be had is had.
  assert.equal((await attachment.client.read(65536, 4096)).status, 0);
  await state('ready');
  assert.deepEqual(
    said.map((s) => s.state),
    ['degraded', 'blocked', 'ready'],
  );
});

test('"hold" waits past the deadline, and ends with the cause', async (t) => {
  const { source, attachment, state } = await attach(t, { deadlineMs: 100, then: 'hold' });
  source.mode = 'failing';
  let ended = false;
  const read = attachment.client.read(0, 4096).finally(() => (ended = true));
  await state('blocked');
  await sleep(500);
  assert.equal(ended, false);
  source.mode = 'good';
  assert.equal((await read).status, 0);
  await state('ready');
});

test('abort() fails what waits, in "hold" too, and what comes, until the cause ends', async (t) => {
  const { source, attachment, state } = await attach(t, { deadlineMs: 50, then: 'hold' });
  source.mode = 'failing';
  const reads = [0, 4096, 8192].map((offset) => attachment.client.read(offset, 4096));
  await state('blocked');
  const started = performance.now();
  assert.equal(attachment.guard.abort(), 3);
  assert.deepEqual(
    (await Promise.all(reads)).map(({ status }) => status),
    [IO, IO, IO],
  );
  assert.ok(performance.now() - started < 1000);
  assert.equal((await attachment.client.read(0, 4096)).status, IO, 'no new command may hang');
  assert.match((attachment.guard.health.reason as Error).message, /No route/);
  source.mode = 'good';
  await state('ready');
  assert.equal((await attachment.client.read(0, 4096)).status, 0);
});

test('abort() ends reads whose source hangs and heeds nothing; without I/O it does nothing', async (t) => {
  const { source, attachment, state } = await attach(t, { deadlineMs: 60_000, then: 'error' });
  assert.equal(attachment.guard.abort(), 0);
  isEmpty(attachment);
  source.mode = 'hanging';
  const read = attachment.client.read(0, 4096);
  while (source.reads === 0) await sleep(5);
  assert.equal(attachment.guard.abort(), 1);
  assert.equal((await read).status, IO);
  assert.equal(attachment.guard.health.state, 'blocked');
  source.mode = 'good';
  await state('ready', 40_000);
});

test('damage does not degrade a device, and writes do not wait for what reads wait for', async (t) => {
  const { source, attachment, state } = await attach(t, { deadlineMs: 60_000, then: 'error' });
  source.mode = 'bad';
  assert.equal((await attachment.client.read(0, 4096)).status, IO);
  isEmpty(attachment);
  source.mode = 'failing';
  const read = attachment.client.read(0, 4096);
  await state('degraded');
  assert.equal((await attachment.client.write(0, new Uint8Array(4096).fill(9))).status, 0);
  assert.equal((await attachment.client.flush()).status, 0);
  source.mode = 'good';
  assert.ok((await read).data.every((byte) => byte === 9));
});

test('a deadline of 0 repeats nothing', async (t) => {
  const { source, attachment } = await attach(t, { deadlineMs: 0, then: 'error' });
  source.mode = 'failing';
  assert.equal((await attachment.client.read(0, 4096)).status, IO);
  assert.equal(source.reads, 1);
});
