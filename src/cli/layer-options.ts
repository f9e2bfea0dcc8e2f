/** Values on the command lines of the tools that make layers, checked. */
import { Option, type Command } from 'commander';
import { ConfigError } from '../blob/index.js';
import { normalUuid } from '../lsmt/index.js';
import { Codec } from '../native/index.js';
import type { ZFileWriterOptions } from '../zfile/index.js';

const NULL_UUID = '00000000-0000-0000-0000-000000000000';
/** Bytes of a GiB. */
export const GIB = 2 ** 30;
/** Largest virtual disk: what ext4 of 4 KiB blocks can be formatted to in a moment, and far from the format's limit. */
const MAX_VSIZE_GIB = 16 * 1024;

/** A parser of whole numbers. */
export function wholeNumber(what: string, least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^[0-9]+$/.test(text) || value < least || value > most)
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `${what} is "${text}", expected a whole number from ${least} to ${most}`,
      );
    return value;
  };
}

/** A parser of virtual sizes in GiB; gives bytes. */
export function virtualSize(what: string, least: number): (text: string) => number {
  const parse = wholeNumber(what, least, MAX_VSIZE_GIB);
  return (text) => parse(text) * GIB;
}

/** A parser of uuids; an empty text is the null uuid, which stands for none. */
export function uuidValue(what: string): (text: string) => string {
  return (text) => {
    const uuid = text === '' ? NULL_UUID : text;
    try {
      return normalUuid(uuid) ?? NULL_UUID;
    } catch (error) {
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `${what} is "${text}", expected a uuid such as AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE`,
        { cause: error },
      );
    }
  };
}

/** Most bytes of a layer's message. */
const MAX_MESSAGE = 256;

/** Parses a layer's message. */
export function userTag(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  if (bytes.byteLength > MAX_MESSAGE)
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `The message has ${bytes.byteLength} bytes, a layer has room for ${MAX_MESSAGE}`,
    );
  return bytes;
}

/** What {@link addCompressionOptions} parses. */
export interface CompressionFlags {
  readonly algorithm: 'lz4' | 'zstd';
  readonly bs: string;
}

/** Adds `--algorithm` and `--bs`. */
export function addCompressionOptions(command: Command): Command {
  return command
    .addOption(new Option('--algorithm <name>', 'compression').choices(['lz4', 'zstd']).default('lz4'))
    .addOption(
      new Option('--bs <KiB>', 'compression block').choices(['4', '8', '16', '32', '64']).default('4'),
    );
}

/** What {@link addCompressionOptions} means. */
export function compression(flags: CompressionFlags): ZFileWriterOptions {
  if (flags.bs === '64')
    process.stderr.write(
      'Warning: overlaybd cannot read blocks of 64 KiB that do not compress; --bs 32 and less it always can\n',
    );
  return {
    codec: flags.algorithm === 'zstd' ? Codec.ZSTD : Codec.LZ4,
    blockSize: Number(flags.bs) * 1024,
  };
}
