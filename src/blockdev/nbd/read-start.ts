/** The least of an NBD client: for who wants to know what is on a device that is served somewhere else. */
import { connect } from 'node:net';
import { DeviceError, ioError } from '../../blob/index.js';
import { ByteReader } from './byte-reader.js';
import {
  Command,
  Handshake,
  NBD_MAGIC,
  OPTION_MAGIC,
  Option,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
} from './protocol.js';

/**
 * Reads the first bytes of a device.
 * @param length at most what a device has.
 * @throws DeviceError OBD_DEVICE_KERNEL if the server says or does something else, or nothing for `timeoutMs`; IoError.
 */
export async function readNbdStart(socketPath: string, length: number, timeoutMs: number): Promise<Buffer> {
  const socket = connect(socketPath);
  const timer = setTimeout(
    () => socket.destroy(new Error(`no answer within ${timeoutMs / 1000} s`)),
    timeoutMs,
  );
  const reader = new ByteReader(socket);
  const take = async (bytes: number): Promise<Buffer> => {
    const found = await reader.take(bytes);
    if (found !== undefined) return found;
    throw new Error('the connection ended');
  };
  const expect = (what: string, actual: bigint | number, expected: bigint | number): void => {
    if (actual === expected) return;
    throw new DeviceError(
      'OBD_DEVICE_KERNEL',
      `Cannot read "${socketPath}": ${what} is 0x${actual.toString(16)}, expected 0x${expected.toString(16)}`,
      { source: socketPath },
    );
  };
  try {
    const hello = await take(18);
    expect('the magic number', hello.readBigUInt64BE(0), NBD_MAGIC);
    expect('the second magic number', hello.readBigUInt64BE(8), OPTION_MAGIC);
    // The default export, then one read: with NO_ZEROES the answer to the option is size and flags alone.
    const asking = Buffer.alloc(4 + 16 + 28);
    asking.writeUInt32BE(Handshake.FIXED_NEWSTYLE | Handshake.NO_ZEROES, 0);
    asking.writeBigUInt64BE(OPTION_MAGIC, 4);
    asking.writeUInt32BE(Option.EXPORT_NAME, 12);
    asking.writeUInt32BE(REQUEST_MAGIC, 20);
    asking.writeUInt16BE(Command.READ, 26);
    asking.writeUInt32BE(length, 44);
    socket.write(asking);
    await take(10);
    const reply = await take(16);
    expect('the magic number of a reply', reply.readUInt32BE(0), SIMPLE_REPLY_MAGIC);
    expect('the error of a read', reply.readUInt32BE(4), 0);
    return await take(length);
  } catch (error) {
    throw ioError(error, `read "${socketPath}"`, socketPath);
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}
