import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { ERROR_CODES, FormatError, ioError, IoError } from '../../src/blob/index.js';
import { describeError, exitStatus } from '../../src/cli/program.js';
import { checkout } from '../support/fixtures.js';

test('docs/errors.md has one row for every code and no other', () => {
  const rows = [
    ...readFileSync(join(checkout, 'docs', 'errors.md'), 'utf8').matchAll(/^\| `(OBD_\w+)` \|/gm),
  ].map((m) => m[1]);
  assert.deepEqual(rows.toSorted(), [...ERROR_CODES].sort());
});

test('describeError() prints sentence, causes, hint and code, and repeats nothing', () => {
  const root = new Error('disk on fire');
  const error = new FormatError('OBD_FORMAT_CHECKSUM', 'Cannot read block 3: crc is 1, expected 2', {
    hint: 'Fetch it again',
    cause: root,
  });
  assert.equal(
    describeError(error),
    'Error: Cannot read block 3: crc is 1, expected 2\n  because: disk on fire\n  hint: Fetch it again\n  code: OBD_FORMAT_CHECKSUM\n',
  );
  const wrapped = ioError(
    Object.assign(new Error('ENOSPC: no space left'), { code: 'ENOSPC' }),
    'write "/x"',
    '/x',
  );
  assert.equal(describeError(wrapped).match(/ENOSPC/g)?.length, 1);
});

test('ioError() maps errno to a code and leaves our own errors alone', () => {
  const ours = new IoError('OBD_IO_EXISTS', 'x');
  assert.equal(ioError(ours, 'open', '/x'), ours);
  assert.equal(
    ioError(Object.assign(new Error(), { code: 'EACCES' }), 'open "/x"', '/x').code,
    'OBD_IO_PERMISSION',
  );
  assert.equal(ioError(Object.assign(new Error(), { code: 'EIO' }), 'open "/x"', '/x').code, 'OBD_IO_FAILED');
});

test('exitStatus() tells the families apart', () => {
  assert.deepEqual(
    (
      [
        'OBD_CONFIG_VALUE',
        'OBD_FORMAT_LIMIT',
        'OBD_REGISTRY_TLS',
        'OBD_DEVICE_BUSY',
        'OBD_CONVERT_BAD_TAR',
        'OBD_CACHE_IO',
        'OBD_ABORTED',
      ] as const
    ).map(exitStatus),
    [2, 3, 4, 5, 6, 7, 1],
  );
});
