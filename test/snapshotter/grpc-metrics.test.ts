import assert from 'node:assert/strict';
import test from 'node:test';
import { MetricsText } from '../../src/metrics/index.js';
import { GrpcMetrics } from '../../src/snapshotter/index.js';

test("the snapshotter's series are the reference's", () => {
  const metrics = new GrpcMetrics();
  metrics.ended('Prepare', 0.15, true);
  metrics.ended('Prepare', 60, false);
  metrics.ended('List', 1, true);
  const out = new MetricsText();
  metrics.write(out);
  const text = out.toString();
  assert.match(text, /^# TYPE grpc_error_count counter$/m);
  assert.match(text, /^is_alive 1$/m);
  assert.match(text, /^grpc_error_count\{function="Prepare"\} 1$/m);
  assert.match(text, /^grpc_latency_seconds_count\{function="Walk"\} 1$/m);
  const bounds = [...text.matchAll(/_bucket\{function="Prepare",le="(.*)"\} (\d)/g)].map(([, le, n]) => [
    le,
    n,
  ]);
  assert.equal(bounds.length, 21);
  assert.deepEqual(bounds.slice(0, 2), [
    ['0.0001', '0'],
    ['0.0002', '1'],
  ]);
  assert.deepEqual(bounds.slice(-2), [
    ['52.4288', '2'],
    ['+Inf', '2'],
  ]);
});
