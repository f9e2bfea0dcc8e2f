import assert from 'node:assert/strict';
import { createServer, connect } from 'node:net';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { DeviceError, MemoryBlob, RegistryError } from '../../src/blob/index.js';
import { ReadRecord } from '../../src/blockdev/index.js';
import { FetchRecord } from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import {
  AdminClient,
  AdminServer,
  NoServiceError,
  activityOf,
  packMap,
  takeRunLock,
  unpackMap,
  type AdminHandlers,
  type AttachBody,
  type DeviceInfo,
} from '../../src/service/index.js';
import { tempDir } from '../support/unpack.js';

const device: DeviceInfo = {
  id: 'a',
  state: 'ready',
  transport: 'fuse',
  configPath: '/x',
  devicePath: '/dev/loop7',
  since: new Date(0).toISOString(),
  reads: 1,
  bytesRead: 2,
  bytesFetched: 3,
  remoteBytes: 4,
  presentBytes: 5,
  errors: 0,
};

async function serve(t: TestContext, some: Partial<AdminHandlers> = {}) {
  const path = join(tempDir(t), 'sock');
  const server = await AdminServer.listen(
    path,
    {
      info: () => ({
        version: '1.2.3',
        api: 1,
        pid: 42,
        configPath: '/c',
        since: new Date(0).toISOString(),
        ephemeral: false,
        transports: ['fuse'],
      }),
      attach: async () => device,
      detach: async () => device,
      abort: async () => ({ aborted: 3, device }),
      get: () => device,
      list: () => [device],
      activity: () => activityOf(device, undefined, undefined),
      snapshot: async () => Promise.reject(new TypeError('Not asked for')),
      traffic: () => ({ atMs: 0, devices: [] }),
      metrics: () => 'a 1\n',
      ...some,
    },
    silentLogger,
  );
  t.after(() => server.close());
  return { path, server, client: new AdminClient(path) };
}

/** One request, byte for byte; the whole answer. */
function raw(path: string, request: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = '';
    const socket = connect(path, () => socket.write(request));
    socket.setEncoding('utf8').on('data', (text: string) => (answer += text));
    socket.on('end', () => {
      resolve(answer);
    });
    socket.on('error', reject);
  });
}

test('the admin API answers its client', async (t) => {
  const asked: unknown[] = [];
  const { client, path } = await serve(t, {
    attach: async (body) => {
      asked.push(body);
      return device;
    },
    detach: async (key) => {
      asked.push(key);
      return device;
    },
  });
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.equal((await client.info()).pid, 42);
  assert.deepEqual(await client.list(), [device]);
  assert.deepEqual(await client.get('a'), device);
  const body: AttachBody = { configPath: '/x/config.v1.json', id: 'a', transport: 'fuse' };
  assert.deepEqual(await client.attach(body), device);
  assert.deepEqual(await client.detach('/dev/loop7'), device);
  assert.deepEqual(await client.abort('/dev/loop7'), { aborted: 3, device });
  assert.deepEqual(asked, [body, '/dev/loop7']);
});

test('an error crosses the admin API with code, message, hint and causes', async (t) => {
  const { client } = await serve(t, {
    attach: () =>
      Promise.reject(
        new DeviceError('OBD_DEVICE_KERNEL', 'Cannot do it', {
          hint: 'Try harder',
          cause: new RegistryError('OBD_REGISTRY_AUTH', 'Not allowed', { cause: new Error('401') }),
        }),
      ),
    detach: () => Promise.reject(new TypeError('a bug')),
  });
  await assert.rejects(client.attach({ configPath: '/x' }), (error: DeviceError) => {
    assert.equal(error.code, 'OBD_DEVICE_KERNEL');
    assert.equal(error.message, 'Cannot do it');
    assert.equal(error.hint, 'Try harder');
    assert.equal((error.cause as Error).message, 'Not allowed');
    assert.equal(((error.cause as Error).cause as Error).message, '401');
    return true;
  });
  await assert.rejects(client.detach('a'), { message: 'a bug' });
});

test('the admin API refuses requests that it cannot use, and goes on', async (t) => {
  const { path, client } = await serve(t, {
    attach: () => {
      throw new Error('must not be called');
    },
  });
  const post = (body: string) =>
    raw(
      path,
      `POST /v1/devices HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
  for (const [body, status] of [
    ['{', 400],
    ['{}', 400],
    ['[]', 400],
    ['{"configPath":"relative"}', 400],
    ['{"configPath":"/x","image":"docker://h/x"}', 400],
    ['{"configPath":"/x","id":"no/slash"}', 400],
    ['{"configPath":"/x","transport":"carrier pigeon"}', 400],
    ['{"configPath":"/x","unknown":1}', 400],
    [JSON.stringify({ configPath: '/x'.repeat(40_000) }), 400],
  ] as const) {
    const answer = await post(body);
    assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `), body.slice(0, 60));
    assert.match(answer, /"code":"OBD_CONFIG_/, body.slice(0, 60));
  }
  for (const line of [
    'GET /',
    'GET /v2/devices',
    'PUT /v1/devices',
    'GET /v1/devices/a/b',
    'GET /v1/nothing',
  ])
    assert.match(
      await raw(path, `${line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`),
      /^HTTP\/1.1 404 /,
      line,
    );
  assert.match(
    await raw(path, 'GET /v1/devices/%zz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n'),
    /^HTTP\/1.1 400 /,
  );
  assert.match(
    await raw(path, 'GET /v1/metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n'),
    /text\/plain; version=0.0.4[^]*\r\n\r\na 1\n$/,
  );
  assert.equal((await client.list()).length, 1);
});

test('a client that asks nobody, or somebody else, is told so', async (t) => {
  const dir = tempDir(t);
  await assert.rejects(new AdminClient(join(dir, 'none')).list(), NoServiceError);
  const other = createServer((socket) => socket.end('SSH-2.0\r\n')).listen(join(dir, 'other'));
  t.after(() => other.close());
  await assert.rejects(new AdminClient(join(dir, 'other')).list(), { code: 'OBD_IO_FAILED' });
});

test('AdminServer.close() removes the socket', async (t) => {
  const { path, server } = await serve(t);
  await server.close();
  assert.equal(existsSync(path), false);
});

test('takeRunLock() refuses a second service on a live socket, and takes over a stale one', async (t) => {
  const path = join(tempDir(t), 'run', 'o.sock');
  const lock = await takeRunLock(path);
  assert.equal(statSync(join(path, '..')).mode & 0o777, 0o700);
  writeFileSync(path, ''); // what tells that the holder serves
  await assert.rejects(takeRunLock(path), {
    code: 'OBD_DEVICE_BUSY',
    message: new RegExp(`process ${process.pid}`),
  });
  await lock.release();
  const second = await takeRunLock(path);
  assert.equal(existsSync(path), false, 'the stale socket is removed');
  assert.equal(readFileSync(`${path}.lock`, 'utf8'), `${process.pid}\n`);
  await second.release();
  assert.equal(existsSync(join(path, '..')), false, 'nothing is left');
});

test('takeRunLock() waits for a service that is ending', async (t) => {
  const path = join(tempDir(t), 'run', 'o.sock');
  const lock = await takeRunLock(path); // no socket: it does not serve (any more)
  const waiting = takeRunLock(path);
  await new Promise((resolve) => setTimeout(resolve, 120));
  await lock.release();
  await (await waiting).release();
});

test('takeRunLock() does not follow a link that somebody laid', async (t) => {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'run'));
  chmodSync(join(dir, 'run'), 0o700);
  const victim = join(dir, 'victim');
  writeFileSync(victim, 'precious');
  symlinkSync(victim, join(dir, 'run', 'o.sock.lock'));
  await assert.rejects(takeRunLock(join(dir, 'run', 'o.sock')));
  assert.equal(readFileSync(victim, 'utf8'), 'precious');
});

test('the admin API tells what happened on a device', async (t) => {
  const reads = ReadRecord.forSize(1 << 20);
  reads.note(4096, 8192, false);
  reads.note(1 << 19, 1, true);
  const fetches = new FetchRecord();
  const blob = fetches.watch(new MemoryBlob(new Uint8Array(100_000)), 'sha256:aa');
  await blob.read(0, new Uint8Array(10));
  fetches.opened();
  await blob.read(8192, new Uint8Array(4097), { cause: 'download' });
  await blob.read(0, new Uint8Array(4097));
  const { client, path } = await serve(t, {
    activity: (key) => {
      assert.equal(key, '/dev/loop7');
      return activityOf(device, reads, fetches);
    },
  });
  const { reads: read, fetches: fetched, ...rest } = await client.activity('/dev/loop7');
  assert.deepEqual(rest.device, device);
  assert.deepEqual([...unpackMap(read.map)], [0b110, ...Array<number>(15).fill(0), 1]);
  assert.deepEqual(
    read.first.map(([, ...what]) => what),
    [
      [4096, 8192, 0],
      [1 << 19, 1, 1],
    ],
  );
  const [one] = fetched.blobs;
  assert.deepEqual([...unpackMap(one?.map ?? '')], [1, 2, 4, 4]);
  assert.deepEqual(one?.bytes, [10, 4097, 0, 4097]);
  assert.deepEqual(
    fetched.first.map(([, , offset, length, , cause]) => [offset, length, cause]),
    [
      [0, 10, 0],
      [8192, 4097, 3],
      [0, 4097, 1],
    ],
  );
  assert.match(await raw(path, 'GET /v1/devices/a/b/c HTTP/1.0\r\n\r\n'), /404/);
  assert.throws(() => unpackMap(packMap(new Uint8Array(2 ** 22).fill(1))), /not what was packed/);
});
