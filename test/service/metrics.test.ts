import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { hostname } from 'node:os';
import test from 'node:test';
import { DeviceMeter } from '../../src/blockdev/index.js';
import { ImageOpener, defaultServiceConfig } from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import { MetricsText, processMetrics } from '../../src/metrics/index.js';
import { IoCause } from '../../src/native/index.js';
import { PrefetchTotals } from '../../src/prefetch/index.js';
import {
  DeviceTotals,
  ReferenceMetrics,
  commandMetrics,
  prefetchMetrics,
  sourceMetrics,
} from '../../src/service/index.js';

function reference(correctLabels: boolean): string {
  let n = 0;
  const metrics = new ReferenceMetrics(
    () => ({
      pread: { count: 10 * n, bytes: 4096 * n, longest: n === 3 ? 1500 : 20 },
      download: { count: n, bytes: 0, longest: 0 },
    }),
    correctLabels,
  );
  // Samples are taken while somebody asks: one at once, these a second apart.
  metrics.write(new MetricsText());
  const began = performance.now();
  for (n = 1; n <= 4; n++) metrics.take(began + 1000 * n);
  const out = new MetricsText();
  metrics.write(out);
  metrics.close();
  return out.toString();
}

test("the reference's series have its names, labels and shape", () => {
  const families = reference(false)
    .split('\n\n')
    .filter((text) => text !== '');
  assert.deepEqual(
    families
      .map((text) => text.split('\n').map((line) => line.replace(/ {2}\d.*$/, '  V T')))
      .map(([, ...rest]) => rest),
    [
      ['# TYPE OverlayBD_Alive gauge', `OverlayBD_Alive{node="${hostname()}"}  V T`],
      ...['Read_Throughtput', 'QPS', 'MaxLatency'].map((name) => [
        `# TYPE OverlayBD_${name} gauge`,
        `OverlayBD_${name}{node="pread",type="",mode=""}  V T`,
        `OverlayBD_${name}{node="download",type="",mode=""}  V T`,
      ]),
      [
        '# TYPE OverlayBD_Count gauge',
        'OverlayBD_Count{node="pread",type=""}  V T',
        'OverlayBD_Count{node="download",type=""}  V T',
      ],
    ],
  );
  const text = reference(false);
  assert.match(text, /^OverlayBD_Count\{node="pread",type=""\} {2}40\.000000 \d{13}$/m);
  assert.match(text, /^OverlayBD_MaxLatency\{node="pread",type="",mode=""\} {2}1500\.000000 \d{13}$/m);
  const qps = /^OverlayBD_QPS\{node="pread",type="",mode=""\} {2}([\d.]+) /m.exec(text)?.[1];
  assert.ok(Math.abs(Number(qps) - 10) < 0.2, qps);
});

test('samples are taken while somebody asks; the first answer after a pause is of the time since', (t) => {
  let now = 0;
  let tick: (() => void) | undefined;
  t.mock.method(performance, 'now', () => now);
  t.mock.method(globalThis, 'setInterval', (told: () => void) => {
    tick = told;
    return {
      unref() {
        return this;
      },
    };
  });
  t.mock.method(globalThis, 'clearInterval', () => (tick = undefined));
  const pass = (seconds: number): void => {
    for (let i = 0; i < seconds; i++) {
      now += 1000;
      tick?.();
    }
  };
  let taken = 0;
  let reads = 0;
  const metrics = new ReferenceMetrics(() => {
    taken++;
    return { pread: { count: reads, bytes: 0, longest: 0 }, download: { count: 0, bytes: 0, longest: 0 } };
  }, false);
  const qps = (): number => {
    const out = new MetricsText();
    metrics.write(out);
    return Number(/^OverlayBD_QPS\{node="pread",type="",mode=""\} {2}([\d.]+) /m.exec(out.toString())?.[1]);
  };
  pass(100);
  assert.equal(taken, 1, 'nobody has asked');
  assert.equal(qps(), 0);
  pass(200);
  assert.equal(taken, 2 + 200);
  qps();
  pass(3600);
  assert.equal(taken, 2 + 200 + 300, 'nobody asks any more');
  reads = 2 * 3300;
  assert.equal(qps(), 2, 'an average over the 3300 s without samples');
  reads += 10;
  pass(1);
  assert.equal(qps(), 10, 'then of the time since');
  pass(5);
  assert.equal(qps(), 0, 'and at last of five seconds');
  metrics.close();
  assert.equal(tick, undefined);
});

test('labels can be corrected', () => {
  const text = reference(true);
  assert.ok(text.includes(`OverlayBD_QPS{node="${hostname()}",type="pread",mode=""}  `));
  assert.ok(text.includes(`OverlayBD_Count{node="${hostname()}",type="download"}  `));
});

function busyMeter(): DeviceMeter {
  const meter = new DeviceMeter();
  for (const ms of [0.01, 0.02, 3, 700_000]) {
    meter.begin();
    meter.end(IoCause.GENERAL, ms, 4096, ms < 1000);
  }
  return meter;
}

test('sums keep what devices did that are gone', () => {
  const totals = new DeviceTotals(() => []);
  const reads = (): number => totals.sum().counters.reads;
  const over = totals.add(busyMeter());
  assert.equal(reads(), 4);
  over();
  // It came and went without anybody looking.
  totals.add(busyMeter())();
  assert.equal(reads(), 8);
  const third = totals.add(busyMeter());
  assert.equal(reads(), 12);
  third();
  third();
  assert.equal(reads(), 12);
});

test('histograms are cumulative and end with all of it', () => {
  const device = { id: 'a"b', transport: 'nbd', meter: busyMeter() };
  const totals = new DeviceTotals(() => [device]);
  totals.add(device.meter);
  const out = new MetricsText();
  commandMetrics(out, totals, true);
  const text = out.toString();
  const counts = [
    ...text.matchAll(/^overlaybd_command_seconds_bucket\{op="read",cause="general",le="(.*)"\} (\d+)$/gm),
  ].map(([, , n]) => Number(n));
  assert.deepEqual(
    counts,
    [...counts].sort((a, b) => a - b),
  );
  assert.equal(counts.at(-1), 4);
  assert.equal(counts.at(-2), 3);
  assert.match(text, /^overlaybd_command_errors_total\{op="read",cause="general"\} 1$/m);
  assert.match(
    text,
    /^overlaybd_device_command_seconds_count\{device="a\\"b",transport="nbd",op="read",cause="general"\} 4$/m,
  );
});

const promtool = spawnSync('promtool', ['--version']);
test(
  'promtool takes all of it, and has nothing to say but about the names of the reference',
  {
    skip: promtool.error === undefined ? false : "promtool is not found (Debian's package prometheus has it)",
  },
  async () => {
    const out = new MetricsText().raw(reference(false));
    const opener = new ImageOpener(defaultServiceConfig(silentLogger), silentLogger);
    commandMetrics(out, new DeviceTotals(() => [{ id: 'a', transport: 'fuse', meter: busyMeter() }]), true);
    sourceMetrics(out, opener);
    prefetchMetrics(out, new PrefetchTotals().sums);
    processMetrics(out);
    await opener.close();
    const { stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], {
      input: out.toString(),
      encoding: 'utf8',
    });
    const said = `${stdout}${stderr}`
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('OverlayBD_'));
    assert.deepEqual(said, []);
  },
);
