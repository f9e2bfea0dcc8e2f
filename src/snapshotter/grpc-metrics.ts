import { LabelledCounter, LabelledHistogram, type MetricsText } from '../metrics/index.js';

/** The reference's: 0.1 ms, doubled nineteen times. */
const BOUNDS = Array.from({ length: 20 }, (_, i) => 2 ** i / 10_000);

/** The reference's series (service.md F.1): one value of `function` per call. */
export class GrpcMetrics {
  readonly #errors = new LabelledCounter({
    name: 'grpc_error_count',
    help: 'Requests that failed',
    label: 'function',
  });
  readonly #latency = new LabelledHistogram(
    { name: 'grpc_latency_seconds', help: 'Time of a request', label: 'function' },
    BOUNDS,
  );

  /** A request is over. `List` of the protocol is `Walk` there. */
  ended(method: string, milliseconds: number, ok: boolean): void {
    const name = method === 'List' ? 'Walk' : method;
    this.#latency.observe(name, milliseconds / 1000);
    if (!ok) this.#errors.add(name);
  }

  readonly write = (out: MetricsText): void => {
    out.family('is_alive', 'gauge', 'Whether the snapshotter runs').sample(1);
    this.#errors.write(out);
    this.#latency.write(out);
  };
}
