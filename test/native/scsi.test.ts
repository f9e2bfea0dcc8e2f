import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { decodeScsi, type ScsiDevice, type ScsiResult } from '../../src/native/index.js';

const BLOCKS = 2 ** 32 + 1000; // more than 32 bits of addresses
const disk: ScsiDevice = {
  blocks: BLOCKS,
  readOnly: false,
  config: 'overlaybd//images/config.v1.json',
  serial: 'a1b2-c3d4',
};
const image: ScsiDevice = { ...disk, readOnly: true };
const ROOM = 2 ** 40;
const [READ, WRITE, DISCARD, FLUSH] = [1, 2, 3, 4];

function decode(device: ScsiDevice, cdb: readonly number[], data = '', capacity = ROOM): ScsiResult {
  const padded = Buffer.alloc(16);
  padded.set(cdb);
  return decodeScsi(device, padded, Buffer.from(data, 'hex'), capacity);
}

function sense(result: ScsiResult): string {
  assert.equal(result.op, 0);
  if (result.status !== 2) return `status ${result.status}`;
  assert.deepEqual([result.sense[0], result.sense[7]], [0x70, 0x0a]);
  const hex = (n: number | undefined): string => (n ?? 0).toString(16).padStart(2, '0');
  return `${hex(result.sense[2])} ${hex(result.sense[12])} ${hex(result.sense[13])}`;
}

const INVALID_COMMAND = '05 20 00';
const LBA_OUT_OF_RANGE = '05 21 00';
const INVALID_FIELD = '05 24 00';
const INVALID_PARAMETER = '05 26 00';
const READ_ONLY = '05 30 05';

/** CDB of READ or WRITE in one of its lengths, with address and count where the standard has them. */
function transfer(opcode: number, lba: number, count: number): number[] {
  const cdb = Buffer.alloc(16);
  cdb[0] = opcode;
  const group = opcode >> 5;
  if (group === 0) {
    cdb.writeUIntBE(lba, 1, 3);
    cdb[4] = count;
  } else if (group === 1) {
    cdb.writeUInt32BE(lba, 2);
    cdb.writeUInt16BE(count, 7);
  } else if (group === 5) {
    cdb.writeUInt32BE(lba, 2);
    cdb.writeUInt32BE(count, 6);
  } else {
    cdb.writeBigUInt64BE(BigInt(lba), 2);
    cdb.writeUInt32BE(count, 10);
  }
  return [...cdb];
}

test('READ and WRITE of every length become byte ranges', () => {
  for (const [opcode, op] of [
    [0x08, READ],
    [0x28, READ],
    [0xa8, READ],
    [0x88, READ],
    [0x0a, WRITE],
    [0x2a, WRITE],
    [0xaa, WRITE],
    [0x8a, WRITE],
  ] as const) {
    const r = decode(disk, transfer(opcode, 0x1ffff0, 7));
    assert.deepEqual([r.op, r.offset, r.length], [op, 0x1ffff0 * 512, 7 * 512], opcode.toString(16));
  }
  const r = decode(disk, transfer(0x88, 2 ** 32 + 990, 10));
  assert.deepEqual([r.offset, r.length], [(2 ** 32 + 990) * 512, 5120]);
});

test('a length of 0 is 256 blocks in 6 bytes and nothing in the others', () => {
  assert.equal(decode(disk, transfer(0x08, 1, 0)).length, 256 * 512);
  for (const opcode of [0x28, 0xa8, 0x88, 0x2a]) {
    const r = decode(disk, transfer(opcode, 1, 0));
    assert.deepEqual([r.op, r.status], [0, 0]);
  }
});

test('a range that leaves the device is LBA OUT OF RANGE', () => {
  const small = { ...disk, blocks: 1000 };
  for (const [lba, count] of [
    [1000, 1],
    [999, 2],
    [0, 1001],
    [0xffffffff, 0xffffffff],
    [Number.MAX_SAFE_INTEGER, 1],
  ] as const) {
    assert.equal(sense(decode(small, transfer(0x88, lba, count))), LBA_OUT_OF_RANGE);
    assert.equal(sense(decode(small, transfer(0x8a, lba, count))), LBA_OUT_OF_RANGE);
  }
  assert.equal(
    sense(decode(small, [0x88, 0, ...Array<number>(8).fill(255), 255, 255, 255, 255])),
    LBA_OUT_OF_RANGE,
  );
  assert.equal(decode(small, transfer(0x88, 999, 1)).op, READ);
});

test('a command that wants more than the memory that came with it is INVALID FIELD IN CDB', () => {
  assert.equal(sense(decode(disk, transfer(0x88, 0, 9), '', 4096)), INVALID_FIELD);
  assert.equal(decode(disk, transfer(0x88, 0, 7), '', 4096).length, 3584);
});

test('a read-only image refuses to be changed, and needs no flush', () => {
  assert.equal(sense(decode(image, transfer(0x2a, 0, 1))), READ_ONLY);
  assert.equal(sense(decode(image, [0x93, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])), READ_ONLY);
  assert.equal(sense(decode(image, [0x35])), 'status 0');
  assert.equal(decode(disk, [0x35]).op, FLUSH);
  assert.equal(decode(disk, [0x91]).op, FLUSH);
});

test('FUA, which the mode data does not offer, is refused', () => {
  const cdb = transfer(0x2a, 0, 1);
  cdb[1] = 8;
  assert.equal(sense(decode(disk, cdb)), INVALID_FIELD);
});

test('WRITE SAME discards with UNMAP and is unknown without', () => {
  const r = decode(disk, [0x93, 8, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 8]);
  assert.deepEqual([r.op, r.offset, r.length], [DISCARD, 8192, 4096]);
  const ten = decode(disk, [0x41, 8, 0, 0, 0, 16, 0, 0, 8]);
  assert.deepEqual([ten.op, ten.offset, ten.length], [DISCARD, 8192, 4096]);
  assert.equal(sense(decode(disk, [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 8])), INVALID_COMMAND);
  assert.equal(sense(decode(disk, [0x93, 8])), INVALID_FIELD); // WSNZ
});

test('UNMAP takes one descriptor', () => {
  const one = '00160010' + '00000000' + '0000000000000010' + '00000008' + '00000000';
  const r = decode(disk, [0x42, 0, 0, 0, 0, 0, 0, 0, 24], one);
  assert.deepEqual([r.op, r.offset, r.length], [DISCARD, 8192, 4096]);
  const two = '00260020' + '00000000' + '0000000000000010' + '0000000800000000'.repeat(3);
  assert.equal(sense(decode(disk, [0x42, 0, 0, 0, 0, 0, 0, 0, 40], two)), INVALID_PARAMETER);
  assert.equal(sense(decode(disk, [0x42, 0, 0, 0, 0, 0, 0, 0, 24], '0016')), '05 1a 00');
  assert.equal(sense(decode(disk, [0x42])), 'status 0');
  const limits = decode(disk, [0x12, 1, 0xb0, 0, 64]).data;
  assert.equal(limits.readUInt32BE(24), 1);
  assert.ok(limits.readUInt32BE(20) > 0);
});

test('INQUIRY tells who we are', () => {
  const { data } = decode(disk, [0x12, 0, 0, 0, 96]);
  assert.equal(data.length, 36);
  assert.equal(data.subarray(0, 8).toString('hex'), '000005021f080002');
  assert.equal(data.subarray(8).toString(), 'LIO-ORG TCMU device     0002');
  assert.equal(decode(disk, [0x12, 0, 0, 0, 5]).data.length, 5);
  assert.equal(sense(decode(disk, [0x12, 0, 0x80, 0, 96])), INVALID_FIELD);
  assert.equal(sense(decode(disk, [0x12, 1, 0x99, 0, 96])), INVALID_FIELD);
});

test('INQUIRY has the vital product data that clients know', () => {
  const page = (n: number): Buffer => decode(disk, [0x12, 1, n, 4, 0]).data;
  assert.equal(page(0).toString('hex'), '000000060080' + '83b0b1b2');
  assert.equal(page(0x80).subarray(4).toString(), 'a1b2-c3d4');
  const ids = page(0x83);
  assert.equal(ids.readUInt16BE(2) + 4, ids.length);
  assert.equal(ids.subarray(4, 8).toString('hex'), '02010011');
  assert.equal(ids.subarray(8, 25).toString(), 'LIO-ORG a1b2-c3d4');
  assert.equal(ids.subarray(25, 29).toString('hex'), '01030010');
  assert.equal(ids.subarray(29, 45).toString('hex'), '6001405a1b2c3d4' + '0'.repeat(17));
  assert.equal(ids.subarray(49).toString(), disk.config);
  assert.equal(page(0xb0).subarray(4, 6).toString('hex'), '0101');
  assert.equal(page(0xb0).length, 64);
  assert.equal(page(0xb0).readUInt32BE(40), 0xffffffff);
  assert.equal(page(0xb1).toString('hex'), '00b1003c' + '00'.repeat(60));
  assert.equal(page(0xb2).toString('hex'), '00b2000400e40000');
  const mute: ScsiDevice = { blocks: BLOCKS, readOnly: false, config: '' };
  assert.equal(sense(decode(mute, [0x12, 1, 0x80, 0, 96])), '04 44 00');
});

test('READ CAPACITY 10 and 16 tell the size', () => {
  const ten = (blocks: number): string => decode({ ...disk, blocks }, [0x25]).data.toString('hex');
  assert.equal(ten(1000), '000003e700000200');
  assert.equal(ten(2 ** 32), 'ffffffff00000200');
  assert.equal(ten(BLOCKS), 'ffffffff00000200');
  const sixteen = decode(disk, [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32]).data;
  assert.equal(sixteen.toString('hex'), '00000001000003e7' + '00000200' + '0000c000' + '00'.repeat(16));
  assert.equal(decode(disk, [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12]).data.length, 12);
  assert.equal(sense(decode(disk, [0x9e, 0x12])), INVALID_COMMAND);
});

test('MODE SENSE has pages 01, 08, 0A, and tells write protection and cache', () => {
  const all = '010a' + '00'.repeat(10) + '081204' + '00'.repeat(17) + '0a0a02000040' + '0000ffff0000';
  assert.equal(decode(disk, [0x1a, 0, 0x3f, 0, 255]).data.toString('hex'), '2f000000' + all);
  assert.equal(
    decode(image, [0x1a, 0, 0x3f, 0, 255]).data.toString('hex'),
    '2f008000' + all.replace('081204', '081200'),
  );
  assert.equal(
    decode(image, [0x5a, 0, 8, 0, 0, 0, 0, 0, 255]).data.subarray(0, 4).toString('hex'),
    '001a0080',
  );
  assert.equal(decode(disk, [0x1a, 0, 8, 0, 4]).data.toString('hex'), '17000000');
  assert.equal(decode(disk, [0x1a, 0, 8, 0, 0]).data.length, 0);
  assert.equal(decode(disk, [0x1a, 0, 0x48, 0, 255]).data.toString('hex'), '170000000812' + '00'.repeat(18));
  assert.equal(sense(decode(disk, [0x1a, 0, 0xc8, 0, 255])), '05 39 00');
  assert.equal(sense(decode(disk, [0x1a, 0, 0x05, 0, 255])), INVALID_FIELD);
});

test('MODE SELECT accepts what changes nothing', () => {
  const page = '0812' + '04' + '00'.repeat(17);
  const select = (length: number, data: string, flags = 0x10): string =>
    sense(decode(disk, [0x15, flags, 0, 0, length], data));
  assert.equal(select(24, '00000000' + page), 'status 0');
  assert.equal(select(24, '00000000' + page.replace('081204', '081200')), INVALID_PARAMETER);
  assert.equal(select(23, '00000000' + page), '05 1a 00');
  assert.equal(select(24, '0000'), '05 1a 00');
  assert.equal(select(24, '00000000' + page, 0x11), INVALID_FIELD);
  assert.equal(select(24, '00000000' + page, 0), INVALID_FIELD);
  assert.equal(select(24, '00000008' + page), INVALID_PARAMETER);
  assert.equal(select(0, ''), 'status 0');
});

test('REQUEST SENSE and TEST UNIT READY find nothing to complain about', () => {
  assert.equal(
    decode(disk, [0x03, 0, 0, 0, 252]).data.toString('hex'),
    '70000000000000' + '0a' + '00'.repeat(10),
  );
  assert.equal(decode(disk, [0x03, 1, 0, 0, 252]).data.toString('hex'), '72' + '00'.repeat(7));
  assert.equal(sense(decode(disk, [0x00])), 'status 0');
});

test('everything else is INVALID COMMAND, illegal group codes included', () => {
  for (const opcode of [0x04, 0x1b, 0x2e, 0x2f, 0x7f, 0x60, 0xa3, 0xa4, 0xc1, 0xff])
    assert.equal(sense(decode(disk, [opcode])), INVALID_COMMAND, opcode.toString(16));
});

test('any CDB with any data has an answer within the device', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 16, maxLength: 16 }),
      fc.uint8Array({ maxLength: 64 }),
      fc.integer({ min: 0, max: 1 << 20 }),
      fc.boolean(),
      (cdb, data, capacity, readOnly) => {
        const r = decodeScsi(
          { ...disk, blocks: 5000, readOnly },
          Buffer.from(cdb),
          Buffer.from(data),
          capacity,
        );
        assert.ok(r.offset + r.length <= 5000 * 512);
        if (r.op === READ || r.op === WRITE) assert.ok(r.length > 0 && r.length <= capacity);
        if (readOnly) assert.ok(r.op === 0 || r.op === READ);
        assert.ok(r.op !== 0 || r.status === 0 || r.status === 2);
      },
    ),
    { numRuns: 3000 },
  );
});
