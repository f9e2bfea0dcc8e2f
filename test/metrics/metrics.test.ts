import assert from 'node:assert/strict';
import { createServer, type AddressInfo } from 'node:net';
import test, { type TestContext } from 'node:test';
import { silentLogger, type Logger } from '../../src/log/index.js';
import {
  Exporter,
  LabelledCounter,
  LabelledHistogram,
  MetricsText,
  metricsText,
  processMetrics,
} from '../../src/metrics/index.js';

test('MetricsText writes the text format, awkward labels included', () => {
  const out = new MetricsText();
  out.family('a_total', 'counter', 'Two\nlines').sample(1).sample(2.5, { x: 'q"\\\n' });
  out.family('h', 'histogram', 'H').histogram([[0.001, 1]], 3, 0.25, { d: '1' });
  assert.equal(
    out.toString(),
    '# HELP a_total Two\\nlines\n# TYPE a_total counter\na_total 1\na_total{x="q\\"\\\\\\n"} 2.5\n' +
      '# HELP h H\n# TYPE h histogram\nh_bucket{d="1",le="0.001"} 1\nh_bucket{d="1",le="+Inf"} 3\nh_sum{d="1"} 0.25\nh_count{d="1"} 3\n',
  );
});

test('instruments count by label', () => {
  const counter = new LabelledCounter({ name: 'c_total', help: 'C', label: 'f' });
  counter.add('x');
  counter.add('x', 2);
  const histogram = new LabelledHistogram({ name: 'h', help: 'H', label: 'f' }, [1, 2]);
  for (const value of [0.5, 1, 1.5, 9]) histogram.observe('x', value);
  const text = metricsText([
    (out) => {
      counter.write(out);
    },
    (out) => {
      histogram.write(out);
    },
  ]);
  assert.match(text, /^c_total\{f="x"\} 3$/m);
  for (const line of [
    'h_bucket{f="x",le="1"} 2',
    'h_bucket{f="x",le="2"} 3',
    'h_bucket{f="x",le="+Inf"} 4',
    'h_sum{f="x"} 12',
  ])
    assert.ok(text.includes(`${line}\n`), line);
});

test('a process tells its basics', () => {
  const out = new MetricsText();
  processMetrics(out);
  const value = (name: string): number => Number(new RegExp(`^${name} (.*)$`, 'm').exec(out.toString())?.[1]);
  assert.ok(value('process_resident_memory_bytes') > 1e6);
  assert.ok(value('process_open_fds') > 3);
  assert.ok(Math.abs(value('process_start_time_seconds') + process.uptime() - Date.now() / 1000) < 5);
});

async function listening(exporter: Exporter): Promise<number> {
  for (let i = 0; i < 200 && exporter.port === undefined; i++) await new Promise((go) => setTimeout(go, 10));
  assert.ok(exporter.port !== undefined, 'it listens');
  return exporter.port;
}

function start(t: TestContext, text: () => string, log: Logger = silentLogger, port = 0): Exporter {
  const exporter = new Exporter({ uriPrefix: '/metrics', port, address: '127.0.0.1' }, text, log);
  t.after(() => exporter.close());
  return exporter;
}

test('Exporter answers any path below its prefix, reads only, and survives a source that fails', async (t) => {
  let fail = false;
  const exporter = start(t, () => {
    if (fail) throw new Error('broken');
    return 'a 1\n';
  });
  const url = `http://127.0.0.1:${await listening(exporter)}`;
  const good = await fetch(`${url}/metrics/any`);
  assert.equal(await good.text(), 'a 1\n');
  assert.match(good.headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/);
  assert.equal((await fetch(`${url}/metrics`, { method: 'HEAD' })).status, 200);
  assert.equal((await fetch(`${url}/other`)).status, 404);
  assert.equal((await fetch(`${url}/metrics`, { method: 'POST', body: 'x' })).status, 405);
  fail = true;
  assert.equal((await fetch(`${url}/metrics`)).status, 500);
});

test('a port in use is one clear line in the log, and nothing else', async (t) => {
  const other = createServer().listen(0, '127.0.0.1');
  await new Promise((go) => other.once('listening', go));
  t.after(() => other.close());
  const { port } = other.address() as AddressInfo;
  const lines: [fields: Record<string, unknown>, message: string][] = [];
  const note = (fields: unknown, message?: unknown): void => {
    lines.push([fields as Record<string, unknown>, String(message)]);
  };
  const exporter = start(t, () => '', { ...silentLogger, error: note }, port);
  for (let i = 0; i < 200 && lines.length === 0; i++) await new Promise((go) => setTimeout(go, 10));
  const [line] = lines;
  assert.ok(line !== undefined && lines.length === 1);
  assert.match(line[1], /port cannot be used/);
  assert.equal(line[0]['port'], port);
  assert.match(String(line[0]['hint']), /exporterConfig\.port/);
  assert.equal(exporter.port, undefined);
  await exporter.close();
});
