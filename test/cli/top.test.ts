import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { DeviceMeter } from '../../src/blockdev/index.js';
import { topRows } from '../../src/cli/top-rows.js';
import { silentLogger } from '../../src/log/index.js';
import { IoCause } from '../../src/native/index.js';
import { AdminServer, type DeviceInfo, type TrafficAnswer } from '../../src/service/index.js';
import { tempDir } from '../support/unpack.js';

const device: DeviceInfo = {
  id: 'a',
  state: 'ready',
  transport: 'fuse',
  configPath: '/x',
  devicePath: '/dev/loop7',
  since: new Date(0).toISOString(),
  reads: 0,
  bytesRead: 0,
  bytesFetched: 1000,
  remoteBytes: 0,
  presentBytes: 0,
  errors: 0,
};

/** A meter after so many reads of 1 ms that were local and of 100 ms that were not. */
function meter(local: number, fetched: number): number[] {
  const m = new DeviceMeter();
  for (let i = 0; i < local; i++) {
    m.begin();
    m.end(IoCause.LOCAL, 1, 4096, true);
  }
  for (let i = 0; i < fetched; i++) {
    m.begin();
    m.end(IoCause.GENERAL, 100, 4096, true);
  }
  m.begin();
  return [...m.words];
}

const at = (atMs: number, local: number, fetched: number, since = device.since): TrafficAnswer => ({
  atMs,
  devices: [{ device: { ...device, since, bytesFetched: 1000 * fetched }, meter: meter(local, fetched) }],
});

test('topRows tells what happened between two looks', () => {
  const [row] = topRows(at(0, 1000, 5), at(2000, 1180, 25));
  assert.ok(row !== undefined);
  assert.equal(row.readIops, 100);
  assert.equal(row.readBytesPerSecond, 409600);
  assert.equal(row.fetchedBytesPerSecond, 10000);
  assert.equal(row.hitRatio, 0.9);
  assert.equal(row.inFlight, 1);
  assert.ok(Math.abs((row.p50Us ?? 0) - 1000) < 250, String(row.p50Us));
  assert.ok(Math.abs((row.p99Us ?? 0) - 100_000) < 25_000, String(row.p99Us));
});

test('topRows takes a device of the same name for another one, and a silent one for silent', () => {
  const [again] = topRows(at(0, 1000, 0), at(1000, 10, 0, new Date(9).toISOString()));
  assert.equal(again?.readIops, 10);
  const [silent] = topRows(at(0, 10, 0), at(1000, 10, 0));
  assert.deepEqual([silent?.readIops, silent?.p50Us, silent?.hitRatio], [0, undefined, undefined]);
});

test('obd top --once prints a table, and with --json a line', async (t) => {
  const dir = tempDir(t);
  const socket = join(dir, 'sock');
  let looks = 0;
  const no = (): never => assert.fail('not asked for');
  const server = await AdminServer.listen(
    socket,
    {
      ...{
        info: no,
        attach: no,
        detach: no,
        abort: no,
        get: no,
        list: no,
        activity: no,
        snapshot: no,
        metrics: no,
      },
      traffic: () => at(1000 * looks, 100 * ++looks, 0),
    },
    silentLogger,
  );
  t.after(() => server.close());
  const config = join(dir, 'overlaybd.json');
  writeFileSync(config, JSON.stringify({ apiSocket: socket }));
  const obd = (...more: string[]): Promise<string> =>
    new Promise((resolve) => {
      const bin = new URL('../../../bin/obd', import.meta.url).pathname;
      const child = spawn(bin, ['top', '--service-config', config, '--once', '--interval', '0.2', ...more]);
      let text = '';
      child.stdout.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      child.on('close', (code) => {
        resolve(`${code}\n${text}`);
      });
    });
  const plain = await obd();
  assert.match(plain, /^0\nID +DEVICE .*\na +\/dev\/loop7 +ready +100 +0 +400 KiB/);
  assert.ok(!plain.includes('\x1b'), 'no control sequences');
  const [code, line] = (await obd('--json')).split('\n');
  assert.equal(code, '0');
  const { devices } = JSON.parse(line ?? '') as { devices: { readIops: number }[] };
  assert.equal(devices[0]?.readIops, 100);
});
