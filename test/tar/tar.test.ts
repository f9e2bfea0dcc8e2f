import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import fc from 'fast-check';
import { FileBlob, MemoryBlob, type ReadableBlob } from '../../src/blob/index.js';
import {
  parsePaxRecords,
  parseTarNumber,
  tarPayload,
  tarWrapperHead,
  tarWrapperTail,
} from '../../src/tar/index.js';
import { fixture, noFixtures } from '../support/fixtures.js';

async function contents(blob: ReadableBlob): Promise<Uint8Array> {
  const bytes = new Uint8Array(blob.size);
  await blob.read(0, bytes);
  return bytes;
}

function wrap(payload: Uint8Array): Buffer {
  return Buffer.concat([tarWrapperHead(payload.length), payload, tarWrapperTail(payload.length)]);
}

/** A header as GNU tar, Go and Python write it. */
function plainHeader(name: string, type: string, size: string, magic = 'ustar\x0000'): Buffer {
  const block = Buffer.alloc(512);
  block.write(name, 0, 'latin1');
  block.write('0000644\x000000000\x000000000\0', 100, 'latin1');
  block.write(size.padEnd(12, '\0').slice(0, 12), 124, 'latin1');
  block.write('00000000000\0        ' + type, 136, 'latin1');
  block.write(magic, 257, 'latin1');
  const sum = block.reduce((a, b) => a + b, 0);
  block.write(sum.toString(8).padStart(6, '0') + '\0 ', 148, 'latin1');
  return block;
}

test('tarWrapperHead() and tarWrapperTail() give the reference bytes', { skip: noFixtures }, () => {
  for (const name of ['small/native-lz4/layer1.tar', 'small/native-zstd/layer2.tar', 'small/bad/good.tar']) {
    const golden = readFileSync(fixture(name));
    const size = Number(/ size=(\d+)\n/.exec(golden.toString('latin1', 512, 1024))?.[1]);
    assert.ok(wrap(golden.subarray(1536, 1536 + size)).equals(golden), name);
  }
});

test('tarWrapperHead() writes record "14 size=28082" and a blob of 30720 bytes for vector V3', () => {
  const head = Buffer.from(tarWrapperHead(28082));
  assert.equal(head.toString('latin1', 512, 526), '14 size=28082\n');
  assert.equal(head.length + 28082 + tarWrapperTail(28082).length, 30720);
});

test('tarWrapperHead() counts the digits of its own length', () => {
  for (const size of [1, 9, 99, 999, 9999, 99999, 999999, 9999999, 99999999, 2 ** 40]) {
    const record = Buffer.from(tarWrapperHead(size)).toString('latin1', 512, 1024).split('\0')[0] ?? '';
    assert.equal(parseInt(record, 10), record.length);
    assert.ok(record.endsWith(` size=${size}\n`));
  }
});

test('tarPayload() gives back what was wrapped', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 3000 }), async (payload) => {
      const blob = await tarPayload(new MemoryBlob(wrap(payload)));
      assert.deepEqual(await contents(blob), payload);
    }),
    { numRuns: 50 },
  );
});

test('tarPayload() gives the blob itself when it is no tar', async () => {
  for (const size of [0, 511, 512, 5000]) {
    const blob = new MemoryBlob(new Uint8Array(size));
    assert.equal(await tarPayload(blob), blob);
  }
});

test('tarPayload() reads ordinary, GNU and base-256 headers and PAX bodies of several blocks', async () => {
  const payload = Buffer.from('payload');
  const long = Buffer.alloc(1024, 0);
  const comment = `600 comment=${'c'.repeat(600 - 13)}\n`;
  const records = comment + '10 size=7\n';
  long.write(records);
  const cases: Buffer[][] = [
    [plainHeader('overlaybd.commit', '0', '00000000007')],
    [plainHeader('overlaybd.commit', '\0', '00000000007')],
    [plainHeader('overlaybd.commit', '0', '7', 'ustar  \0')],
    [plainHeader('overlaybd.commit', '0', '\x80' + '\0'.repeat(10) + '\x07')],
    [plainHeader('pax', 'x', records.length.toString(8)), long, plainHeader('overlaybd.commit', '0', '0')],
    [
      plainHeader('global', 'g', (11).toString(8)),
      Buffer.from('11 size=99\n'.padEnd(512, '\0')),
      plainHeader('overlaybd.commit', '0', '7'),
    ],
    [
      plainHeader('././@LongLink', 'L', '3', 'ustar  \0'),
      Buffer.from('abc'.padEnd(512, '\0')),
      plainHeader('overlaybd.commit', '0', '7', 'ustar  \0'),
    ],
  ];
  for (const [i, headers] of cases.entries()) {
    const blob = await tarPayload(new MemoryBlob(Buffer.concat([...headers, payload, Buffer.alloc(505)])));
    assert.equal(Buffer.from(await contents(blob)).toString(), 'payload', `case ${i}`);
  }
});

test('tarPayload() refuses what is no regular file, and endless headers', async () => {
  await assert.rejects(tarPayload(new MemoryBlob(plainHeader('dir/', '5', '0'))), {
    code: 'OBD_FORMAT_UNSUPPORTED',
  });
  const pax = [plainHeader('p', 'x', '13'), Buffer.from('10 size=7\n'.padEnd(512, '\0'))];
  await assert.rejects(tarPayload(new MemoryBlob(plainHeader('p', 'x', '2000000'))), {
    code: 'OBD_FORMAT_LIMIT',
  });
  await assert.rejects(tarPayload(new MemoryBlob(Buffer.concat([plainHeader('p', 'g', '0'), ...pax]))), {
    code: 'OBD_FORMAT_BAD_HEADER',
  });
  const globals = Array.from({ length: 20 }, () => plainHeader('p', 'g', '0'));
  await assert.rejects(tarPayload(new MemoryBlob(Buffer.concat(globals))), { code: 'OBD_FORMAT_LIMIT' });
});

test('tarPayload() refuses damaged wrappers', { skip: noFixtures }, async () => {
  const expected: Record<string, [string, RegExp]> = {
    'tar-size-over.tar': ['OBD_FORMAT_TRUNCATED', /payload .* ends at byte \d+, file has 32768/],
    'tar-size-0.tar': ['OBD_FORMAT_BAD_HEADER', /no payload/],
    'tar-checksum.tar': ['OBD_FORMAT_CHECKSUM', /checksum/],
    'tar-truncated.tar': ['OBD_FORMAT_TRUNCATED', /payload/],
    'tar-truncated-head.tar': ['OBD_FORMAT_TRUNCATED', /header expected at byte 1024, file has 1400/],
  };
  for (const [name, [code, message]] of Object.entries(expected)) {
    const blob = await FileBlob.open(fixture('small/bad', name));
    await assert.rejects(tarPayload(blob), { code, message });
    await blob.close();
  }
});

test('tarPayload() never reads outside the blob, whatever bit is wrong', async () => {
  const good = wrap(new Uint8Array(700).fill(7));
  await fc.assert(
    fc.asyncProperty(fc.nat(1535), fc.nat(255), fc.nat(good.length), async (at, value, cut) => {
      const bytes = Uint8Array.from(good);
      bytes[at] = value;
      try {
        const blob = await tarPayload(new MemoryBlob(bytes.subarray(0, cut)));
        await contents(blob);
      } catch (error) {
        assert.match((error as { code?: string }).code ?? String(error), /^OBD_FORMAT_/);
      }
    }),
    { numRuns: 300 },
  );
});

test('parseTarNumber() reads octal between padding and base-256, and nothing else', () => {
  const parse = (s: string): number => parseTarNumber(Buffer.from(s, 'latin1'), 'size', 'test');
  assert.equal(parse('   17 \0'), 15);
  assert.equal(parse('77777777777'), 0o77777777777);
  assert.equal(parse('\0\0\0'), 0);
  assert.equal(parse('\x80\0\0\x01\0'), 256);
  for (const bad of ['18', '-1', '0x1', '1 1', 'a', '\xff\xff\xff', '\x80\x20\0\0\0\0\0\0'])
    assert.throws(() => parse(bad), { code: 'OBD_FORMAT_BAD_HEADER' }, JSON.stringify(bad));
});

test('parsePaxRecords() keeps the last of equal keys and refuses lengths that do not fit', () => {
  const parse = (s: string): unknown => [...parsePaxRecords(Buffer.from(s), 'test')];
  assert.deepEqual(parse('6 a=b\n6 a=c\n'), [['a', 'c']]);
  for (const bad of [
    '7 a=b\n',
    '5 a=b\n',
    '6 a=b',
    'x a=b\n',
    '6 =ab\n',
    '9999999999999999 a=b\n',
    '0 a=b\n',
  ])
    assert.throws(() => parse(bad), { code: 'OBD_FORMAT_BAD_HEADER' }, bad);
});
