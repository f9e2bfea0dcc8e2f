/**
 * The second phase of an NBD connection: commands in, replies out, in any order.
 *
 * Bounds: a client may have {@link MAX_IN_FLIGHT} commands and {@link MAX_BYTES_IN_FLIGHT} of payload under way; we
 * stop reading its socket until some are done. A client that does not take its replies stops itself that way too.
 */
import type { Writable } from 'node:stream';
import { OverlaybdError, type ErrorCode } from '../../blob/index.js';
import type { Logger } from '../../log/index.js';
import type { BlockDevice } from '../block-device.js';
import { IoCause } from '../../native/index.js';
import type { DeviceMeter } from '../device-meter.js';
import type { IoGuard } from '../io-guard.js';
import type { ByteReader } from './byte-reader.js';
import { ALLOCATION_CONTEXT, type Negotiated } from './handshake.js';
import {
  Allocation,
  Chunk,
  chunkHeader,
  Command,
  CommandFlag,
  errorChunk,
  MAX_PAYLOAD,
  NbdError,
  parseRequest,
  REQUEST_SIZE,
  simpleReply,
  type Request,
} from './protocol.js';

/** Deep enough for any client's queue; a kernel client has 128. */
const MAX_IN_FLIGHT = 128;
/** Two of the largest payloads, so that a reader of 32 MiB does not stop a second one. */
const MAX_BYTES_IN_FLIGHT = 2 * MAX_PAYLOAD;
/** Most descriptors in one answer to BLOCK_STATUS: 64 KiB of reply; the client asks again for the rest. */
const MAX_EXTENTS = 8192;
/** Zeroes are written in pieces of this size where the device cannot discard. */
const ZERO_PIECE = 1 << 20;
const ZEROES = new Uint8Array(ZERO_PIECE);
/** The flags that mean something with a command; FUA is allowed with every one, and matters to those that write. */
const FLAGS: Readonly<Partial<Record<number, number>>> = {
  [Command.READ]: CommandFlag.FUA | CommandFlag.DF,
  [Command.WRITE]: CommandFlag.FUA,
  [Command.FLUSH]: CommandFlag.FUA,
  [Command.TRIM]: CommandFlag.FUA,
  [Command.CACHE]: CommandFlag.FUA,
  [Command.WRITE_ZEROES]: CommandFlag.FUA | CommandFlag.NO_HOLE,
  [Command.BLOCK_STATUS]: CommandFlag.FUA | CommandFlag.REQ_ONE,
};

/** What commands count as. Where a read's bytes come from is not known here. */
const CAUSES: Readonly<Partial<Record<number, number>>> = {
  [Command.READ]: IoCause.GENERAL,
  [Command.WRITE]: IoCause.WRITE,
  [Command.FLUSH]: IoCause.FLUSH,
  [Command.TRIM]: IoCause.DISCARD,
  [Command.WRITE_ZEROES]: IoCause.DISCARD,
};

/** A device, and the policy that its commands go through. */
export interface Served {
  readonly device: BlockDevice;
  readonly guard: IoGuard;
  readonly meter: DeviceMeter;
}

/** Serves commands until the client disconnects or breaks the protocol. Waits for the commands in flight. */
export async function transmission(
  reader: ByteReader,
  out: Writable,
  served: Served,
  negotiated: Negotiated,
  log: Logger,
): Promise<void> {
  const running = new Set<Promise<void>>();
  const room = new WriteRoom(out);
  let bytes = 0;
  try {
    for (;;) {
      while (running.size >= MAX_IN_FLIGHT || bytes > MAX_BYTES_IN_FLIGHT) await Promise.race(running);
      const header = await reader.take(REQUEST_SIZE);
      if (header === undefined) return;
      const request = parseRequest(header);
      if (request === undefined) throw new Error('Request with wrong magic');
      if (request.command === Command.DISCONNECT) return;
      let payload: Buffer | undefined;
      if (request.command === Command.WRITE) {
        if (request.length > MAX_PAYLOAD)
          throw new Error(`Write of ${request.length} bytes, at most ${MAX_PAYLOAD} allowed`);
        payload = await reader.take(request.length);
        if (payload === undefined) return;
      }
      const cost = request.command === Command.READ || payload !== undefined ? request.length : 0;
      bytes += cost;
      const work = answer(room, served, negotiated, request, payload, log).finally(() => {
        bytes -= cost;
        running.delete(work);
      });
      running.add(work);
    }
  } finally {
    await Promise.allSettled(running);
  }
}

/** Writes replies whole, and waits while the client does not take them; one listener however many wait. */
class WriteRoom {
  readonly #out: Writable;
  #waiting: (() => void)[] = [];

  constructor(out: Writable) {
    this.#out = out;
    const wake = (): void => {
      const waiting = this.#waiting;
      this.#waiting = [];
      for (const resolve of waiting) resolve();
    };
    out.on('drain', wake).on('close', wake);
  }

  /** Settles when there is room for more, or the client is gone. */
  async write(parts: readonly Buffer[]): Promise<void> {
    if (this.#out.destroyed) return;
    let more = true;
    for (const part of parts) more = this.#out.write(part);
    if (!more) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}

async function answer(
  room: WriteRoom,
  served: Served,
  negotiated: Negotiated,
  request: Request,
  payload: Buffer | undefined,
  log: Logger,
): Promise<void> {
  let reply: Buffer[];
  let ok = true;
  const began = performance.now();
  served.meter.begin();
  try {
    reply = await execute(served, negotiated, request, payload);
  } catch (error) {
    ok = false;
    const number = nbdError(error);
    served.guard.failed(error);
    if (number === NbdError.EIO)
      log.error({ err: error, offset: request.offset, length: request.length }, 'nbd command failed');
    const message = error instanceof Error ? error.message : 'unknown failure';
    reply = [
      negotiated.structuredReplies
        ? errorChunk(request.cookie, number, message)
        : simpleReply(request.cookie, number),
    ];
  }
  const bytes = request.command === Command.READ || request.command === Command.WRITE ? request.length : 0;
  served.meter.end(CAUSES[request.command], performance.now() - began, bytes, ok);
  // A reply counts as in flight until the client has room for it.
  await room.write(reply);
}

async function execute(
  { device, guard }: Served,
  negotiated: Negotiated,
  request: Request,
  payload: Buffer | undefined,
): Promise<Buffer[]> {
  const { command, offset, length, cookie, flags } = request;
  if ((flags & ~(FLAGS[command] ?? 0)) !== 0)
    throw new RequestError(NbdError.EINVAL, `Command ${command} with flags ${flags}`);
  const done = (): Buffer[] => [
    negotiated.structuredReplies ? chunkHeader(cookie, Chunk.NONE, Chunk.DONE, 0) : simpleReply(cookie, 0),
  ];
  const durable = async (): Promise<Buffer[]> => {
    if ((flags & CommandFlag.FUA) !== 0) await guard.change(0, 0, () => device.flush());
    return done();
  };
  switch (command) {
    case Command.READ: {
      if (length > MAX_PAYLOAD)
        throw new RequestError(NbdError.EOVERFLOW, `Read of ${length} bytes, at most ${MAX_PAYLOAD} allowed`);
      const data = Buffer.allocUnsafe(length);
      await guard.read(offset, data);
      device.reads.note(offset, length, false);
      if (!negotiated.structuredReplies) return [simpleReply(cookie, 0), data];
      const at = Buffer.alloc(8);
      at.writeBigUInt64BE(BigInt(offset), 0);
      return [chunkHeader(cookie, Chunk.OFFSET_DATA, Chunk.DONE, 8 + length), at, data];
    }
    case Command.WRITE:
      await guard.change(offset, length, () => device.write(offset, payload ?? Buffer.alloc(0)));
      return durable();
    case Command.FLUSH:
      await guard.change(0, 0, () => device.flush());
      return done();
    case Command.TRIM:
      await guard.change(offset, length, () => device.discard(offset, length));
      return durable();
    case Command.WRITE_ZEROES:
      if ((flags & CommandFlag.NO_HOLE) === 0)
        await guard.change(offset, length, () => device.discard(offset, length));
      else
        for (let at = 0; at < length; at += ZERO_PIECE)
          await guard.change(offset + at, ZERO_PIECE, () =>
            device.write(offset + at, ZEROES.subarray(0, Math.min(ZERO_PIECE, length - at))),
          );
      return durable();
    case Command.CACHE: {
      // Reading is what fills the cache.
      const piece = Buffer.allocUnsafe(Math.min(length, ZERO_PIECE));
      for (let at = 0; at < length; at += piece.byteLength)
        await guard.read(offset + at, piece.subarray(0, Math.min(piece.byteLength, length - at)));
      return done();
    }
    case Command.BLOCK_STATUS:
      if (!negotiated.allocation)
        throw new RequestError(NbdError.EINVAL, 'Block status without base:allocation');
      if (length === 0) throw new RequestError(NbdError.EINVAL, 'Block status of nothing');
      return blockStatus(device, request);
    default:
      throw new RequestError(NbdError.EINVAL, `Unknown command ${command}`);
  }
}

function blockStatus(device: BlockDevice, request: Request): Buffer[] {
  const most = (request.flags & CommandFlag.REQ_ONE) !== 0 ? 1 : MAX_EXTENTS;
  const runs: { length: number; status: number }[] = [];
  for (const extent of device.extents(request.offset, request.length)) {
    const status = extent.data ? 0 : Allocation.HOLE | Allocation.ZERO;
    const last = runs.at(-1);
    if (last?.status === status) last.length += extent.length;
    else if (runs.length === most) break;
    else runs.push({ length: extent.length, status });
  }
  const body = Buffer.alloc(4 + 8 * runs.length);
  body.writeUInt32BE(ALLOCATION_CONTEXT, 0);
  runs.forEach((run, i) => {
    body.writeUInt32BE(run.length, 4 + 8 * i);
    body.writeUInt32BE(run.status, 8 + 8 * i);
  });
  return [chunkHeader(request.cookie, Chunk.BLOCK_STATUS, Chunk.DONE, body.byteLength), body];
}

/** A request that the protocol does not allow; the connection goes on. */
class RequestError extends Error {
  readonly number: number;
  constructor(number: number, message: string) {
    super(message);
    this.number = number;
  }
}

const NUMBERS: Partial<Record<ErrorCode, number>> = {
  OBD_DEVICE_OUT_OF_RANGE: NbdError.EINVAL,
  OBD_DEVICE_READ_ONLY: NbdError.EPERM,
  OBD_DEVICE_UNSUPPORTED: NbdError.ENOTSUP,
  OBD_IO_NO_SPACE: NbdError.ENOSPC,
  OBD_CACHE_FULL: NbdError.ENOSPC,
};

function nbdError(error: unknown): number {
  if (error instanceof RequestError) return error.number;
  if (error instanceof OverlaybdError) return NUMBERS[error.code] ?? NbdError.EIO;
  return NbdError.EIO;
}
