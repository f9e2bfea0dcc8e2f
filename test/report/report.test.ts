import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemoryBlob } from '../../src/blob/index.js';
import { ReadRecord } from '../../src/blockdev/index.js';
import { FetchRecord, ImageOpener, loadServiceConfig } from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import { gatherReport, html, Html, reportPage, showName, TimeAxis } from '../../src/report/index.js';
import { activityOf, type DeviceInfo } from '../../src/service/index.js';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fixture, noFixtures } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';

const EVIL = `"><script>alert(1)</script>`;

const device: DeviceInfo = {
  id: 'a',
  state: 'ready',
  transport: 'fuse',
  configPath: '/nonexistent/config.v1.json',
  image: `docker://h/${EVIL}`,
  devicePath: '/dev/loop7',
  size: 1 << 20,
  since: new Date(0).toISOString(),
  reads: 1,
  bytesRead: 2,
  bytesFetched: 3,
  remoteBytes: 4,
  presentBytes: 5,
  errors: 0,
};

async function opener(t: Parameters<typeof tempDir>[0]): Promise<ImageOpener> {
  const path = join(tempDir(t), 'overlaybd.json');
  writeFileSync(path, '{}');
  return new ImageOpener(await loadServiceConfig(path, silentLogger), silentLogger);
}

test('html`` escapes what is put into it, and nothing twice', () => {
  assert.equal(
    html`<a title="${EVIL}">${[html`<b>${'&'}</b>`, 1, undefined]}</a>`.text,
    '<a title="&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"><b>&amp;</b>1</a>',
  );
  assert.equal(html`${new Html('<i>')}`.text, '<i>');
});

test('showName() writes out what would control a terminal or turn a line around', () => {
  assert.equal(showName(Buffer.from('a\u202eb\u0007ü').toString('latin1')), 'a\\u202eb\\u0007ü');
});

test('an image that does not open makes the report poorer and says why', async (t) => {
  const fetches = new FetchRecord();
  await fetches.watch(new MemoryBlob(new Uint8Array(9000)), `sha256:${EVIL}`).read(0, new Uint8Array(5000));
  const reads = ReadRecord.forSize(1 << 20);
  reads.note(0, 4096, false);
  const { report, stretches } = await gatherReport(activityOf(device, reads, fetches), {
    version: '1',
    opener: await opener(t),
  });
  assert.match(report.imageUnavailable ?? '', /nonexistent/);
  assert.equal(report.totals.fetchedBytes, 5000);
  assert.equal(report.layers[0]?.fetchedBytes, 5000);
  const page = reportPage(report, stretches);
  assert.match(page, /Map and files are missing, because the image does not open/);
  assert.doesNotMatch(page, /<script/i);
  assert.ok(page.includes('&lt;script&gt;alert(1)'));
});

test('a report resolves pieces to layers and files', { skip: noFixtures }, async (t) => {
  const path = join(tempDir(t), 'image.json');
  const { readFileSync } = await import('node:fs');
  writeFileSync(
    path,
    readFileSync(fixture('debian', 'image.json'), 'utf8').replaceAll('@DIR@', fixture('debian')),
  );
  const images = await opener(t);
  const image = await images.open(path, { mode: 'read' });
  const { size } = image.blob;
  await image.close();
  const reads = ReadRecord.forSize(size);
  const here = { ...device, configPath: path, size };
  // First everything, to learn where a file is; then that file alone.
  reads.note(0, size, true);
  const all = await gatherReport(activityOf(here, reads, undefined), { version: '1', opener: images });
  assert.equal(all.report.totals.readBytes, all.report.totals.diskBytes);
  assert.ok(
    all.report.layers.every(
      (layer) => layer.readBytes === layer.diskBytes && layer.presentBytes === layer.size,
    ),
  );
  const name = '/usr/bin/dpkg';
  const at = all.stretches.filter(({ path: where }) => where === name);
  assert.ok(at.length > 0);
  const some = ReadRecord.forSize(size);
  for (const { offset, length } of at) some.note(offset, length, true);
  const { report, stretches } = await gatherReport(activityOf(here, some, undefined), {
    version: '1',
    opener: images,
  });
  assert.deepEqual(
    report.files.files.map((file) => file.path),
    [name],
  );
  assert.equal(report.files.files[0]?.readBytes, report.totals.readBytes);
  assert.equal(report.files.files[0].firstRead, 0);
  assert.equal(report.files.otherReadBytes, 0);
  assert.equal(report.reads[0]?.path, name);
  const page = reportPage(report, stretches);
  assert.match(page, /<td class="path">\/usr\/bin\/dpkg<\/td>/);
  assert.match(page, /Nothing was fetched/);
  await images.close();
});

test('TimeAxis cuts idle stretches short, and keeps the order of time', () => {
  const busy = [0, 100, 250, 60_000, 60_300, 3_600_000].map((from) => ({ from, to: from + 10 }));
  const axis = new TimeAxis(busy, 10, 1000);
  assert.deepEqual(
    axis.parts.map(({ idle }) => idle),
    [false, true, false, true, false],
  );
  const places = busy.flatMap(({ from, to }) => [axis.x(from), axis.x(to)]);
  assert.deepEqual(
    places,
    [...places].sort((a, b) => a - b),
  );
  assert.equal(places[0], 10);
  assert.ok(Math.abs((places.at(-1) ?? 0) - 1010) < 1e-6);
  const many = new TimeAxis(
    Array.from({ length: 100 }, (_, i) => ({ from: i * 5000, to: i * 5000 })),
    0,
    1000,
  );
  assert.ok(many.parts.filter(({ idle }) => idle).length <= 6);
  assert.ok(many.ticks(90).length <= 13);
  assert.equal(new TimeAxis([], 0, 100).x(5), 100);
});
