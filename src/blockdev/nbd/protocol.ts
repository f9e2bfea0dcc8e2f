/**
 * Numbers and layouts of the NBD protocol as we speak it: fixed newstyle, structured replies, base:allocation.
 * Source: the NBD project's doc/proto.md. All integers are big-endian.
 */

export const NBD_MAGIC = 0x4e42444d41474943n; // "NBDMAGIC"
export const OPTION_MAGIC = 0x49484156454f5054n; // "IHAVEOPT"
export const OPTION_REPLY_MAGIC = 0x3e889045565a9n;
export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

/** Handshake flags, the same bits on both sides: FIXED_NEWSTYLE and NO_ZEROES. */
export const Handshake = { FIXED_NEWSTYLE: 1, NO_ZEROES: 2 } as const;

/** Options of the handshake. */
export const Option = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
} as const;

/** Kinds of option reply. */
export const OptionReply = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_INVALID: 0x80000003,
  ERR_UNKNOWN: 0x80000006,
  ERR_TOO_BIG: 0x80000009,
} as const;

/** Kinds of information in a reply to INFO and GO. */
export const Info = { EXPORT: 0, BLOCK_SIZE: 3 } as const;

/** What an export can do. */
export const TransmissionFlag = {
  HAS_FLAGS: 1,
  READ_ONLY: 2,
  SEND_FLUSH: 4,
  SEND_FUA: 8,
  SEND_TRIM: 32,
  SEND_WRITE_ZEROES: 64,
  SEND_DF: 128,
  CAN_MULTI_CONN: 256,
  SEND_CACHE: 1024,
} as const;

/** Commands of the transmission phase. */
export const Command = {
  READ: 0,
  WRITE: 1,
  DISCONNECT: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;

/** Flags of a command. */
export const CommandFlag = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8 } as const;

/** Kinds of structured chunk, and the flag of the last one. */
export const Chunk = {
  DONE: 1,
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  ERROR: 0x8001,
} as const;

/** Status bits of base:allocation. */
export const Allocation = { HOLE: 1, ZERO: 2 } as const;

/** The errors the protocol allows. */
export const NbdError = { EPERM: 1, EIO: 5, EINVAL: 22, ENOSPC: 28, EOVERFLOW: 75, ENOTSUP: 95 } as const;

/** Largest payload of one command; also what we advertise. 32 MiB is what clients may assume (doc/proto.md). */
export const MAX_PAYLOAD = 32 << 20;

/** One request as it is on the wire, 28 bytes. */
export interface Request {
  readonly flags: number;
  readonly command: number;
  /** Opaque to us, returned as it came. */
  readonly cookie: bigint;
  readonly offset: number;
  readonly length: number;
}

/** Bytes of a request header. */
export const REQUEST_SIZE = 28; // magic 4, flags 2, type 2, cookie 8, offset 8, length 4

/** Parses a request header; undefined if the magic is wrong. An offset beyond 2^53 becomes Infinity: out of range. */
export function parseRequest(header: Buffer): Request | undefined {
  if (header.readUInt32BE(0) !== REQUEST_MAGIC) return undefined;
  const offset = header.readBigUInt64BE(16);
  return {
    flags: header.readUInt16BE(4),
    command: header.readUInt16BE(6),
    cookie: header.readBigUInt64BE(8),
    offset: offset <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(offset) : Infinity,
    length: header.readUInt32BE(24),
  };
}

/** A reply to an option. */
export function optionReply(option: number, kind: number, data: Uint8Array = new Uint8Array()): Buffer {
  const header = Buffer.alloc(20);
  header.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(kind, 12);
  header.writeUInt32BE(data.byteLength, 16);
  return Buffer.concat([header, data]);
}

/** A simple reply without payload. */
export function simpleReply(cookie: bigint, error: number): Buffer {
  const reply = Buffer.alloc(16);
  reply.writeUInt32BE(SIMPLE_REPLY_MAGIC, 0);
  reply.writeUInt32BE(error, 4);
  reply.writeBigUInt64BE(cookie, 8);
  return reply;
}

/** Header of a structured chunk followed by `length` bytes. */
export function chunkHeader(cookie: bigint, kind: number, flags: number, length: number): Buffer {
  const header = Buffer.alloc(20);
  header.writeUInt32BE(STRUCTURED_REPLY_MAGIC, 0);
  header.writeUInt16BE(flags, 4);
  header.writeUInt16BE(kind, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeUInt32BE(length, 16);
  return header;
}

/** A structured error chunk, the last of its reply. */
export function errorChunk(cookie: bigint, error: number, message: string): Buffer {
  const text = Buffer.from(message).subarray(0, 4096);
  const body = Buffer.alloc(6);
  body.writeUInt32BE(error, 0);
  body.writeUInt16BE(text.byteLength, 4);
  return Buffer.concat([
    chunkHeader(cookie, Chunk.ERROR, Chunk.DONE, body.byteLength + text.byteLength),
    body,
    text,
  ]);
}
