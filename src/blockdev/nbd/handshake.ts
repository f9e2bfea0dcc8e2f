/**
 * The first phase of an NBD connection: the client picks options until it enters transmission (EXPORT_NAME, GO) or
 * leaves (ABORT). There is one export, and every name means it: a socket serves one device.
 */
import type { Writable } from 'node:stream';
import type { BlockDevice } from '../block-device.js';
import type { ByteReader } from './byte-reader.js';
import {
  Handshake,
  Info,
  MAX_PAYLOAD,
  NBD_MAGIC,
  Option,
  OPTION_MAGIC,
  optionReply,
  OptionReply,
  TransmissionFlag,
} from './protocol.js';

/** What the client chose. */
export interface Negotiated {
  readonly structuredReplies: boolean;
  /** The client selected base:allocation, under {@link ALLOCATION_CONTEXT}. */
  readonly allocation: boolean;
}

/** Our number for base:allocation. */
export const ALLOCATION_CONTEXT = 1;
const ALLOCATION_NAME = 'base:allocation';

/** Options are names and short lists; the protocol caps strings at 4096. */
const MAX_OPTION_DATA = 65536;
/** A client that goes on choosing for ever is cut off. */
const MAX_OPTIONS = 256;

/** What the device can do, as transmission flags. */
export function transmissionFlags(device: BlockDevice): number {
  const F = TransmissionFlag;
  const common = F.HAS_FLAGS | F.SEND_FLUSH | F.SEND_DF | F.CAN_MULTI_CONN | F.SEND_CACHE;
  return device.readOnly ? common | F.READ_ONLY : common | F.SEND_FUA | F.SEND_TRIM | F.SEND_WRITE_ZEROES;
}

/** Runs the handshake; undefined if the client left. @throws Error if it breaks the protocol. */
export async function handshake(
  reader: ByteReader,
  out: Writable,
  device: BlockDevice,
): Promise<Negotiated | undefined> {
  const hello = Buffer.alloc(18);
  hello.writeBigUInt64BE(NBD_MAGIC, 0);
  hello.writeBigUInt64BE(OPTION_MAGIC, 8);
  hello.writeUInt16BE(Handshake.FIXED_NEWSTYLE | Handshake.NO_ZEROES, 16);
  out.write(hello);
  const answer = await reader.take(4);
  if (answer === undefined) return undefined;
  const clientFlags = answer.readUInt32BE(0);
  if ((clientFlags & Handshake.FIXED_NEWSTYLE) === 0 || clientFlags > 3)
    throw new Error(`Client flags are ${clientFlags}, expected fixed newstyle (1 or 3)`);

  let structuredReplies = false;
  let allocation = false;
  for (let count = 0; count < MAX_OPTIONS; count++) {
    const header = await reader.take(16);
    if (header === undefined) return undefined;
    if (header.readBigUInt64BE(0) !== OPTION_MAGIC) throw new Error('Option without IHAVEOPT');
    const option = header.readUInt32BE(8);
    const length = header.readUInt32BE(12);
    if (length > MAX_OPTION_DATA)
      throw new Error(`Option ${option} of ${length} bytes, at most ${MAX_OPTION_DATA} allowed`);
    const data = await reader.take(length);
    if (data === undefined) return undefined;
    const reply = (kind: number, body?: Uint8Array): unknown => out.write(optionReply(option, kind, body));
    switch (option) {
      case Option.EXPORT_NAME:
        out.write(oldExport(device, (clientFlags & Handshake.NO_ZEROES) !== 0));
        return { structuredReplies, allocation };
      case Option.ABORT:
        reply(OptionReply.ACK);
        return undefined;
      case Option.LIST:
        if (length > 0) {
          reply(OptionReply.ERR_INVALID);
          break;
        }
        reply(OptionReply.SERVER, Buffer.alloc(4)); // one export with the empty name
        reply(OptionReply.ACK);
        break;
      case Option.INFO:
      case Option.GO:
        if (!isInfoRequest(data)) {
          reply(OptionReply.ERR_INVALID);
          break;
        }
        reply(OptionReply.INFO, exportInfo(device));
        reply(OptionReply.INFO, blockSizeInfo(device));
        reply(OptionReply.ACK);
        if (option === Option.GO) return { structuredReplies, allocation };
        break;
      case Option.STRUCTURED_REPLY:
        structuredReplies = length === 0 || structuredReplies;
        reply(length === 0 ? OptionReply.ACK : OptionReply.ERR_INVALID);
        break;
      case Option.LIST_META_CONTEXT:
      case Option.SET_META_CONTEXT: {
        const queries = parseQueries(data);
        const list = option === Option.LIST_META_CONTEXT;
        if (queries === undefined || (!list && !structuredReplies)) {
          reply(OptionReply.ERR_INVALID);
          break;
        }
        const wanted =
          queries.includes(ALLOCATION_NAME) || (list && (queries.length === 0 || queries.includes('base:')));
        if (wanted) {
          const context = Buffer.alloc(4);
          context.writeUInt32BE(list ? 0 : ALLOCATION_CONTEXT, 0);
          reply(OptionReply.META_CONTEXT, Buffer.concat([context, Buffer.from(ALLOCATION_NAME)]));
        }
        if (!list) allocation = wanted;
        reply(OptionReply.ACK);
        break;
      }
      default:
        reply(OptionReply.ERR_UNSUP);
    }
  }
  throw new Error(`Client sent ${MAX_OPTIONS} options without starting`);
}

function oldExport(device: BlockDevice, noZeroes: boolean): Buffer {
  const body = Buffer.alloc(noZeroes ? 10 : 10 + 124);
  body.writeBigUInt64BE(BigInt(device.size), 0);
  body.writeUInt16BE(transmissionFlags(device), 8);
  return body;
}

function exportInfo(device: BlockDevice): Buffer {
  const body = Buffer.alloc(12);
  body.writeUInt16BE(Info.EXPORT, 0);
  body.writeBigUInt64BE(BigInt(device.size), 2);
  body.writeUInt16BE(transmissionFlags(device), 10);
  return body;
}

function blockSizeInfo(device: BlockDevice): Buffer {
  const body = Buffer.alloc(14);
  body.writeUInt16BE(Info.BLOCK_SIZE, 0);
  body.writeUInt32BE(device.readOnly ? 1 : 512, 2); // reads may start anywhere; writes are whole sectors
  body.writeUInt32BE(4096, 6);
  body.writeUInt32BE(MAX_PAYLOAD, 10);
  return body;
}

/** `u32 name length, name, u16 count, count × u16`: nothing of it changes our answer, but it must be whole. */
function isInfoRequest(data: Buffer): boolean {
  if (data.byteLength < 6) return false;
  const name = data.readUInt32BE(0);
  if (name > data.byteLength - 6) return false;
  return data.byteLength === 6 + name + 2 * data.readUInt16BE(4 + name);
}

/** `u32 name length, name, u32 count, count × (u32 length, query)`; undefined if it is not whole. */
function parseQueries(data: Buffer): string[] | undefined {
  let at = 0;
  const u32 = (): number => {
    if (at + 4 > data.byteLength) return -1;
    at += 4;
    return data.readUInt32BE(at - 4);
  };
  const name = u32();
  if (name < 0 || at + name > data.byteLength) return undefined;
  at += name;
  const count = u32();
  if (count < 0) return undefined;
  const queries: string[] = [];
  for (let i = 0; i < count; i++) {
    const length = u32();
    if (length < 0 || at + length > data.byteLength) return undefined;
    queries.push(data.toString('utf8', at, at + length));
    at += length;
  }
  return at === data.byteLength ? queries : undefined;
}
