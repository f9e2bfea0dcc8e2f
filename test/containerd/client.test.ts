import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createServer } from 'node:net';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { ContainerdClient, resolvePlace, type ContentWrite } from '../../src/containerd/index.js';
import { tempDir } from '../support/unpack.js';
import { fakeContainerd, Refusal, type Answer } from './fake-containerd.js';

const BYTES = Buffer.alloc(2_500_000, 'content store ');
const CONTENT = { digest: `sha256:${createHash('sha256').update(BYTES).digest('hex')}`, size: BYTES.length };
const WRITE = 'content.v1.Content/Write';

async function connect(t: TestContext, address: string): Promise<ContainerdClient> {
  const client = await ContainerdClient.connect({ address, namespace: 'test' });
  t.after(() => {
    client.close();
  });
  return client;
}

/** A store that holds `before` of the blob, wrongly if told so, and checks the digest at the commit. */
function store(before: Buffer): { readonly answer: Answer; readonly held: () => Buffer } {
  let held = before;
  return {
    held: () => held,
    answer: ({ action, offset, data, total, expected }) => {
      if (action === 'WRITE' || action === 1) {
        if (offset === 0) held = Buffer.alloc(0); // containerd truncates
        if (offset !== held.length) throw new Refusal(11, 'write must occur at current offset');
        held = Buffer.concat([held, data as Buffer]);
      }
      if (action === 'COMMIT' || action === 2) {
        const actual = `sha256:${createHash('sha256').update(held).digest('hex')}`;
        if (actual !== expected || held.length !== total)
          throw new Refusal(9, `unexpected commit digest ${actual}`);
      }
      return [{ action, offset: held.length }];
    },
  };
}

function write(more: Partial<ContentWrite> = {}): { readonly what: ContentWrite; readonly from: number[] } {
  const from: number[] = [];
  const read: ContentWrite['read'] = async function* (offset) {
    from.push(offset);
    yield BYTES.subarray(offset);
  };
  return { from, what: { ref: 'layer-x', content: CONTENT, labels: { a: 'b' }, read, ...more } };
}

test('a write sends what containerd lacks, in pieces, and commits with labels, namespace and lease', async (t) => {
  const { answer, held } = store(BYTES.subarray(0, 700_001));
  const { address, asked } = await fakeContainerd(t, { [WRITE]: answer });
  const client = await connect(t, address);
  assert.equal(client.version, '1.6.99');
  const done: number[] = [];
  const { what, from } = write({ onProgress: (n) => done.push(n) });
  assert.equal(await client.content.write(what, { lease: 'l1' }), 'written');
  assert.deepEqual(from, [700_001]);
  assert.ok(held().equals(BYTES));
  assert.deepEqual([done[0], done.at(-1)], [700_001, BYTES.length]);
  const writes = asked.filter(({ method }) => method === WRITE);
  for (const { namespace, lease } of writes) assert.deepEqual([namespace, lease], ['test', 'l1']);
  for (const { request } of writes) assert.ok((request['data'] as Buffer).length <= 1 << 20);
  assert.deepEqual(writes.at(-1)?.request['labels'], { a: 'b' });
  assert.equal(writes.at(-1)?.request['expected'], CONTENT.digest);
});

test('a write that took up wrong bytes begins anew, once; wrong bytes of its own are an error', async (t) => {
  const { answer, held } = store(Buffer.alloc(1000, 'not this'));
  const { address, asked } = await fakeContainerd(t, {
    [WRITE]: answer,
    'content.v1.Content/Abort': () => [{}],
  });
  const client = await connect(t, address);
  const { what, from } = write();
  assert.equal(await client.content.write(what), 'written');
  assert.deepEqual(from, [1000, 0]);
  assert.ok(held().equals(BYTES));
  const bad = write({ content: { ...CONTENT, digest: `sha256:${'0'.repeat(64)}` } });
  await assert.rejects(client.content.write(bad.what), {
    code: 'OBD_CONTAINERD_REFUSED',
    message: /unexpected commit/,
  });
  assert.equal(asked.filter(({ method }) => method.endsWith('/Abort')).length >= 2, true);
});

test('content that is there is not sent but labelled; one that another writes is waited for', async (t) => {
  let tries = 0;
  const { address, asked } = await fakeContainerd(t, {
    [WRITE]: () => {
      throw ++tries === 1
        ? new Refusal(14, 'ref layer-x locked for 3s: unavailable')
        : new Refusal(6, 'content exists: already exists');
    },
    'content.v1.Content/Update': () => [{}],
  });
  const client = await connect(t, address);
  const { what, from } = write({ labels: { 'containerd.io/distribution.source.h:5000': 'team/app' } });
  assert.equal(await client.content.write(what), 'exists');
  assert.deepEqual([tries, from], [2, []]);
  assert.deepEqual(asked.at(-1)?.request['updateMask'], {
    paths: ['labels.containerd.io/distribution.source.h:5000'],
  });
});

test('a write does not wait for its source when containerd has failed', async (t) => {
  let asked = 0;
  const { address } = await fakeContainerd(t, {
    [WRITE]: ({ action }) => {
      if (++asked === 2) throw new Refusal(13, 'write: no space left on device');
      return [{ action, offset: 0 }];
    },
  });
  const client = await connect(t, address);
  const read: ContentWrite['read'] = async function* (offset, signal) {
    yield BYTES.subarray(offset, offset + (1 << 20));
    await new Promise((_, reject) => {
      signal.addEventListener('abort', () => {
        reject(new Error('the source was stopped'));
      });
    });
  };
  await assert.rejects(client.content.write(write({ read }).what), {
    code: 'OBD_CONTAINERD_REFUSED',
    message: /no space left/,
  });
});

test('read() gives exactly the bytes asked for, or an error', async (t) => {
  let extra = 0;
  const { address } = await fakeContainerd(t, {
    'content.v1.Content/Read': ({ offset, size }) => {
      const at = Number(offset);
      const end = at + Number(size) + extra;
      return [
        { offset: at, data: BYTES.subarray(at, at + 10) },
        { offset: at + 10, data: BYTES.subarray(at + 10, end) },
      ];
    },
  });
  const client = await connect(t, address);
  const read = async (): Promise<Buffer> => {
    const parts: Uint8Array[] = [];
    for await (const part of client.content.read(CONTENT.digest, 5, 100)) parts.push(part);
    return Buffer.concat(parts);
  };
  assert.ok((await read()).equals(BYTES.subarray(5, 105)));
  extra = -1;
  await assert.rejects(read(), { code: 'OBD_CONTAINERD_REFUSED', message: /fewer than 100 bytes/ });
  extra = 1;
  await assert.rejects(read(), { code: 'OBD_CONTAINERD_REFUSED', message: /more than 100 bytes/ });
});

test('failures have codes and containerd its word; what is aborted ends', async (t) => {
  const answers: Readonly<Record<string, Answer>> = {
    'images.v1.Images/Get': ({ name }) => {
      if (name === 'none') throw new Refusal(5, 'image "none": not found');
      if (name === 'late') return undefined;
      throw new Refusal(2, 'bolt: database not open');
    },
    'introspection.v1.Introspection/Plugins': () => [
      {
        plugins: [
          { type: 'io.containerd.snapshotter.v1', id: 'overlayfs' },
          { type: 'io.containerd.snapshotter.v1', id: 'zfs', initErr: { code: 2, message: 'no zfs here' } },
        ],
      },
    ],
  };
  const { address } = await fakeContainerd(t, answers);
  const client = await connect(t, address);
  assert.equal(await client.image('none'), undefined);
  await assert.rejects(client.image('x'), { code: 'OBD_CONTAINERD_REFUSED', message: /database not open/ });
  await assert.rejects(client.image('late', { signal: AbortSignal.timeout(50) }), { code: 'OBD_ABORTED' });
  await assert.rejects(client.createLease(), { code: 'OBD_CONTAINERD_REFUSED', hint: /1\.6/ });
  await client.checkSnapshotter('overlayfs');
  await assert.rejects(client.checkSnapshotter('zfs'), { message: /no zfs here/ });
  await assert.rejects(client.checkSnapshotter('overlaybd'), {
    code: 'OBD_CONTAINERD_NOT_FOUND',
    hint: /overlayfs/,
  });
});

test('connect() says what is wrong with the socket', async (t) => {
  const dir = tempDir(t);
  const fails = (address: string, message: RegExp): Promise<void> =>
    assert.rejects(ContainerdClient.connect({ address }), { code: 'OBD_CONTAINERD_CONNECTION', message });
  await fails(join(dir, 'none.sock'), /ENOENT/);
  await fails('/dev/null', /ENOTSOCK|ECONNREFUSED/);
  const other = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
  });
  await new Promise<void>((resolve) => other.listen(join(dir, 'other.sock'), resolve));
  t.after(() => other.close());
  await fails(join(dir, 'other.sock'), /does not answer as containerd/);
});

test('addresses and namespaces are those of ctr', () => {
  assert.deepEqual(resolvePlace({ address: 'unix:///x/c.sock', namespace: 'k8s.io' }), {
    address: '/x/c.sock',
    namespace: 'k8s.io',
  });
  for (const place of [{ address: 'tcp://1.2.3.4:5' }, { namespace: 'a/b' }, { namespace: 'x'.repeat(77) }])
    assert.throws(() => resolvePlace(place), { code: 'OBD_CONFIG_VALUE' });
});
