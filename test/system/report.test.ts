/** `obd report` on a real device, looked at with a real browser: what was read is told, and names of files stay names. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { fuseUnsupported } from '../../src/blockdev/index.js';
import { startRegistryServer } from '../../src/registryserver/index.js';
import type { Report } from '../../src/report/index.js';
import { tarOf, writeLayout } from '../convert/make-image.js';
import { missing } from '../support/commands.js';
import { checkout } from '../support/fixtures.js';
import { leftSince, takeSnapshot } from '../support/leaks.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);
const obd = join(checkout, 'bin', 'obd');
const noFuse = await fuseUnsupported();
const skip =
  noFuse === undefined ? missing({ 'mkfs.ext4': 'e2fsprogs' }) : `FUSE and loop devices: ${noFuse}`;
const noBrowser = missing({ chromium: 'chromium' });

const EVIL = `<script>alert(1)<img src=x onerror=alert(2)>&"'.bin`;
/** Turns the rest of the line around where it is shown as it is. */
const TURNING = 'cod\u202etxt.exe';

/** Loads a page and gives its document as the browser has it then, and what it complained of. */
async function browse(t: TestContext, page: string): Promise<{ dom: string; complaints: string[] }> {
  const profile = tempDir(t);
  const child = spawn(
    'chromium',
    [
      ...['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--enable-logging=stderr'],
      ...[`--user-data-dir=${profile}`, '--virtual-time-budget=2000', '--timeout=60000', '--dump-dom'],
      `file://${page}`,
    ],
    { stdio: ['ignore', 'pipe', 'pipe'], timeout: 120_000 },
  );
  let dom = '';
  let log = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (dom += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (log += text));
  const [status] = (await once(child, 'close')) as [number | null];
  assert.equal(status, 0, log);
  return { dom, complaints: log.split('\n').filter((line) => line.includes('CONSOLE')) };
}

describe('obd report', { skip, timeout: 240_000 }, () => {
  let dir = '';
  let page = '';
  let report: Report;

  after(() => rm(dir, { recursive: true }));
  before(async () => {
    const snapshot = takeSnapshot();
    dir = await mkdtemp(join(tmpdir(), 'obd-report-test-'));
    const at = (...parts: string[]): string => join(dir, ...parts);
    for (const name of ['images', 'mnt']) mkdirSync(at(name));
    const layers = [
      tarOf([
        { path: 'data/' },
        { path: 'data/big.bin', content: randomBytes(16 << 20) },
        { path: 'data/unread.bin', content: randomBytes(2 << 20) },
      ]),
      tarOf([
        { path: 'evil/' },
        { path: `evil/${EVIL}`, content: randomBytes(300_000) },
        { path: 'evil/x', content: 'x', pax: { path: `evil/${TURNING}` } },
      ]),
    ];
    const source = writeLayout(at('source'), layers);
    await run(process.execPath, [obd, 'convert', source, `oci:${at('images', 'app')}:obd`, '--quiet']);
    const registry = await startRegistryServer({ directory: at('images'), host: '127.0.0.1', port: 0 });
    writeFileSync(
      at('overlaybd.json'),
      JSON.stringify({
        apiSocket: at('run', 'o.sock'),
        transport: 'fuse',
        logConfig: { logPath: at('log') },
        download: { enable: false },
        gzipCacheConfig: { enable: false },
        cacheConfig: { cacheType: 'file', cacheDir: at('cache'), cacheSizeGB: 1, refillSize: 65536 },
      }),
    );
    const flags = ['--service-config', at('overlaybd.json'), '--state-dir', at('state')];
    const call = async (...args: string[]): Promise<string> =>
      (await run(process.execPath, [obd, ...args, ...flags], { maxBuffer: 64 << 20 })).stdout;
    try {
      const host = new URL(registry.url).host;
      await call('mount', `docker://${host}/app:obd`, at('mnt'), '--name', 'evil', '--plain-http');
      try {
        // Not in this process: it also is the registry.
        await run('head', ['-c', '1048576', at('mnt', 'data', 'big.bin')], {
          encoding: 'buffer',
          maxBuffer: 2 << 20,
        });
        await run('cat', [at('mnt', 'evil', EVIL), at('mnt', 'evil', TURNING)], { encoding: 'buffer' });
        // The report, another process, sees of the cache what was written down: the service does that once a second.
        await new Promise((go) => setTimeout(go, 2500));
        // In this order: what a report reads itself is on local disk for the next one.
        report = JSON.parse(await call('report', 'evil', '--json')) as Report;
        page = at('evil.html');
        await call('report', 'evil', '-o', page);
        await assert.rejects(call('report', 'nobody'), (error: { code?: number; stderr?: string }) => {
          assert.equal(error.code, 5);
          assert.match(error.stderr ?? '', /There is no device "nobody"[^]*obd list[^]*OBD_DEVICE_NOT_FOUND/);
          return true;
        });
      } finally {
        await call('umount', at('mnt'));
      }
    } finally {
      await registry.close();
    }
    for (let i = 0; i < 100 && existsSync(at('run', 'o.sock')); i++)
      await new Promise((go) => setTimeout(go, 50));
    assert.deepEqual(await leftSince(snapshot), []);
  });

  test('tells what was read and fetched, of which files and layers', () => {
    const { totals, layers, files, reads, requests, map } = report;
    const file = (path: string) => files.files.find((one) => one.path === path);
    const big = file('/data/big.bin');
    // The kernel reads ahead, as far as the device is set to, but not that far.
    assert.ok(big !== undefined && big.readBytes >= 1 << 20 && big.readBytes < 12 << 20, JSON.stringify(big));
    assert.equal(big.layer, 0);
    assert.ok(big.fetchedBytes >= big.readBytes && big.fetchedBytes <= big.size);
    assert.ok((big.firstRead ?? 0) > 0);
    const evil = file(`/evil/${EVIL}`);
    assert.equal(evil?.readBytes, Math.ceil(300_000 / 4096) * 4096);
    assert.equal(evil.layer, 1);
    assert.equal(file('/data/unread.bin')?.readBytes ?? 0, 0);
    assert.ok(file('/evil/cod\\u202etxt.exe'), 'characters that turn a line are written out');
    assert.equal(files.count, 4);
    assert.equal(files.readCount, 3);
    assert.equal(layers.length, 2);
    for (const layer of layers) {
      assert.match(layer.digest, /^sha256:/);
      assert.ok(layer.presentBytes > 0 && layer.presentBytes <= layer.size);
      // Presence counts in whole units of the cache, of 64 KiB here, and no less than came.
      assert.ok(layer.fetchedBytes + 65536 > layer.presentBytes);
      assert.ok(layer.presentBytes + 65536 > layer.fetchedBytes, JSON.stringify(layer));
    }
    assert.equal(
      totals.readBytes,
      layers.reduce((sum, layer) => sum + layer.readBytes, 0),
    );
    assert.ok(totals.readBytes >= (1 << 20) + 300_000);
    assert.ok(totals.fetchedBytes > 1 << 20 && totals.fetchedBytes < totals.storedBytes * 1.1);
    assert.equal(totals.requests, requests.length);
    assert.ok(requests.every(({ ok, milliseconds }) => ok && milliseconds > 0));
    assert.ok(
      requests.some(({ cause }) => cause === 'open') && requests.some(({ cause }) => cause === 'read'),
    );
    assert.ok(reads.some(({ local }) => local) && reads.some(({ local }) => !local));
    assert.ok(reads.some(({ path }) => path === '/data/big.bin'));
    // Everything that was read came from the registry: the cache was empty.
    assert.ok(map.every(({ read, cause }) => !read || cause !== 'local'));
  });

  test('the page holds nothing that a browser would fetch or run', () => {
    const text = readFileSync(page, 'utf8');
    assert.match(
      text,
      /<meta http-equiv="Content-Security-Policy" content="default-src &#39;none&#39;; style-src &#39;unsafe-inline&#39;" ?\/?>/,
    );
    assert.doesNotMatch(text, /<(script|img|link|iframe|object|embed|base|form)\b/i);
    // Attributes and style rules that name something to load; the file's name alone has such text, escaped.
    assert.doesNotMatch(text, /<[^>]+\s(src|href|action|on\w+)=|url\(|@import/i);
    assert.ok(text.includes('&lt;script&gt;alert(1)&lt;img src=x onerror=alert(2)&gt;&amp;&quot;&#39;.bin'));
    assert.ok(!text.includes('\u202e'));
    assert.equal(statSync(page).mode & 0o777, 0o644);
  });

  test('a browser shows it without complaint', { skip: noBrowser }, async (t) => {
    const control = join(dir, 'control.html');
    writeFileSync(control, '<!DOCTYPE html><script>nobody.home()</script>');
    assert.equal((await browse(t, control)).complaints.length, 1, 'a complaint would be seen');
    const { dom, complaints } = await browse(t, page);
    assert.deepEqual(complaints, []);
    assert.doesNotMatch(dom, /<(script|img)\b/i);
    const rows = (id: string): string[] =>
      (new RegExp(`<table id="${id}">([^]*?)</table>`).exec(dom)?.[1] ?? '').match(
        /<tr>\s*<td[^]*?<\/tr>/g,
      ) ?? [];
    assert.equal(rows('layers').length, 2);
    const files = rows('files');
    assert.match(files[0] ?? '', /\/data\/big\.bin/);
    assert.ok(
      files.some((row) =>
        row.includes('/evil/&lt;script&gt;alert(1)&lt;img src=x onerror=alert(2)&gt;&amp;"\'.bin'),
      ),
    );
    assert.deepEqual(
      rows('requests').map((row) => /<td[^>]*>(\w+)</.exec(row)?.[1]),
      ['open', 'read'],
    );
    assert.match(dom, /<svg[^>]* role="img" aria-label="Map of the disk/);
    assert.match(dom, /<svg[^>]* role="img" aria-label="Timeline/);
  });
});
