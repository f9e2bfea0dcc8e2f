import { addon } from './addon.js';
import type { LoadTimes } from './load.js';

/** The compiled class; see native/fake_ring.h. */
export interface NativeFakeRing {
  handle(): number;
  run(load: Required<FakeRingLoad>): Promise<FakeRingResult>;
  attack(attack: number, seed: number): void;
  command(cdb: Buffer, data: Buffer, sense: Buffer): number;
  close(): void;
}

/** Shape of a {@link FakeRing}. */
export interface FakeRingOptions {
  /** Bytes of the command ring; small ones wrap often. */
  readonly ringSize: number;
  /** Blocks of 4 KiB in the data area. */
  readonly dataBlocks: number;
  readonly deviceSize: number;
  readonly readOnly: boolean;
  /** A file equal to the device, against which every read is checked; -1 for no check. */
  readonly verifyFd: number;
}

/** What the fake kernel asks for. */
export interface FakeRingLoad {
  /** Commands in flight, at most 1024. */
  readonly depth: number;
  /** Bytes of each, a multiple of 512, at most 4 MiB. */
  readonly length: number;
  /** Stop after so many; 0 for no such end. */
  readonly operations: number;
  /** Stop after so long; default 0, no such end. */
  readonly seconds?: number;
  /** Percent of writes. */
  readonly writes: number;
  readonly sequential: boolean;
  /** Bytes within which random places stay for 4096 commands; then it lies elsewhere. Default 0, the whole device. */
  readonly window?: number;
  /** Byte offsets to visit; default every multiple of `length`. */
  readonly targets?: Float64Array | undefined;
  /** Break the memory of each command into single blocks in disorder. */
  readonly scatter: boolean;
  readonly seed: number;
}

/** What it saw. */
export interface FakeRingResult extends LoadTimes {
  readonly operations: number;
  readonly failed: number;
  /** Reads that differ from the file. */
  readonly wrong: number;
  /** Answers to no command. */
  readonly violations: number;
  /** 0, or -110 (ETIMEDOUT) when nothing was answered for ten seconds. */
  readonly error: number;
}

/** Ways to break the protocol; the queue must die of each, and nothing else. */
export const FakeRingAttack = {
  HEAD: 1,
  LENGTH_ZERO: 2,
  LENGTH_HUGE: 3,
  IOV_OUTSIDE: 4,
  IOV_IN_RING: 5,
  IOV_COUNT: 6,
  CDB_OUTSIDE: 7,
  GARBAGE: 8,
} as const;

/** A kernel's side of a TCMU ring in this process, for tests and benchmarks. Wraps native/fake_ring.h. */
export class FakeRing {
  readonly #native: NativeFakeRing;

  constructor(options: FakeRingOptions) {
    this.#native = new addon.FakeRing(options);
  }

  /** Of the queue to be served, once. */
  get handle(): number {
    return this.#native.handle();
  }

  run(load: FakeRingLoad): Promise<FakeRingResult> {
    return this.#native.run({ seconds: 0, window: 0, targets: undefined, ...load });
  }

  attack(attack: number, seed = 1): void {
    this.#native.attack(attack, seed);
  }

  /** One SCSI command; `data` is what goes and what comes back. Blocks this thread until it is answered. */
  command(cdb: readonly number[], data: Buffer): { readonly status: number; readonly sense: Buffer } {
    const padded = Buffer.alloc(16);
    padded.set(cdb);
    const sense = Buffer.alloc(18);
    return { status: this.#native.command(padded, data, sense), sense };
  }

  close(): void {
    this.#native.close();
  }
}
