import type { Layer } from './layer.js';
import type { WritableLayer } from './writable-layer.js';

/** What the owner of a stack does while another upper is put on it. */
export interface RestackSteps {
  /** The new upper: empty, of the stack's size, durable. The stack's own once this succeeds. */
  readonly next: WritableLayer;
  /** Told what has been done; for tests, which end the process there. */
  readonly reached: (step: 'sealed') => void | Promise<void>;
  /** Opens the data file of the old upper, which is sealed now, as a lower. */
  readonly reopen: () => Promise<Layer>;
  /** Makes the new stack the one that is opened next time. If it rejects, nothing may have changed. */
  readonly commit: () => Promise<void>;
  /** Tells those who read on their own. Settles when no new read goes by `WritableLayerStack.pageTable()` of before. */
  readonly adopt: () => Promise<void>;
  /** Settles when the reads that are in flight elsewhere now have ended. */
  readonly readsElsewherePassed: () => Promise<void>;
}

/** What putting another upper on a stack took. */
export interface RestackResult {
  /** For how long writes waited. */
  readonly pauseMs: number;
}
