import { readdirSync } from 'node:fs';
import { monitorEventLoopDelay, type IntervalHistogram } from 'node:perf_hooks';
import type { MetricsText } from './text.js';

let delay: IntervalHistogram | undefined;
const startedAt = Date.now() / 1000 - process.uptime();

/** This process's basics, by the names that every Prometheus client gives them. */
export function processMetrics(out: MetricsText): void {
  const { user, system } = process.cpuUsage();
  const memory = process.memoryUsage();
  out.family('process_cpu_seconds_total', 'counter', 'Processor time').sample((user + system) / 1e6);
  out.family('process_resident_memory_bytes', 'gauge', 'Memory in RAM').sample(memory.rss);
  out.family('process_start_time_seconds', 'gauge', 'Unix time of the start').sample(startedAt);
  const files = openFiles();
  if (files !== undefined) out.family('process_open_fds', 'gauge', 'Open file descriptors').sample(files);
  out.family('nodejs_heap_size_used_bytes', 'gauge', 'JavaScript heap in use').sample(memory.heapUsed);
  out.family('nodejs_external_memory_bytes', 'gauge', 'Memory of buffers').sample(memory.external);
  // From the first look on; each look begins a new interval.
  if (delay === undefined) {
    delay = monitorEventLoopDelay({ resolution: 20 });
    delay.enable();
  }
  const longest = delay.count > 0 ? delay.max / 1e9 : 0;
  out
    .family(
      'nodejs_eventloop_lag_max_seconds',
      'gauge',
      'Longest delay of the main thread since the last look',
    )
    .sample(longest);
  delay.reset();
}

function openFiles(): number | undefined {
  try {
    return readdirSync('/proc/self/fd').length - 1; // its own
  } catch {
    return undefined;
  }
}
