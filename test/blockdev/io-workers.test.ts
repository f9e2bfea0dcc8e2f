import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import {
  CRC_CHECKED,
  FormatError,
  MemoryBlob,
  ReadCodec,
  RegistryError,
  WritableMemoryBlob,
  type ReadableBlob,
} from '../../src/blob/index.js';
import { BlockDevice, IoWorkers, MemoryFrontEnd } from '../../src/blockdev/index.js';
import { silentLogger } from '../../src/log/index.js';
import { Codec, compress, compressBound, crc32c } from '../../src/native/index.js';
import { pattern } from '../conformance/block-device.js';
import { packTable, type StoredBlock } from '../support/table-planner.js';

const BLOCK = 4096;
const BLOCKS = 256;
const SIZE = BLOCK * BLOCKS;
const plannerModule = new URL('../support/table-planner.js', import.meta.url).href;
const workers = new IoWorkers({ logger: silentLogger, count: 2, plannerModule });
const dir = mkdtempSync(join(tmpdir(), 'io-workers-'));
const file = join(dir, 'blocks');
let fd = -1;

/** Blocks of every codec in turn, with a gap in the file after every 50. */
const plain = pattern(0, SIZE);
const stored: StoredBlock[] = [];

before(() => {
  const parts: Uint8Array[] = [];
  let at = 0;
  const put = (bytes: Uint8Array): number => {
    parts.push(bytes);
    at += bytes.byteLength;
    return at - bytes.byteLength;
  };
  for (let i = 0; i < BLOCKS; i++) {
    const bytes = plain.subarray(i * BLOCK, (i + 1) * BLOCK);
    const kind = Math.floor(i / 8) % 5; // runs of one kind, so that runs are merged
    if (i % 50 === 49) put(new Uint8Array(100));
    if (kind === 0) {
      stored.push({ offset: put(bytes), stored: BLOCK, codec: ReadCodec.RAW });
    } else if (kind === 1 && i % 2 === 0) {
      bytes.fill(0);
      stored.push({ offset: 0, stored: 0, codec: ReadCodec.ZERO });
    } else {
      const codec = kind === 2 ? Codec.ZSTD : Codec.LZ4;
      const packed = new Uint8Array(compressBound(codec, BLOCK) + 4);
      const n = compress(codec, bytes, packed);
      if (kind === 3) {
        stored.push({ offset: put(packed.slice(0, n)), stored: n, codec });
        continue;
      }
      new DataView(packed.buffer).setUint32(n, crc32c(packed.subarray(0, n), 100007), true);
      stored.push({ offset: put(packed.slice(0, n + 4)), stored: n + 4, codec: codec | CRC_CHECKED });
    }
  }
  writeFileSync(file, Buffer.concat(parts), { flush: true });
  fd = openSync(file, 'r');
});
after(async () => {
  await workers.close();
  closeSync(fd);
  rmSync(dir, { recursive: true });
});

/** Says which reads came the general way. */
class Recorder extends MemoryBlob {
  readonly asked: [number, number][] = [];
  override async read(offset: number, into: Uint8Array): Promise<void> {
    this.asked.push([offset, into.byteLength]);
    await super.read(offset, into);
  }
}

async function attach(blob: ReadableBlob, blocks: Float64Array | undefined, readDeadlineMs = 0) {
  const planner = blocks && { fd, blockSize: BLOCK, blocks };
  const device = new BlockDevice(blob, { planner, policy: { deadlineMs: readDeadlineMs, then: 'error' } });
  const frontEnd = new MemoryFrontEnd(() => Promise.resolve(device), workers);
  return frontEnd.attach({ configPath: '/image', id: '1' });
}

async function readAll(client: Awaited<ReturnType<typeof attach>>['client']): Promise<void> {
  for (const [unit, shift] of [
    [512, 0],
    [BLOCK, 0],
    [3 * BLOCK, 1536],
    [64 * 1024, 512],
    [SIZE, 0],
  ] as const)
    await Promise.all(
      Array.from({ length: Math.min(Math.floor((SIZE - shift) / unit), 400) }, async (_, i) => {
        const offset = shift + i * unit;
        const { status, data } = await client.read(offset, unit);
        assert.equal(status, 0);
        assert.ok(Buffer.compare(data, plain.subarray(offset, offset + unit)) === 0, `[${offset}, +${unit})`);
      }),
    );
}

test('IoWorkers read local blocks of every codec without asking the image', async () => {
  const blob = new Recorder(plain);
  const attachment = await attach(blob, packTable(stored));
  await readAll(attachment.client);
  const { reads, localReads } = attachment.served.counters;
  assert.ok(reads > 500);
  assert.equal(localReads, reads);
  assert.deepEqual(blob.asked, []);
  assert.equal(attachment.client.violations(), 0);
  await attachment.detach();
});

test('IoWorkers read what is not in the page cache on the native pool', async () => {
  const blob = new Recorder(plain);
  const attachment = await attach(blob, packTable(stored));
  for (let round = 0; round < 3; round++) {
    // posix_fadvise(DONTNEED): the next reads find nothing cached.
    execFileSync('dd', [`of=${file}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0', 'status=none']);
    await readAll(attachment.client);
  }
  assert.deepEqual(blob.asked, []);
  await attachment.detach();
});

test('IoWorkers ask the image where a stored block is bad, and only there', async () => {
  const blob = new Recorder(plain);
  const blocks = packTable(stored);
  const bad = 33; // a checked LZ4 block
  assert.equal(stored[bad]?.codec, ReadCodec.LZ4 | CRC_CHECKED);
  blocks[bad * 4] = (blocks[bad * 4] ?? 0) + 1; // one byte off: the checksum cannot match
  const attachment = await attach(blob, blocks);
  await readAll(attachment.client);
  assert.ok(blob.asked.length > 0);
  for (const [offset, length] of blob.asked)
    assert.ok(offset < (bad + 1) * BLOCK && offset + length > bad * BLOCK, `[${offset}, +${length})`);
  await attachment.detach();
});

test('IoWorkers ask the image where a stored block ends with the file, unpacks too short, or does not unpack', async () => {
  for (const change of [
    (b: Float64Array) => {
      b.set([2 ** 40, 300, ReadCodec.LZ4, 1], 0);
    },
    (b: Float64Array) => {
      b.set(
        b.subarray(24 * 4, 24 * 4 + 4).map((v, i) => (i === 1 ? v - 7 : v)),
        0,
      );
    },
    (b: Float64Array) => {
      b.set([0, 64, ReadCodec.ZSTD, 1], 0);
    },
    (b: Float64Array) => {
      b.set([0, 4096, 99, 1], 0);
    }, // no such codec: the plan is refused
    (b: Float64Array) => {
      b.set([-5, 4096, ReadCodec.LZ4, 1], 0);
    },
    (b: Float64Array) => {
      b.set([Number.NaN, 4096, ReadCodec.LZ4, 1], 0);
    },
  ]) {
    const blob = new Recorder(plain);
    const blocks = packTable(stored);
    change(blocks);
    const attachment = await attach(blob, blocks);
    const { status, data } = await attachment.client.read(0, BLOCK);
    assert.equal(status, 0);
    assert.ok(Buffer.compare(data, plain.subarray(0, BLOCK)) === 0);
    assert.equal(blob.asked.length, 1);
    await attachment.detach();
  }
});

test('a descriptor that names another file later does not give the bytes of the one before', async () => {
  const one = new IoWorkers({ logger: silentLogger, count: 1, plannerModule });
  const length = 32 * BLOCK;
  let before = '';
  try {
    for (const fill of [1, 2]) {
      const bytes = new Uint8Array(length).map((_, i) => (i % 7) + fill);
      const packed = new Uint8Array(compressBound(Codec.LZ4, length) + 4);
      const n = compress(Codec.LZ4, bytes, packed);
      new DataView(packed.buffer).setUint32(n, crc32c(packed.subarray(0, n), 100007), true);
      const path = join(dir, `file-${fill}`);
      writeFileSync(path, packed.subarray(0, n + 4));
      const opened = openSync(path, 'r');
      assert.ok(before === '' || before === `${opened} ${n}`, 'number and length are the same again');
      before = `${opened} ${n}`;
      const blocks = packTable([{ offset: 0, stored: n + 4, codec: Codec.LZ4 | CRC_CHECKED }]);
      const planner = { fd: opened, blockSize: length, blocks };
      const blob = new Recorder(bytes);
      const frontEnd = new MemoryFrontEnd(() => Promise.resolve(new BlockDevice(blob, { planner })), one);
      const attachment = await frontEnd.attach({ configPath: '/image', id: '1' });
      try {
        for (const offset of [512, 65536, 0, 512, 30 * BLOCK]) {
          const { status, data } = await attachment.client.read(offset, 1536);
          assert.equal(status, 0);
          assert.deepEqual(
            data,
            Buffer.from(bytes.subarray(offset, offset + 1536)),
            `file ${fill}, ${offset}`,
          );
        }
        assert.deepEqual(blob.asked, []);
      } finally {
        await attachment.detach();
        closeSync(opened);
      }
    }
  } finally {
    await one.close();
  }
});

test('IoWorkers.quiesce() comes after the reads planned before it', async () => {
  const attachment = await attach(new Recorder(plain), packTable(stored));
  const order: string[] = [];
  const reads = Array.from({ length: 200 }, (_, i) =>
    attachment.client.read((i % BLOCKS) * BLOCK, BLOCK).then(() => order.push('read')),
  );
  await Promise.all([...reads, workers.quiesce(), workers.quiesce()]);
  await workers.quiesce();
  assert.equal(order.length, 200);
  await attachment.detach();
});

test('a read whose failure may pass is repeated; damage is an error at once', async () => {
  let failures = 3;
  class Flaky extends MemoryBlob {
    override async read(offset: number, into: Uint8Array): Promise<void> {
      if (offset >= 8192) throw new FormatError('OBD_FORMAT_CHECKSUM', 'Bad block');
      if (failures-- > 0) throw new RegistryError('OBD_REGISTRY_SERVER', 'Status 503');
      await super.read(offset, into);
    }
  }
  const attachment = await attach(new Flaky(plain), undefined, 60_000);
  const good = await attachment.client.read(0, 4096);
  assert.equal(good.status, 0);
  assert.ok(failures < 0);
  const bad = await attachment.client.read(8192, 4096);
  assert.equal(bad.status, -5);
  const { health } = attachment.served;
  assert.deepEqual([health.errors, health.retrying, health.lastError], [1, 0, 'Bad block']);
  await attachment.detach();
});

test('a read that fails for ever is an error after the deadline, and detaching does not wait for it', async () => {
  class Dead extends MemoryBlob {
    override read(): Promise<void> {
      return Promise.reject(new RegistryError('OBD_REGISTRY_CONNECTION', 'No route'));
    }
  }
  const short = await attach(new Dead(plain), undefined, 50);
  assert.equal((await short.client.read(0, 512)).status, -5);
  await short.detach();
  const long = await attach(new Dead(plain), undefined, 600_000);
  const read = long.client.read(0, 512);
  while (long.served.health.retrying === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await long.detach();
  assert.equal((await read).status, -5);
});

test('a flush ends after the writes before it', async () => {
  const order: string[] = [];
  class Slow extends WritableMemoryBlob {
    override async write(offset: number, from: Uint8Array): Promise<void> {
      await new Promise((resolve) => setTimeout(resolve, 30));
      await super.write(offset, from);
      order.push('write');
    }
    override async flush(): Promise<void> {
      order.push('flush');
    }
  }
  const attachment = await attach(new Slow(new Uint8Array(SIZE)), undefined);
  const { client } = attachment;
  const data = pattern(0, 4096);
  await Promise.all([client.write(0, data), client.write(4096, data), client.flush()]);
  assert.deepEqual(order, ['write', 'write', 'flush']);
  await attachment.detach();
});

test('a process ends while its workers wait', () => {
  const index = new URL('../../src/blockdev/index.js', import.meta.url).href;
  const log = new URL('../../src/log/index.js', import.meta.url).href;
  for (const end of ['process.exit(7)', 'throw new Error("x")', 'await w.close(); process.exitCode = 7']) {
    const script = `
      const { IoWorkers } = await import('${index}');
      const { silentLogger } = await import('${log}');
      const w = new IoWorkers({ logger: silentLogger, count: 2 });
      await w.quiesce();
      ${end}`;
    const run = spawnSync(process.execPath, ['--input-type=module', '-e', script], { timeout: 10_000 });
    assert.equal(run.status, end.startsWith('throw') ? 1 : 7, `${end}: ${run.stderr.toString()}`);
  }
});

test('the death of a worker is fatal and told', async () => {
  const fatal = await new Promise<Error>((resolve) => {
    const broken = new IoWorkers({
      logger: silentLogger,
      count: 1,
      plannerModule: 'file:///does-not-exist.js',
      onFatal: resolve,
    });
    void broken.quiesce().catch(() => undefined);
  });
  assert.match(fatal.message, /I\/O worker ended.*does-not-exist/s);
});
