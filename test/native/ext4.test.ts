import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readSync } from 'node:fs';
import { tmpdir } from 'node:os';
import test from 'node:test';
import { Ext4Image, FileType, type InodeAttributes } from '../../src/native/index.js';

const GIB = 2 ** 30;
const time = { seconds: 1_700_000_000, nanoseconds: 0 };

function attributes(mode: number, more: Partial<InodeAttributes> = {}): InodeAttributes {
  return { mode, uid: 0, gid: 0, major: 0, minor: 0, atime: time, mtime: time, ctime: time, ...more };
}

const FILE = attributes(FileType.FILE | 0o644);
const DIRECTORY = attributes(FileType.DIRECTORY | 0o755);

/** Fails unless e2fsck finds nothing at all to say against the image. */
function assertClean(image: Ext4Image): void {
  const fsck = spawnSync('e2fsck', ['-fn', `/proc/${process.pid}/fd/${image.fd}`], { encoding: 'utf8' });
  assert.equal(fsck.status, 0, fsck.stdout + fsck.stderr);
}

async function withImage<T>(size: number, run: (image: Ext4Image) => Promise<T>): Promise<T> {
  const image = await Ext4Image.format(tmpdir(), size);
  try {
    return await run(image);
  } finally {
    image.close();
  }
}

/** Hash of everything the current layer changed, with its places. */
async function digestOfChanges(image: Ext4Image): Promise<string> {
  await image.flush();
  const hash = createHash('sha256');
  for (const run of await image.changes()) {
    hash.update(JSON.stringify(run));
    const data = new Uint8Array(run.length);
    assert.equal(readSync(image.fd, data, 0, run.length, run.offset), run.length);
    hash.update(data);
  }
  return hash.digest('hex');
}

for (const size of [2 ** 20 * 8, 64 * 2 ** 20, GIB, 64 * GIB])
  test(`Ext4Image.format() makes an empty clean file system of ${size / 2 ** 20} MiB`, () =>
    withImage(size, async (image) => {
      assertClean(image);
      assert.deepEqual(
        image.readdir(Ext4Image.ROOT).map((entry) => entry.name),
        ['lost+found'],
      );
      const stored = (await image.changes()).reduce((sum, run) => sum + (run.zero ? 0 : run.length), 0);
      assert.ok(stored < 16 * 2 ** 20, `${stored} bytes in the first layer`);
    }));

test('Ext4Image.format() refuses sizes that are no file system', async () => {
  for (const size of [0, 4096, 2 ** 20 + 1])
    await assert.rejects(Ext4Image.format(tmpdir(), size), { code: 'OBD_CONVERT_FILESYSTEM' });
});

test('An inode gives back its owner, modes, devices and times from 1901 to 2446', () =>
  withImage(64 * 2 ** 20, async (image) => {
    const times = [-(2 ** 31), -1, 0, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 15_032_385_535];
    for (const seconds of times) {
      const when = { seconds, nanoseconds: 999_999_999 };
      const made = attributes(FileType.FILE | 0o7777, {
        uid: 2 ** 32 - 2,
        gid: 70_000,
        atime: when,
        mtime: when,
        ctime: when,
      });
      const { inode, links, size, blocks, ...rest } = image.stat(
        image.make(Ext4Image.ROOT, `t${seconds}`, made),
      );
      assert.ok(inode > 11);
      assert.deepEqual([links, size, blocks], [1, 0, 0]);
      assert.deepEqual(rest, made);
    }
    for (const [major, minor] of [
      [1, 3],
      [255, 255],
      [259, 65_536],
      [4095, 1_048_575],
    ] as const) {
      const made = attributes(FileType.BLOCK | 0o660, { major, minor });
      const stat = image.stat(image.make(Ext4Image.ROOT, `d${major}`, made));
      assert.deepEqual([stat.major, stat.minor], [major, minor]);
    }
    assert.throws(
      () => image.make(Ext4Image.ROOT, 'd', attributes(FileType.CHAR, { major: 4096 })),
      /12 and 20 bits/,
    );
    await image.flush();
    assertClean(image);
  }));

test('File content keeps holes as holes and is padded with zeros over old blocks', () =>
  withImage(16 * 2 ** 20, async (image) => {
    const noise = new Uint8Array(3_000_000).map((_, i) => (i * 31) >> 3);
    const old = image.make(Ext4Image.ROOT, 'old', FILE);
    image.beginFile(old);
    await image.writeFile(0, noise, 0);
    image.endFile(noise.length);
    await image.flush();
    image.nextLayer();
    image.remove(Ext4Image.ROOT, 'old');
    await image.flush();
    image.nextLayer();

    const sparse = image.make(Ext4Image.ROOT, 'sparse', FILE);
    image.beginFile(sparse);
    const pieces = [
      [10, 5],
      [15, 100],
      [4000, 200],
      [9000, 1],
      [3 * 2 ** 20 + 7, 70_000],
    ] as const;
    const expected = new Uint8Array(5 * 2 ** 20);
    for (const [offset, length] of pieces) {
      await image.writeFile(offset, noise.subarray(0, length), 0);
      expected.set(noise.subarray(0, length), offset);
    }
    image.endFile(expected.length);
    const actual = new Uint8Array(expected.length + 10);
    assert.equal(await image.read(sparse, 0, actual), expected.length);
    assert.ok(Buffer.from(actual.buffer, 0, expected.length).equals(expected));
    assert.ok(image.stat(sparse).blocks * 512 <= 24 * 4096);
    await image.flush();
    assertClean(image);
  }));

test('A file of many extents has a sound tree, and gives all its blocks back', () =>
  withImage(256 * 2 ** 20, async (image) => {
    await image.flush();
    const byte = new Uint8Array([1]);
    const inode = image.make(Ext4Image.ROOT, 'holes', FILE);
    image.beginFile(inode);
    for (let i = 0; i < 20_000; i++) await image.writeFile(i * 2 * 4096, byte, 0);
    image.endFile(2 ** 40);
    await image.flush();
    assertClean(image);
    assert.equal(image.stat(inode).size, 2 ** 40);
    const read = new Uint8Array(1);
    await image.read(inode, 19_999 * 2 * 4096, read);
    assert.equal(read[0], 1);
    image.remove(Ext4Image.ROOT, 'holes');
    await image.flush();
    assertClean(image);
  }));

test('Blocks that were announced but not written are given back', () =>
  withImage(64 * 2 ** 20, async (image) => {
    const inode = image.make(Ext4Image.ROOT, 'f', FILE);
    image.beginFile(inode);
    await image.writeFile(0, new Uint8Array(8192).fill(1), 20 * 2 ** 20);
    await image.writeFile(30 * 2 ** 20, new Uint8Array(1).fill(1), 2 ** 20);
    image.endFile(30 * 2 ** 20 + 1);
    assert.equal(image.stat(inode).blocks, 3 * 8);
    await image.flush();
    assertClean(image);
  }));

test('A directory of 70000 directories and their removal are clean', () =>
  withImage(GIB * 2, async (image) => {
    const top = image.make(Ext4Image.ROOT, 'top', DIRECTORY);
    for (let i = 0; i < 70_000; i++) image.make(top, `directory-${i}`, DIRECTORY);
    assert.equal(image.stat(top).links, 1);
    await image.flush();
    assertClean(image);
    for (let i = 0; i < 70_000; i += 2) await image.removeTree(top, `directory-${i}`);
    assert.equal(image.stat(top).links, 35_002);
    assert.equal(image.readdir(top).length, 35_000);
    assert.equal(image.lookup(top, 'directory-4'), undefined);
    assert.equal(image.lookup(top, 'directory-5')?.type, FileType.DIRECTORY);
    await image.flush();
    assertClean(image);
    await image.removeTree(Ext4Image.ROOT, 'top');
    await image.flush();
    assertClean(image);
  }));

test('Hard links count, survive one removal, and stop at 65000', () =>
  withImage(64 * 2 ** 20, async (image) => {
    const inode = image.make(Ext4Image.ROOT, 'f', FILE);
    for (let i = 1; i < 65_000; i++) image.link(Ext4Image.ROOT, `l${i}`, inode);
    assert.equal(image.stat(inode).links, 65_000);
    assert.throws(() => {
      image.link(Ext4Image.ROOT, 'one-more', inode);
    }, /65000/);
    image.remove(Ext4Image.ROOT, 'f');
    assert.equal(image.stat(inode).links, 64_999);
    await image.flush();
    assertClean(image);
  }));

test('Symbolic links of every length give back their target', () =>
  withImage(64 * 2 ** 20, async (image) => {
    for (const length of [1, 59, 60, 61, 4095]) {
      const target = 'é/'.repeat(length).slice(0, length);
      const inode = image.symlink(Ext4Image.ROOT, `s${length}`, target, attributes(0o777));
      assert.equal(image.readlink(inode), target);
      assert.equal(image.stat(inode).size, length);
    }
    for (const target of ['', 'x'.repeat(4096)])
      assert.throws(() => image.symlink(Ext4Image.ROOT, 'bad', target, attributes(0o777)), /1 to 4095/);
    await image.flush();
    assertClean(image);
  }));

test('Extended attributes are replaced as a whole, in the inode or in a block', () =>
  withImage(64 * 2 ** 20, async (image) => {
    const inode = image.make(Ext4Image.ROOT, 'f', FILE);
    const first = new Map([
      ['user.small', new Uint8Array([1, 2, 3])],
      ['user.empty', new Uint8Array()],
      ['security.capability', new Uint8Array(20).fill(9)],
      ['trusted.large', new Uint8Array(3000).fill(7)],
    ]);
    image.setXattrs(inode, first);
    assert.deepEqual(new Map([...image.xattrs(inode)].sort()), new Map([...first].sort()));
    await image.flush();
    assertClean(image);
    image.setXattrs(inode, new Map([['user.other', new Uint8Array([5])]]));
    assert.deepEqual([...image.xattrs(inode).keys()], ['user.other']);
    assert.throws(() => {
      image.setXattrs(inode, new Map([['user.huge', new Uint8Array(5000)]]));
    }, /do not fit/);
    await image.flush();
    assertClean(image);
  }));

test('A full image says so', () =>
  withImage(8 * 2 ** 20, async (image) => {
    const inode = image.make(Ext4Image.ROOT, 'f', FILE);
    image.beginFile(inode);
    await assert.rejects(
      async () => {
        for (let i = 0; i < 16; i++) await image.writeFile(i * 2 ** 20, new Uint8Array(2 ** 20).fill(1), 0);
      },
      { code: 'OBD_CONVERT_NO_SPACE', message: /full/ },
    );
  }));

test('The same calls give the same bytes, and an untouched layer is empty', async () => {
  const digests = await Promise.all(
    [1, 2].map(() =>
      withImage(GIB, async (image) => {
        const result = [await digestOfChanges(image)];
        image.nextLayer();
        for (let i = 0; i < 300; i++) {
          const inode = image.make(Ext4Image.ROOT, `file ${i}`, FILE);
          image.beginFile(inode);
          await image.writeFile(0, new Uint8Array(i * 500).fill(i), 0);
          image.endFile(i * 500);
        }
        result.push(await digestOfChanges(image));
        image.nextLayer();
        await image.flush();
        assert.deepEqual(await image.changes(), []);
        for (let i = 0; i < 300; i += 7) image.remove(Ext4Image.ROOT, `file ${i}`);
        result.push(await digestOfChanges(image));
        return result;
      }),
    ),
  );
  assert.deepEqual(digests[0], digests[1]);
});

test('A call while another is pending is refused, and the pending one is not disturbed', () =>
  withImage(64 * 2 ** 20, async (image) => {
    const pending = image.flush();
    assert.throws(() => image.stat(Ext4Image.ROOT), /busy/);
    await pending;
    assert.equal(image.stat(Ext4Image.ROOT).mode, FileType.DIRECTORY | 0o755);
  }));
