import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  fstatSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import {
  copyFileRange,
  dataExtents,
  FileLock,
  lockFile,
  punchHole,
  punchHoleSync,
  seekData,
  seekHole,
} from '../../src/native/index.js';
import { tempDir } from '../support/unpack.js';

const KiB = 1024;
const dir = mkdtempSync(join(tmpdir(), 'obd-file-'));
after(() => {
  rmSync(dir, { recursive: true });
});

let made = 0;
function sparseFile(
  size: number,
  ...data: readonly (readonly [number, number])[]
): { fd: number; path: string } {
  const path = join(dir, `f${made++}`);
  const fd = openSync(path, 'w+');
  ftruncateSync(fd, size);
  for (const [offset, length] of data) writeSync(fd, Buffer.alloc(length, 0xa5), 0, length, offset);
  return { fd, path };
}

test('dataExtents() lists what was written and nothing of the holes', () => {
  const { fd } = sparseFile(1024 * KiB, [64 * KiB, 64 * KiB], [512 * KiB, 128 * KiB]);
  assert.deepEqual(
    [...dataExtents(fd, 0, 1024 * KiB)],
    [
      { offset: 64 * KiB, length: 64 * KiB },
      { offset: 512 * KiB, length: 128 * KiB },
    ],
  );
  assert.deepEqual(
    [...dataExtents(fd, 96 * KiB, 544 * KiB)],
    [
      { offset: 96 * KiB, length: 32 * KiB },
      { offset: 512 * KiB, length: 32 * KiB },
    ],
  );
  assert.deepEqual([...dataExtents(fd, 700 * KiB, 1024 * KiB)], []);
  closeSync(fd);
});

test('seekData() and seekHole() give undefined past the end', () => {
  const { fd } = sparseFile(128 * KiB, [0, 128 * KiB]);
  assert.equal(seekData(fd, 128 * KiB), undefined);
  assert.equal(seekHole(fd, 128 * KiB), undefined);
  assert.equal(seekHole(fd, 0), 128 * KiB);
  assert.throws(() => seekData(-1, 0), { code: 'EBADF', syscall: 'lseek' });
  closeSync(fd);
});

for (const [name, punch] of [
  ['punchHole()', punchHole],
  ['punchHoleSync()', punchHoleSync],
] as const)
  test(`${name} frees the blocks, keeps the size and reads as zeroes`, async () => {
    const { fd } = sparseFile(1024 * KiB, [0, 1024 * KiB]);
    const before = fstatSync(fd).blocks;
    assert.equal(await punch(fd, 256 * KiB, 512 * KiB), true);
    assert.equal(fstatSync(fd).size, 1024 * KiB);
    assert.ok(fstatSync(fd).blocks <= before - (512 * KiB) / 512);
    const bytes = Buffer.alloc(8);
    readSync(fd, bytes, 0, 8, 256 * KiB - 4);
    assert.equal(bytes.toString('hex'), 'a5a5a5a500000000');
    closeSync(fd);
    await assert.rejects(async () => punch(-1, 0, 1), { code: 'EBADF' });
  });

test('lockFile() excludes other open files, converts without waiting, and is dropped by close', () => {
  const { fd: one, path } = sparseFile(0);
  const two = openSync(path, 'r+');
  assert.equal(lockFile(one, FileLock.SHARED), true);
  assert.equal(lockFile(two, FileLock.SHARED), true);
  assert.equal(lockFile(one, FileLock.EXCLUSIVE), false, 'two still shares it');
  assert.equal(lockFile(two, FileLock.EXCLUSIVE), false, 'one has kept its shared lock');
  assert.equal(lockFile(two, FileLock.NONE), true);
  assert.equal(lockFile(one, FileLock.EXCLUSIVE), true);
  assert.equal(lockFile(two, FileLock.SHARED), false);
  closeSync(one);
  assert.equal(lockFile(two, FileLock.EXCLUSIVE), true);
  closeSync(two);
  assert.throws(() => lockFile(-1, FileLock.SHARED), { code: 'EBADF', syscall: 'fcntl' });
});

test('lockFile() excludes another process, and its death frees the lock', { timeout: 20_000 }, async () => {
  const { fd, path } = sparseFile(0);
  const native = join(import.meta.dirname, '..', '..', 'src', 'native', 'index.js');
  const child = spawn(
    process.execPath,
    [
      '--input-type=module',
      '-e',
      `import { openSync } from 'node:fs'; import { lockFile } from ${JSON.stringify(native)};
       process.stdout.write(String(lockFile(openSync(${JSON.stringify(path)}, 'r+'), 2))); setInterval(() => {}, 1e6);`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const [text] = (await child.stdout.setEncoding('utf8').take(1).toArray()) as string[];
  assert.equal(text, 'true');
  assert.equal(lockFile(fd, FileLock.SHARED), false);
  child.kill('SIGKILL');
  await new Promise((resolve) => child.once('exit', resolve));
  assert.equal(lockFile(fd, FileLock.SHARED), true);
  closeSync(fd);
});

test('copyFileRange() copies between files, also of different file systems, and fails where the source ends', async (t) => {
  const content = Buffer.from(Array.from({ length: 700_001 }, (_, i) => (i * 31) >> 3));
  for (const dir of [tempDir(t), existsSync('/dev/shm') ? mkdtempSync('/dev/shm/obd-test-') : tempDir(t)]) {
    t.after(() => {
      rmSync(dir, { recursive: true, force: true });
    });
    const from = openSync(join(tempDir(t), 'from'), 'w+');
    writeSync(from, content);
    const to = openSync(join(dir, 'to'), 'w+');
    await copyFileRange({ fd: from, offset: 1 }, { fd: to, offset: 10 }, content.length - 1);
    assert.deepEqual(readFileSync(join(dir, 'to')), Buffer.concat([Buffer.alloc(10), content.subarray(1)]));
    await assert.rejects(copyFileRange({ fd: from, offset: 5 }, { fd: to, offset: 0 }, content.length), {
      code: 'ENODATA',
    });
    closeSync(from);
    closeSync(to);
  }
});
