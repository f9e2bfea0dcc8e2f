import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import type { Report } from '../../src/bench/index.js';
import { createLayer } from '../../src/tools/index.js';
import { layerBytes } from '../support/layers.js';
import { checkout } from '../support/fixtures.js';

const run = promisify(execFile);
const QUICK = ['--seconds', '0.05', '--warm-up', '0'];
let dir = '';
const file = (name: string): string => join(dir, name);

before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'obd-bench-cli-'));
  const ops = [{ start: 8, length: 2048, fill: 7 }];
  await writeFile(file('layer'), layerBytes(ops, 8 << 20));
  const lowers = [{ file: file('layer') }];
  await writeFile(file('image.json'), JSON.stringify({ lowers, resultFile: file('result') }));
  await createLayer({ data: file('data'), index: file('index'), virtualSize: 8 << 20 });
  const upper = { data: file('data'), index: file('index') };
  await writeFile(file('rw.json'), JSON.stringify({ lowers, upper, resultFile: file('result') }));
  await writeFile(file('plain'), Buffer.alloc(1 << 20, 3));
  // No log, cache or socket of this machine's own service is touched.
  await writeFile(
    file('service.json'),
    JSON.stringify({
      apiSocket: file('sock'),
      logConfig: { logPath: file('log') },
      cacheConfig: { cacheType: 'file', cacheDir: file('cache'), cacheSizeGB: 1 },
    }),
  );
});
after(() => rm(dir, { recursive: true }));

async function obd(...args: string[]): Promise<string> {
  const { stdout } = await run(process.execPath, [join(checkout, 'bin/obd'), 'bench', ...args]);
  return stdout;
}

/** Runs a benchmark with --json, checks what all have in common, and returns its rows by name. */
async function report(...args: string[]): Promise<Map<string, Report['rows'][number]>> {
  const { what, node, machine, date, rows } = JSON.parse(await obd(...args, '--json')) as Report;
  assert.equal(what, args[0]);
  assert.equal(node, process.version);
  assert.ok(machine.cpus > 0 && machine.memoryMib > 0 && Date.parse(date) > 0);
  for (const row of rows)
    for (const [key, value] of Object.entries(row))
      assert.ok(
        key === 'name' || (typeof value === 'number' && Number.isFinite(value)),
        `${row.name}: ${key}`,
      );
  return new Map(rows.map((row) => [row.name, row]));
}

const service = (): string[] => ['--service-config', file('service.json')];

describe('obd bench', () => {
  for (const mode of ['stack', 'ring'] as const)
    test(`${mode} measures every load that is asked for`, async () => {
      const sizes = ['--bs', '4k,64K', '--depth', '1,4'];
      const rows = await report(mode, file('image.json'), ...service(), ...QUICK, ...sizes);
      assert.deepEqual(
        [...rows.keys()],
        ['4 KiB, QD1', '4 KiB, QD4', '64 KiB, QD1', '64 KiB, QD4'].map((load) => `random read ${load}`),
      );
      for (const row of rows.values()) assert.ok(Number(row['iops']) > 0 && Number(row['p999Us']) > 0);
    });

  test('stack and ring write to an image with an upper, and to no other', async () => {
    for (const mode of ['stack', 'ring']) {
      const rows = await report(
        mode,
        file('rw.json'),
        ...service(),
        ...QUICK,
        '--writes',
        '100',
        '--depth',
        '2',
      );
      assert.ok(Number(rows.get('random write 4 KiB, QD2')?.['iops']) > 0);
      await assert.rejects(
        obd(mode, file('image.json'), ...service(), ...QUICK, '--writes', '1'),
        /no "upper"/,
      );
    }
  });

  test('ring puts a loop in C beside ours', async () => {
    const args = [...QUICK, '--depth', '1', '--yardstick', file('plain')];
    const rows = await report('ring', file('image.json'), ...service(), ...args);
    assert.deepEqual([...rows.keys()], ['random read 4 KiB, QD1', 'all in C: random read 4 KiB, QD1']);
  });

  test('a cold load visits each place at most once', async () => {
    const args = ['--cold', '--seconds', '20', '--depth', '4', '--pattern', 'random,sequential'];
    const rows = await report('stack', file('image.json'), ...service(), ...args);
    assert.equal(rows.size, 2); // and it ended long before 20 seconds: 256 places
  });

  test('device reads a file; it writes only to one that may be destroyed', async () => {
    const before = await readFile(file('plain'));
    const args = ['device', file('plain'), '--buffered', ...QUICK, '--depth', '2'];
    assert.ok(Number((await report(...args)).get('random read 4 KiB, QD2')?.['iops']) > 0);
    await assert.rejects(obd(...args, '--writes', '100'), /--overwrite/);
    assert.deepEqual(await readFile(file('plain')), before);
    await report(...args, '--writes', '100', '--overwrite');
    assert.notDeepEqual(await readFile(file('plain')), before);
    await assert.rejects(obd('device', file('missing'), ...QUICK), /OBD_IO_NOT_FOUND/);
  });

  test('open, index, cache and convert say how long things take', async () => {
    const opened = await report('open', file('image.json'), ...service(), '--runs', '2');
    assert.deepEqual([...opened.keys()], ['open', 'first read', 'close']);
    const sizes = ['--layers', '3', '--extents', '100', '--lookup-in', '1000', '--runs', '2'];
    const index = await report('index', ...sizes);
    assert.ok([...index.keys()].includes('merge and index 3 layers of 100 extents'));
    const cache = await report('cache', dir, '--size', '1M', '--reads', '64');
    assert.equal(cache.get('plan of 4 KiB')?.['foundShare'], 1);
    await run('tar', ['-C', dir, '-cf', file('layer.tar'), 'plain', 'layer']);
    const converted = await report('convert', file('layer.tar'), '--runs', '1', '--workdir', dir);
    assert.equal(converted.get('run 1')?.['entries'], 2);
  });

  test('attach measures a service of its own, and leaves nothing', async () => {
    const args = ['--transport', 'nbd', '--devices', '3', '--idle', '0.2'];
    const rows = await report('attach', file('image.json'), ...args);
    assert.ok(Number(rows.get('attach')?.['medianMs']) > 0);
    assert.ok(Number(rows.get('memory of the service with 4')?.['privateKib']) > 1000);
  });

  test('prints a table for people', async () => {
    const text = await obd('ring', file('image.json'), ...service(), ...QUICK, '--depth', '1');
    const [titles = '', row = ''] = text.split('\n');
    assert.match(titles, /^ +IOPS +MB\/S +P50 us +P99 us +P99\.9 us +CPU$/);
    assert.match(row, /^random read 4 KiB, QD1( +[\d.]+){6}$/);
    assert.match(text, /Node\.js v\d+.*load average [\d.]+\n$/);
  });

  test('refuses wrong loads with the flag and what it expects', async () => {
    const wrong: readonly (readonly [string[], RegExp])[] = [
      [['--bs', '1000'], /expected whole sectors/],
      [['--depth', '0'], /--depth is "0", expected a number from 1 to 1024/],
      [['--pattern', 'zigzag'], /--pattern is "zigzag", expected random, sequential, local/],
      [['--seconds', 'soon'], /--seconds is "soon"/],
    ];
    for (const [flags, message] of wrong)
      await assert.rejects(obd('ring', file('image.json'), ...service(), ...flags), message);
  });
});
