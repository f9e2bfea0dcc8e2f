import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { MemoryBlob, WritableMemoryBlob, type Extent } from '../../src/blob/index.js';
import { BlockDevice, NbdFrontEnd, NbdServer, type DeviceMeter } from '../../src/blockdev/index.js';
import { silentLogger } from '../../src/log/index.js';
import { missing } from '../support/commands.js';

const run = promisify(execFile);
const noClients = missing({
  nbdinfo: 'libnbd-bin',
  nbdcopy: 'libnbd-bin',
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
});

/** Every second MiB is a hole. */
class HoleyBlob extends WritableMemoryBlob {
  *extents(offset: number, length: number): Generator<Extent> {
    for (let at = offset; at < offset + length;) {
      const end = Math.min((Math.floor(at / 2 ** 20) + 1) * 2 ** 20, offset + length);
      yield { offset: at, length: end - at, data: Math.floor(at / 2 ** 20) % 2 === 0 };
      at = end;
    }
  }
}

async function serve(t: TestContext, bytes: Uint8Array, writable: boolean): Promise<NbdServer> {
  const dir = mkdtempSync(join(tmpdir(), 'nbd-'));
  const device = new BlockDevice(writable ? new HoleyBlob(bytes) : new MemoryBlob(bytes));
  const server = await NbdServer.listen(device, join(dir, 's'), silentLogger);
  t.after(async () => {
    await server.close();
    assert.deepEqual(readdirSync(dir), [], 'the socket is gone');
    rmSync(dir, { recursive: true });
  });
  return server;
}

const uri = (server: NbdServer): string => `nbd+unix:///?socket=${server.socketPath}`;

function holeyBytes(): Uint8Array {
  const bytes = randomBytes(5 * 2 ** 20 + 512 * 3);
  for (const mib of [1, 3]) bytes.fill(0, mib * 2 ** 20, (mib + 1) * 2 ** 20);
  return bytes;
}

test('nbdinfo sees size, flags and holes', { skip: noClients }, async (t) => {
  const server = await serve(t, holeyBytes(), true);
  assert.equal(statSync(server.socketPath).mode & 0o777, 0o600);
  const info = JSON.parse((await run('nbdinfo', ['--json', uri(server)])).stdout) as {
    exports: Record<string, unknown>[];
    structured: boolean;
  };
  assert.equal(info.structured, true);
  const { 'export-size': size, is_read_only, can_trim, can_multi_conn, can_fua } = info.exports[0] ?? {};
  assert.deepEqual(
    [size, is_read_only, can_trim, can_multi_conn, can_fua],
    [5 * 2 ** 20 + 1536, false, true, true, true],
  );
  const map = JSON.parse((await run('nbdinfo', ['--map', '--json', uri(server)])).stdout) as {
    offset: number;
    length: number;
    type: number;
  }[];
  assert.deepEqual(
    map.map((e) => [e.offset / 2 ** 20, e.type]),
    [
      [0, 0],
      [1, 3],
      [2, 0],
      [3, 3],
      [4, 0],
      [5, 3],
    ],
  );
});

test('nbdcopy reads every byte over four connections', { skip: noClients }, async (t) => {
  const bytes = holeyBytes();
  const server = await serve(t, bytes, false);
  const out = join(mkdtempSync(join(tmpdir(), 'nbd-')), 'out');
  t.after(() => {
    rmSync(join(out, '..'), { recursive: true });
  });
  await run('nbdcopy', ['--connections=4', uri(server), out]);
  assert.ok(readFileSync(out).equals(bytes));
});

test('nbdcopy writes every byte, and qemu-img finds no difference', { skip: noClients }, async (t) => {
  const bytes = holeyBytes();
  const server = await serve(t, new Uint8Array(bytes.length), true);
  const dir = mkdtempSync(join(tmpdir(), 'nbd-'));
  t.after(() => {
    rmSync(dir, { recursive: true });
  });
  writeFileSync(join(dir, 'in'), bytes);
  await run('nbdcopy', ['--flush', join(dir, 'in'), uri(server)]);
  await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', join(dir, 'in'), uri(server)]);
});

test('qemu-io writes, zeroes, discards and verifies', { skip: noClients }, async (t) => {
  const server = await serve(t, new Uint8Array(4 << 20), true);
  const { stdout } = await run('qemu-io', [
    '-f',
    'raw',
    ...[
      'write -P 7 64k 128k',
      'write -z 96k 4k',
      'discard 128k 4k',
      'write -f -P 9 1M 512',
      'flush',
      'read -P 7 64k 32k',
      'read -P 0 96k 4k',
      'read -P 0 128k 4k',
      'read -P 7 132k 4k',
      'read -P 9 1M 512',
    ].flatMap((c) => ['-c', c]),
    uri(server),
  ]);
  assert.doesNotMatch(stdout, /verification failed|error/i);
});

test('a read-only device refuses writes and goes on', { skip: noClients }, async (t) => {
  const server = await serve(t, randomBytes(8192), false);
  await assert.rejects(run('qemu-io', ['-f', 'raw', '-c', 'write 0 512', uri(server)]));
  const { stdout } = await run('nbdinfo', ['--json', uri(server)]);
  assert.match(stdout, /"is_read_only": true/);
});

/** Speaks raw bytes; resolves with all that came back when the server hangs up. */
function talk(server: NbdServer, ...parts: Buffer[]): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const got: Buffer[] = [];
    const socket = connect(server.socketPath, () => socket.end(Buffer.concat(parts)));
    socket
      .on('data', (data: Buffer) => got.push(data))
      .on('close', () => {
        resolve(Buffer.concat(got));
      })
      .on('error', reject);
  });
}

const flags = Buffer.from([0, 0, 0, 3]);
function option(id: number, data = Buffer.alloc(0), length = data.length): Buffer {
  const header = Buffer.alloc(16);
  header.write('IHAVEOPT', 0);
  header.writeUInt32BE(id, 8);
  header.writeUInt32BE(length, 12);
  return Buffer.concat([header, data]);
}
function request(command: number, offset: bigint, length: number, magic = 0x25609513): Buffer {
  const header = Buffer.alloc(28);
  header.writeUInt32BE(magic, 0);
  header.writeUInt16BE(command, 6);
  header.writeBigUInt64BE(77n, 8);
  header.writeBigUInt64BE(offset, 16);
  header.writeUInt32BE(length, 24);
  return header;
}
const start = Buffer.concat([flags, option(1)]); // EXPORT_NAME "": 18 bytes of greeting, 10 of export come back

test('a client that breaks the protocol is cut off, and the next is served', async (t) => {
  const server = await serve(t, randomBytes(8192), true);
  const cases: [string, Buffer[], number][] = [
    ['nothing', [], 18],
    ['flags of no version', [Buffer.from([0, 0, 0, 0])], 18],
    ['an option without magic', [flags, Buffer.alloc(16)], 18],
    ['an option of 4 GiB', [flags, option(7, Buffer.alloc(0), 0xffffffff)], 18],
    ['half an option', [flags, option(7).subarray(0, 9)], 18],
    ['a request without magic', [start, request(0, 0n, 512, 1)], 28],
    ['a write of 4 GiB', [start, request(1, 0n, 0xffffffff)], 28],
    ['half a write', [start, request(1, 0n, 512), Buffer.alloc(100)], 28],
  ];
  for (const [what, parts, length] of cases)
    assert.equal((await talk(server, ...parts)).length, length, what);
  assert.equal((await talk(server, start, request(0, 0n, 512))).length, 28 + 16 + 512);
});

test('requests outside the device get EINVAL and too large reads EOVERFLOW', async (t) => {
  const server = await serve(t, randomBytes(8192), true);
  for (const [command, offset, length, error] of [
    [0, 8192n, 512, 22],
    [0, 2n ** 64n - 512n, 1024, 22],
    [0, 0n, 0x7fffffff, 75],
    [4, 0n, 100, 22],
    [7, 0n, 512, 22],
    [99, 0n, 0, 22],
  ] as const) {
    const reply = await talk(server, start, request(command, offset, length));
    assert.deepEqual(
      [reply.length, reply.readUInt32BE(28), reply.readUInt32BE(32), reply.readBigUInt64BE(36)],
      [44, 0x67446698, error, 77n],
    );
  }
});

test('a command with flags that are not its own gets EINVAL, and the connection goes on', async (t) => {
  const server = await serve(t, randomBytes(8192), true);
  const flagged = (command: number, bits: number, length: number): Buffer => {
    const bytes = request(command, 0n, length);
    bytes.writeUInt16BE(bits, 4);
    return bytes;
  };
  const commands = [
    flagged(0, 2, 512),
    flagged(6, 16, 512),
    flagged(3, 8, 0),
    flagged(6, 3, 512),
    flagged(4, 1, 512),
  ];
  const reply = await talk(server, start, ...commands);
  const errors = commands.map((_, i) => reply.readUInt32BE(28 + 16 * i + 4));
  assert.deepEqual([reply.length, errors.sort()], [28 + 16 * 5, [0, 0, 22, 22, 22]]);
});

test('a flush speaks for what every connection has written', async (t) => {
  const bytes = new Uint8Array(1 << 20);
  let unflushed = 0;
  class Flushing extends WritableMemoryBlob {
    override async write(offset: number, from: Uint8Array): Promise<void> {
      await super.write(offset, from);
      unflushed++;
    }
    override async flush(): Promise<void> {
      unflushed = 0;
    }
  }
  const dir = mkdtempSync(join(tmpdir(), 'nbd-'));
  t.after(() => {
    rmSync(dir, { recursive: true });
  });
  const server = await NbdServer.listen(new BlockDevice(new Flushing(bytes)), join(dir, 's'), silentLogger);
  t.after(() => server.close());
  const payload = Buffer.alloc(512, 7);
  await talk(server, start, request(1, 4096n, 512), payload);
  await talk(server, start, request(1, 8192n, 512), payload);
  assert.equal(unflushed, 2);
  await talk(server, start, request(3, 0n, 0));
  assert.equal(unflushed, 0);
  const read = await talk(server, start, request(0, 4096n, 512));
  assert.ok(read.subarray(44).equals(payload));
});

test('connections beyond the bound are turned away, and those before them are served', async (t) => {
  const server = await serve(t, randomBytes(8192), true);
  const idle = Array.from({ length: 64 }, () => connect(server.socketPath));
  t.after(() => {
    for (const socket of idle) socket.destroy();
  });
  await Promise.all(idle.map((socket) => new Promise((resolve) => socket.once('data', resolve))));
  assert.equal(server.connections, 64);
  let heard = 0;
  const turnedAway = connect(server.socketPath).on('data', (data: Buffer) => (heard += data.length));
  await new Promise((resolve) => turnedAway.once('close', resolve));
  assert.equal(heard, 0);
  const [first] = idle;
  const answer = new Promise<Buffer>((resolve) => first?.once('data', resolve));
  first?.write(start);
  assert.equal((await answer).length, 10);
});

test('a client that takes no replies is read from no more, and does not keep the server from closing', async (t) => {
  const server = await serve(t, randomBytes(4 << 20), true);
  const deaf = connect(server.socketPath).on('error', () => undefined); // cut off at the end
  deaf.pause();
  deaf.write(start);
  const reads = Buffer.concat(Array.from({ length: 1000 }, () => request(0, 0n, 4 << 20)));
  for (let i = 0; i < 400; i++) deaf.write(reads);
  await talk(server, start, request(0, 0n, 512));
  for (let i = 0; i < 50 && deaf.writableLength === 0; i++) await talk(server, start, request(0, 0n, 512));
  assert.ok(deaf.writableLength > 0, 'the server has stopped reading');
  assert.ok(process.memoryUsage().rss < 2 ** 30);
  await server.close();
  deaf.destroy();
});

test('unknown and malformed options are answered, and the handshake goes on', async (t) => {
  const server = await serve(t, randomBytes(8192), true);
  const junk = Buffer.from([0, 0, 0, 9, 1]);
  const reply = await talk(
    server,
    flags,
    option(42),
    option(7, junk),
    option(10, junk),
    option(8, junk),
    option(3, junk),
    option(3),
    option(10, Buffer.alloc(8)),
    option(8),
    option(10, Buffer.alloc(8)),
    option(2),
  );
  const kinds = [];
  for (let at = 18; at < reply.length; at += 20 + reply.readUInt32BE(at + 16))
    kinds.push(reply.readUInt32BE(at + 12));
  assert.deepEqual(
    kinds,
    [0x80000001, 0x80000003, 0x80000003, 0x80000003, 0x80000003, 2, 1, 0x80000003, 1, 1, 1],
  );
});

test('NbdServer.listen() replaces a dead socket and refuses a live one or a file', async (t) => {
  const server = await serve(t, randomBytes(512), false);
  const device = new BlockDevice(new MemoryBlob(new Uint8Array(512)));
  await assert.rejects(NbdServer.listen(device, server.socketPath, silentLogger), {
    code: 'OBD_DEVICE_EXISTS',
  });
  const dir = mkdtempSync(join(tmpdir(), 'nbd-'));
  t.after(() => {
    rmSync(dir, { recursive: true });
  });
  writeFileSync(join(dir, 'file'), 'precious');
  await assert.rejects(NbdServer.listen(device, join(dir, 'file'), silentLogger), {
    code: 'OBD_DEVICE_EXISTS',
  });
  assert.equal(readFileSync(join(dir, 'file'), 'utf8'), 'precious');
});

test('NbdFrontEnd attaches by name, once, and leaves nothing', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'nbd-'));
  t.after(() => {
    rmSync(dir, { recursive: true });
  });
  let open = 0;
  const served: DeviceMeter[] = [];
  const over: DeviceMeter[] = [];
  const frontEnd = new NbdFrontEnd({
    directory: dir,
    open: async () => {
      open++;
      return new BlockDevice(
        new (class extends MemoryBlob {
          override async close(): Promise<void> {
            open--;
          }
        })(new Uint8Array(512)),
      );
    },
    log: silentLogger,
    onServed: (meter) => {
      served.push(meter);
      return () => over.push(meter);
    },
  });
  const attachment = await frontEnd.attach({ id: 'a', configPath: '/c' });
  await assert.rejects(frontEnd.attach({ id: 'a', configPath: '/c' }), { code: 'OBD_DEVICE_EXISTS' });
  await assert.rejects(frontEnd.attach({ id: '../x', configPath: '/c' }), { code: 'OBD_DEVICE_UNSUPPORTED' });
  assert.deepEqual([open, readdirSync(dir)], [1, ['a.json', 'a.sock']]);
  assert.deepEqual([served, over], [[attachment.served?.meter], []]);
  await attachment.detach();
  await attachment.detach();
  assert.deepEqual([open, readdirSync(dir), frontEnd.attachments()], [0, [], []]);
  assert.deepEqual(over, served);
});
