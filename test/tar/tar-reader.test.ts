import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { readTar, type TarEntry } from '../../src/tar/index.js';
import { memberBytes, sealed, tarOf } from '../convert/make-image.js';
import { tarMember } from '../fuzz/tar-seeds.js';

/** In a memory that is used again for each chunk. */
async function* inChunks(bytes: Uint8Array, size = 1000): AsyncGenerator<Uint8Array> {
  const memory = new Uint8Array(Math.min(size, bytes.byteLength));
  for (let at = 0; at < bytes.byteLength; at += size) {
    const chunk = bytes.subarray(at, at + size);
    memory.fill(0xa5);
    memory.set(chunk);
    yield memory.subarray(0, chunk.byteLength);
  }
}

type Read = Omit<TarEntry, 'pieces' | 'xattrs' | 'place'> & {
  readonly xattrs: Record<string, string>;
  readonly content: Buffer;
};

/** All members with their content, holes filled in. */
async function readAll(bytes: Uint8Array, chunk?: number): Promise<Read[]> {
  const all: Read[] = [];
  for await (const member of readTar(inChunks(bytes, chunk), 'test')) {
    const { xattrs, place, ...entry } = member;
    assert.equal(place.archive, 'test');
    const content = Buffer.alloc(entry.size);
    for await (const { offset, data } of member.pieces()) content.set(data, offset);
    all.push({
      ...entry,
      xattrs: Object.fromEntries([...xattrs].map(([name, value]) => [name, Buffer.from(value).toString()])),
      content,
    });
  }
  return all;
}

async function readOne(bytes: Uint8Array): Promise<Read> {
  const [entry, ...more] = await readAll(bytes);
  assert.ok(entry);
  assert.equal(more.length, 0);
  return entry;
}

/** A header changed after it was made, with its checksum put right. */
function patched(member: Buffer, change: (header: Buffer) => void): Buffer {
  const copy = Buffer.from(member);
  change(copy.subarray(0, 512));
  sealed(copy.subarray(0, 512));
  return copy;
}

const END = Buffer.alloc(1024);

test('readTar() gives back members however the stream is cut', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({
          path: fc.stringMatching(/^[a-z]{1,20}(\/[a-z]{1,20}){0,3}$/),
          content: fc.uint8Array({ maxLength: 3000 }),
          mode: fc.integer({ min: 0, max: 0o7777 }),
          uid: fc.integer({ min: 0, max: 0o7777777 }),
          mtime: fc.integer({ min: 0, max: 0o77777777777 }),
        }),
        { maxLength: 8 },
      ),
      fc.integer({ min: 1, max: 2000 }),
      async (members, chunk) => {
        const read = await readAll(tarOf(members), chunk);
        assert.deepEqual(
          read.map(({ path, content, mode, uid, mtime }) => ({
            path,
            content: new Uint8Array(content),
            mode,
            uid,
            mtime: mtime.seconds,
          })),
          members.map((member) => ({ ...member, content: new Uint8Array(member.content) })),
        );
      },
    ),
  );
});

test('readTar() passes over content that is not read', async () => {
  const bytes = tarOf([
    { path: 'a', content: 'x'.repeat(5000) },
    { path: 'b', content: 'y' },
  ]);
  const paths: string[] = [];
  for await (const entry of readTar(inChunks(bytes), 'test')) {
    paths.push(entry.path);
    for await (const piece of entry.pieces()) {
      assert.ok(piece.data.byteLength > 0);
      break;
    }
  }
  assert.deepEqual(paths, ['a', 'b']);
});

test('PAX records win over the header, ids and times to the nanosecond included', async () => {
  const entry = await readOne(
    tarOf([
      {
        path: 'short',
        type: '2',
        link: 'old',
        pax: {
          path: 'l'.repeat(300),
          linkpath: 'ziel-é',
          uid: '4294967295',
          gid: '3000000000',
          mtime: '-1.5',
          atime: '4102444800.123456789999',
          ctime: '-3',
          comment: 'nothing',
        },
      },
    ]),
  );
  assert.equal(entry.path, 'l'.repeat(300));
  assert.equal(entry.linkTarget, Buffer.from('ziel-é').toString('latin1'));
  assert.deepEqual([entry.uid, entry.gid], [4294967295, 3000000000]);
  assert.deepEqual(entry.mtime, { seconds: -2, nanoseconds: 500_000_000 });
  assert.deepEqual(entry.atime, { seconds: 4102444800, nanoseconds: 123_456_789 });
  assert.deepEqual(entry.ctime, { seconds: -3, nanoseconds: 0 });
});

test('A global header holds until it is taken back, an own one for one member', async () => {
  const global = (records: Record<string, string>) =>
    patched(memberBytes({ path: 'g', pax: records }).subarray(0, -512), (header) => header.write('g', 156));
  const bytes = Buffer.concat([
    global({ gid: '7', uid: '5' }),
    memberBytes({ path: 'a' }),
    memberBytes({ path: 'b', pax: { uid: '6' } }),
    global({ uid: '' }),
    memberBytes({ path: 'c', uid: 9 }),
    END,
  ]);
  assert.deepEqual(
    (await readAll(bytes)).map(({ path, uid, gid }) => [path, uid, gid]),
    [
      ['a', 5, 7],
      ['b', 6, 7],
      ['c', 9, 7],
    ],
  );
});

test('Extended attributes come in two dialects', async () => {
  const { xattrs } = await readOne(
    tarOf([
      {
        path: 'f',
        pax: {
          'SCHILY.xattr.user.a=b': 'never',
          'SCHILY.xattr.user.plain': 'one',
          'LIBARCHIVE.xattr.user.enc%6fded': Buffer.from('two').toString('base64'),
          'LIBARCHIVE.xattr.user.plain': Buffer.from('loses').toString('base64'),
          'SCHILY.xattr.user.empty': '',
        },
      },
    ]),
  );
  assert.deepEqual(xattrs, {
    'user.a': 'b=never',
    'user.plain': 'one',
    'user.encoded': 'two',
    'user.empty': '',
  });
});

test('Names are put together by the rules of each dialect', async () => {
  const prefix = (magic: string, change?: (header: Buffer) => void) =>
    Buffer.concat([
      patched(memberBytes({ path: 'name' }), (header) => {
        header.write(magic, 257, 'latin1');
        header.write('prefix', 345);
        change?.(header);
      }),
      END,
    ]);
  assert.equal((await readOne(prefix('ustar\x0000'))).path, 'prefix/name');
  assert.equal((await readOne(prefix('ustar  \0'))).path, 'name', 'GNU has times there');
  assert.equal((await readOne(prefix('\0'.repeat(8)))).path, 'name', 'v7 has nothing there');
  const star = prefix('ustar\x0000', (header) => {
    header.write('14341234567 14341234567 ', 476);
    header.write('tar\0', 508, 'latin1');
  });
  assert.equal((await readOne(star)).path, 'prefix/name');
  const long = Buffer.concat([
    memberBytes({ path: '././@LongLink', type: 'L', content: `${'n'.repeat(200)}\0` }),
    memberBytes({ path: '././@LongLink', type: 'K', content: `${'t'.repeat(200)}\0` }),
    memberBytes({ path: 'n', type: '2', link: 't' }),
    END,
  ]);
  const entry = await readOne(long);
  assert.deepEqual([entry.path, entry.linkTarget], ['n'.repeat(200), 't'.repeat(200)]);
  const latin1 = await readOne(tarOf([{ path: 'latin1-\xe9\xff' }]));
  assert.equal(latin1.path, 'latin1-\xe9\xff');
});

test('Numbers may be octal of any padding, full width, or base-256', async () => {
  const field = (bytes: string, offset: number) =>
    readOne(
      Buffer.concat([
        patched(memberBytes({ path: 'f' }), (header) => header.write(bytes, offset, 'latin1')),
        END,
      ]),
    );
  assert.equal((await field('  644 \0\0', 100)).mode, 0o644);
  assert.equal((await field('77777777', 108)).uid, 0o77777777);
  assert.equal((await field('\0\0\0\0\0\0\0\0', 108)).uid, 0);
  assert.equal((await field('777777777777', 136)).mtime.seconds, 0o777777777777);
  assert.equal((await field('\x80\0\0\0\x80\0\0\x01', 108)).uid, 0x80000001);
  assert.equal((await field('\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe', 136)).mtime.seconds, -2);
  await assert.rejects(field('12x4567\0', 108), /uid is .* expected an octal number/);
  await assert.rejects(field('\xff'.repeat(8), 108), /uid is -1/);
  await assert.rejects(field(`\x80${'\xff'.repeat(11)}`, 124), /beyond 2\^53/);
});

test('Types: old and odd flags are what other readers take them for', async () => {
  const type = async (flag: string, path = 'x') => (await readOne(tarOf([{ path, type: flag }]))).type;
  assert.equal(await type('\0'), 'file');
  assert.equal(await type('\0', 'd/'), 'directory');
  assert.equal(await type('7'), 'file');
  assert.equal(await type('5', 'd'), 'directory');
  assert.equal(await type('6'), 'fifo');
  assert.deepEqual(await readAll(tarOf([{ path: 'label', type: 'V' }])), []);
  for (const flag of ['M', 'N', 'Z', 's'])
    await assert.rejects(type(flag), { code: 'OBD_CONVERT_BAD_TAR', message: /unsupported member type/ });
});

const SPARSE_MAP = [0, 3, 1000, 2, 5000, 0] as const;
const SPARSE_CONTENT = (() => {
  const content = Buffer.alloc(5000);
  content.write('abc', 0);
  content.write('de', 1000);
  return content;
})();

for (const [dialect, pax, content] of [
  [
    '0.1',
    {
      'GNU.sparse.major': '0',
      'GNU.sparse.size': '5000',
      'GNU.sparse.name': 'real',
      'GNU.sparse.map': SPARSE_MAP.join(','),
    },
    'abcde',
  ],
  [
    '1.0',
    {
      'GNU.sparse.major': '1',
      'GNU.sparse.minor': '0',
      'GNU.sparse.realsize': '5000',
      'GNU.sparse.name': 'real',
    },
    `${['3', ...SPARSE_MAP].join('\n')}\n`.padEnd(512, '\0') + 'abcde',
  ],
] as const)
  test(`Sparse files of PAX ${dialect} are spread out`, async () => {
    const entry = await readOne(tarOf([{ path: 'GNUSparseFile.0/x', content, pax }]));
    assert.deepEqual([entry.path, entry.size], ['real', 5000]);
    assert.deepEqual(entry.content, SPARSE_CONTENT);
    const cut = tarOf([{ path: 'x', content: content.slice(0, -1), pax }]);
    await assert.rejects(readAll(cut), /sparse pieces add up to 5 bytes, 4 are stored/);
  });

test('Sparse files of PAX 0.0, whose keys repeat, are spread out', async () => {
  const record = (text: string) => `${text.length + 4} ${text}\n`;
  const body = Buffer.from(
    record('GNU.sparse.size=5000') +
      SPARSE_MAP.map((value, i) =>
        i % 2 === 0
          ? `${String(value).length + 22} GNU.sparse.offset=${value}\n`
          : `${String(value).length + 24} GNU.sparse.numbytes=${value}\n`,
      ).join(''),
  );
  const bytes = Buffer.concat([
    memberBytes({ path: 'h', type: 'x', content: body }),
    memberBytes({ path: 'f', content: 'abcde' }),
    END,
  ]);
  assert.deepEqual((await readOne(bytes)).content, SPARSE_CONTENT);
});

test('Sparse files of GNU, extension blocks included, are spread out', async () => {
  const pieces = Array.from({ length: 30 }, (_, i) => [i * 1000, 1] as const);
  const octal = (value: number) => value.toString(8).padStart(11, '0') + '\0';
  const entries = [...pieces, [29_500, 0] as const].map(([offset, length]) => octal(offset) + octal(length));
  const extension = Buffer.alloc(1024);
  extension.write(entries.slice(4, 25).join(''), 0, 'latin1');
  extension[504] = 1;
  extension.write(entries.slice(25).join(''), 512, 'latin1');
  const member = patched(memberBytes({ path: 'f', type: 'S', content: 'z'.repeat(30) }), (header) => {
    header.write('ustar  \0', 257, 'latin1');
    header.write(entries.slice(0, 4).join(''), 386, 'latin1');
    header[482] = 1;
    header.write(octal(29_500), 483, 'latin1');
  });
  const entry = await readOne(Buffer.concat([member.subarray(0, 512), extension, member.subarray(512), END]));
  assert.equal(entry.size, 29_500);
  for (const [offset] of pieces) assert.equal(entry.content[offset], 0x7a);
  assert.equal(entry.content.filter((byte) => byte !== 0).length, 30);
});

test('Sparse maps that overlap, leave the file or go back are refused', async () => {
  for (const map of ['0,3,2,2', '0,3,4999,2', '10,3,0,2', '0,5,7'])
    await assert.rejects(
      readAll(
        tarOf([{ path: 'f', content: 'abcde', pax: { 'GNU.sparse.size': '5000', 'GNU.sparse.map': map } }]),
      ),
      { code: 'OBD_CONVERT_BAD_TAR', message: /sparse/ },
    );
});

test('An archive may end without its end, but not inside a member', async () => {
  const whole = tarOf([{ path: 'a', content: 'x'.repeat(700) }]);
  // Without padding, without end, with half an end.
  const allowed = (length: number) => (length >= 1212 && length <= 1536) || length >= 1536 + 512;
  for (let length = 512; length <= whole.length; length += 4) {
    if (allowed(length)) assert.equal((await readAll(whole.subarray(0, length)))[0]?.content.length, 700);
    else
      await assert.rejects(
        readAll(whole.subarray(0, length)),
        { code: 'OBD_CONVERT_BAD_TAR', message: /unexpected end/ },
        String(length),
      );
  }
  assert.deepEqual(await readAll(new Uint8Array()), []);
  await assert.rejects(readAll(memberBytes({ path: 'h', type: 'x', content: '' })), /extended header/);
});

test('What follows the end of an archive is read and ignored', async () => {
  let read = 0;
  const bytes = Buffer.concat([tarOf([{ path: 'a' }]), Buffer.alloc(5000, 0x41)]);
  async function* counted(): AsyncGenerator<Uint8Array> {
    for await (const chunk of inChunks(bytes)) {
      read += chunk.byteLength;
      yield chunk;
    }
  }
  let members = 0;
  for await (const entry of readTar(counted(), 'test')) members += entry.path.length;
  assert.deepEqual([members, read], [1, bytes.length]);
});

test('One flipped bit anywhere in a header is noticed', async () => {
  const bytes = tarOf([{ path: 'file', content: 'x' }]);
  for (let bit = 0; bit < 512 * 8; bit += 5) {
    // Behind the terminator of the checksum, which is no part of its own sum.
    if (bit >> 3 === 155) continue;
    const damaged = Buffer.from(bytes);
    damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    await assert.rejects(readAll(damaged), { code: 'OBD_CONVERT_BAD_TAR' }, `bit ${bit}`);
  }
});

test('Random bytes never hang or crash the reader', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.uint8Array({ minLength: 1, maxLength: 2000 }),
      fc.boolean(),
      async (noise, sealIt) => {
        const block = Buffer.alloc(1024);
        block.set(noise.subarray(0, 1024));
        if (sealIt) sealed(block.subarray(0, 512));
        try {
          await readAll(block);
        } catch (error) {
          assert.equal((error as { code?: unknown }).code, 'OBD_CONVERT_BAD_TAR', String(error));
        }
      },
    ),
    { numRuns: 2000 },
  );
});

test('Extended headers larger than any real one are refused before they are read', async () => {
  const huge = patched(memberBytes({ path: 'x', type: 'x' }), (header) =>
    header.write('77777777777\0', 124, 'latin1'),
  );
  await assert.rejects(readAll(Buffer.concat([huge, END])), /PAX header of \d+ bytes, expected at most/);
});

test('readTar() refuses a PAX record without a length, however its end looks', async () => {
  // paxRecords() took rubbish without a space, behind a sound record, for a record of no bytes, again and again until memory ran out.
  const archive = tarMember({
    name: 'pax',
    size: 20,
    type: 'x',
    content: Buffer.from('12 path=x/y\n\x01\0\0\0\0\0\0\0'),
  });
  await assert.rejects(
    async () => {
      for await (const entry of readTar(inChunks(archive), 'evil')) assert.fail(entry.path);
    },
    { code: 'OBD_CONVERT_BAD_TAR' },
  );
});
