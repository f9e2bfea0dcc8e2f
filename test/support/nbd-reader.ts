/** The least of an NBD client: reads, one after the other, and says how each one ended. Independent of src/blockdev/nbd. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

/** How a read ended: with bytes, or with an errno and the server's sentence. */
export type NbdAnswer =
  | { readonly data: Buffer; readonly error?: undefined }
  | { readonly data?: undefined; readonly error: { readonly errno: number; readonly message: string } };

/** One connection. Calls do not overlap. */
export class NbdReader {
  readonly size: number;
  readonly #socket: Socket;
  readonly #take: Take;
  #cookie = 0n;

  private constructor(socket: Socket, take: Take, size: number) {
    this.#socket = socket;
    this.#take = take;
    this.size = size;
  }

  /** Connects and chooses structured replies, in which errors have sentences. */
  static async connect(path: string): Promise<NbdReader> {
    const socket = connect(path);
    await once(socket, 'connect');
    const take = taker(socket);
    const hello = await take(18);
    if (hello.toString('latin1', 0, 16) !== 'NBDMAGICIHAVEOPT') throw new Error('not an NBD server');
    socket.write(Buffer.from([0, 0, 0, 3]));
    const option = async (number: number, data: Buffer): Promise<Buffer[]> => {
      const header = Buffer.alloc(16);
      header.write('IHAVEOPT', 'latin1');
      header.writeUInt32BE(number, 8);
      header.writeUInt32BE(data.length, 12);
      socket.write(Buffer.concat([header, data]));
      const found: Buffer[] = [];
      for (;;) {
        const reply = await take(20);
        const kind = reply.readUInt32BE(12);
        const body = await take(reply.readUInt32BE(16));
        if (kind === 1) return found;
        if (kind >= 0x8000_0000) throw new Error(`option ${number} is refused: ${kind}`);
        found.push(body);
      }
    };
    await option(8, Buffer.alloc(0)); // structured replies
    const infos = await option(7, Buffer.alloc(6)); // go, the default export, no wishes
    const size = infos.find((info) => info.readUInt16BE(0) === 0)?.readBigUInt64BE(2);
    if (size === undefined) throw new Error('the server does not say how large the disk is');
    return new NbdReader(socket, take, Number(size));
  }

  async read(offset: number, length: number): Promise<NbdAnswer> {
    const header = Buffer.alloc(28);
    header.writeUInt32BE(0x25609513, 0);
    header.writeBigUInt64BE(++this.#cookie, 8);
    header.writeBigUInt64BE(BigInt(offset), 16);
    header.writeUInt32BE(length, 24);
    this.#socket.write(header);
    const data = Buffer.alloc(length);
    let error: { errno: number; message: string } | undefined;
    for (;;) {
      const chunk = await this.#take(20);
      if (chunk.readUInt32BE(0) !== 0x668e33ef || chunk.readBigUInt64BE(8) !== this.#cookie)
        throw new Error('reply to something else');
      const [flags, kind] = [chunk.readUInt16BE(4), chunk.readUInt16BE(6)];
      const body = await this.#take(chunk.readUInt32BE(16));
      if (kind === 1) body.copy(data, Number(body.readBigUInt64BE(0)) - offset, 8);
      else if (kind >= 0x8000)
        error = { errno: body.readUInt32BE(0), message: body.toString('utf8', 6, 6 + body.readUInt16BE(4)) };
      if ((flags & 1) !== 0) return error === undefined ? { data } : { error };
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}

type Take = (length: number) => Promise<Buffer>;

function taker(socket: Socket): Take {
  let have: Buffer = Buffer.alloc(0);
  let wake = (): void => undefined;
  let ended = false;
  socket.on('data', (bytes: Buffer) => {
    have = Buffer.concat([have, bytes]);
    wake();
  });
  const end = (): void => {
    ended = true;
    wake();
  };
  socket.on('close', end).on('error', end);
  return async (length) => {
    while (have.length < length) {
      if (ended) throw new Error('the server hung up');
      await new Promise<void>((resolve) => (wake = resolve));
    }
    const taken = have.subarray(0, length);
    have = have.subarray(length);
    return taken;
  };
}
