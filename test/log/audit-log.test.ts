import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { AuditLog } from '../../src/log/index.js';
import { SourceTraffic } from '../../src/image/index.js';
import { MemoryBlob } from '../../src/blob/index.js';

function auditFile(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'obd-audit-'));
  t.after(() => {
    rmSync(dir, { recursive: true });
  });
  return join(dir, 'audit.log');
}

test("AuditLog.record() writes overlaybd's format, without secrets and line breaks of names", (t) => {
  const path = auditFile(t);
  const audit = new AuditLog(path, { maxBytes: 1 << 20, keep: 1 });
  const at = new Date(2026, 10, 8, 9, 5, 7, 42);
  audit.record('download', 'https://user:secret@host/v2/a/blobs/sha256:00?sig=x', 4096, 512, 1.5, at);
  audit.record('bk_download', 'a]\n[b', 0, 1, 0, at);
  audit.close();
  audit.close();
  audit.record('download', 'late', 0, 1, 0, at);
  assert.equal(
    readFileSync(path, 'utf8'),
    '2026/11/08 09:05:07.042000|AUDIT|th=0000000000000000|download[pathname=https://host/v2/a/blobs/sha256:00][offset=4096][size=512][latency=1500]\n' +
      '2026/11/08 09:05:07.042000|AUDIT|th=0000000000000000|bk_download[pathname=a%5D%0A%5Bb][offset=0][size=1][latency=0]\n',
  );
});

test('SourceTraffic notes reads that ended well, and which are of the background', async (t) => {
  const path = auditFile(t);
  const audit = new AuditLog(path, { maxBytes: 1 << 20, keep: 1 });
  const blob = new SourceTraffic(audit).watch(new MemoryBlob(new Uint8Array(1024)));
  await blob.read(0, new Uint8Array(512));
  await blob.read(512, new Uint8Array(256), { cause: 'download' });
  await assert.rejects(blob.read(1024, new Uint8Array(1)));
  audit.close();
  assert.deepEqual(readFileSync(path, 'utf8').match(/[a-z_]+\[pathname|offset=\d+|size=\d+/g), [
    'download[pathname',
    'offset=0',
    'size=512',
    'bk_download[pathname',
    'offset=512',
    'size=256',
  ]);
});
