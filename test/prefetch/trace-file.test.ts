import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  encodeTrace,
  isTrace,
  MAX_RECORD_BYTES,
  packTraceLayer,
  parseTrace,
  TRACE_UNIT,
  unpackTraceLayer,
  type TraceRecord,
} from '../../src/prefetch/index.js';

/** Raw CRC-32C, bit by bit: Castagnoli's polynomial reflected, no inversion. */
function crc(bytes: Uint8Array): number {
  let value = 0;
  for (const byte of bytes) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ ((value & 1) === 1 ? 0x82f63b78 : 0);
  }
  return value >>> 0;
}

/** Two records, as the C++ structures lie in memory. */
const RECORDS: readonly TraceRecord[] = [
  { layer: 2, offset: 4096, count: 8192 },
  { layer: 0, offset: 0x1_0000_0200, count: 1 },
];
const BODY = Buffer.from(
  '5200000002000000' + '0020000000000000' + '0010000000000000' +
    '5200000000000000' + '0100000000000000' + '0002000001000000',
  'hex',
); // prettier-ignore

function trace(body: Uint8Array, change: (file: Buffer) => void = () => undefined): Buffer {
  const head = Buffer.alloc(24);
  head.write('2018efc2', 'hex');
  head.writeBigUInt64LE(BigInt(body.byteLength), 8);
  head.writeUInt32LE(crc(body), 16);
  const file = Buffer.concat([head, body]);
  change(file);
  return file;
}

/** A valid trace around one changed record. */
function changed(change: (record: Buffer) => void): Buffer {
  const body = Buffer.from(BODY);
  change(body);
  return trace(body);
}

test('encodeTrace() writes the bytes that the format lists', () => {
  assert.deepEqual(encodeTrace(RECORDS), trace(BODY));
  assert.deepEqual(encodeTrace([]), trace(Buffer.alloc(0)));
});

test('parseTrace() reads them, whatever is in the padding', () => {
  assert.deepEqual(parseTrace(trace(BODY), 't'), RECORDS);
  assert.deepEqual(parseTrace(trace(Buffer.alloc(0)), 't'), []);
  const noisy = changed((body) => {
    body.fill(0xa5, 1, 4);
    body.fill(0x5a, 25, 28);
  });
  noisy.fill(0xff, 4, 8);
  noisy.fill(0xff, 20, 24);
  assert.deepEqual(parseTrace(noisy, 't'), RECORDS);
  assert.ok(isTrace(noisy));
  assert.ok(!isTrace(Buffer.from('/usr/bin/python3\n')));
});

test('encodeTrace() splits what is longer than a record may be', () => {
  const records = parseTrace(encodeTrace([{ layer: 1, offset: 512, count: 2 * MAX_RECORD_BYTES + 5 }]), 't');
  assert.deepEqual(
    records.map(({ offset, count }) => [offset, count]),
    [
      [512, MAX_RECORD_BYTES],
      [512 + MAX_RECORD_BYTES, MAX_RECORD_BYTES],
      [512 + 2 * MAX_RECORD_BYTES, 5],
    ],
  );
});

const HOSTILE: readonly [what: string, file: Buffer, code: string, offset: number][] = [
  ['an empty file', Buffer.alloc(0), 'OBD_FORMAT_TRUNCATED', 0],
  ['half a header', trace(BODY).subarray(0, 20), 'OBD_FORMAT_TRUNCATED', 0],
  ['another magic', trace(BODY, (f) => f.writeUInt8(0, 0)), 'OBD_FORMAT_BAD_MAGIC', 0],
  ['a record less than stated', trace(BODY).subarray(0, 48), 'OBD_FORMAT_BAD_HEADER', 8],
  ['a byte more than stated', Buffer.concat([trace(BODY), Buffer.alloc(1)]), 'OBD_FORMAT_BAD_HEADER', 8],
  ['a size of 2^64 - 1', trace(BODY, (f) => f.fill(0xff, 8, 16)), 'OBD_FORMAT_BAD_HEADER', 8],
  ['a part of a record', trace(BODY.subarray(0, 30)), 'OBD_FORMAT_BAD_HEADER', 8],
  ['another crc', trace(BODY, (f) => f.writeUInt8(1 ^ (f[30] ?? 0), 30)), 'OBD_FORMAT_CHECKSUM', 16],
  ['an unknown operation', changed((b) => b.writeUInt8(0x58, 0)), 'OBD_FORMAT_BAD_INDEX', 24],
  ['a layer that no image has', changed((b) => b.writeUInt32LE(256, 28)), 'OBD_FORMAT_BAD_INDEX', 52],
  ['a count of 2^63', changed((b) => b.writeBigUInt64LE(1n << 63n, 8)), 'OBD_FORMAT_LIMIT', 32],
  [
    'a count of 16 MiB and one',
    changed((b) => b.writeBigUInt64LE((16n << 20n) + 1n, 8)),
    'OBD_FORMAT_LIMIT',
    32,
  ],
  ['a negative offset', changed((b) => b.writeBigInt64LE(-1n, 16)), 'OBD_FORMAT_BAD_INDEX', 40],
  ['an offset of 2^62', changed((b) => b.writeBigInt64LE(1n << 62n, 40)), 'OBD_FORMAT_BAD_INDEX', 64],
];

for (const [what, file, code, offset] of HOSTILE)
  test(`parseTrace() refuses ${what}, with its address`, () => {
    assert.throws(() => parseTrace(file, 'evil'), { code, offset, source: 'evil' });
  });

test('parseTrace() of mutated traces throws errors of ours or gives records within bounds', () => {
  let state = 12345;
  const random = (below: number): number => {
    state = (state * 1103515245 + 12345) & 0x7fffffff;
    return state % below;
  };
  for (let round = 0; round < 2000; round++) {
    const file = trace(BODY);
    for (let i = random(4) + 1; i > 0; i--) file[random(file.length)] = random(256);
    if (random(2) === 0) file.writeUInt32LE(crc(file.subarray(TRACE_UNIT)), 16);
    try {
      for (const { layer, offset, count } of parseTrace(file, 'fuzz'))
        assert.ok(layer < 256 && offset >= 0 && count > 0 && count <= 16 << 20);
    } catch (error) {
      assert.match((error as { code?: string }).code ?? String(error), /^OBD_FORMAT_/);
    }
  }
});

test('a trace layer is a tar with one file, and is read back', async () => {
  const layer = packTraceLayer(trace(BODY));
  assert.equal(layer.length % 512, 0);
  assert.equal(layer.toString('latin1', 0, 6), 'trace\0');
  assert.equal(layer.toString('latin1', 100, 107), '0000444');
  assert.deepEqual(Buffer.from(await unpackTraceLayer(layer, 'l')), trace(BODY));
  await assert.rejects(unpackTraceLayer(trace(BODY), 'l'), { code: /^OBD_FORMAT_/ });
  await assert.rejects(unpackTraceLayer(layer.subarray(0, 530), 'l'), { code: 'OBD_FORMAT_TRUNCATED' });
});
