/**
 * What the next service must know of an NBD device to serve it again: a file beside its socket, made before the first client
 * can connect and removed by detach. On a file system that a reboot empties (docs/adr/0051).
 */
import { readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { ioError } from '../../blob/index.js';
import type { Logger } from '../../log/index.js';
import { DEVICE_ID } from '../front-end.js';

const SUFFIX = '.json';
/** What its clients have been told of the device cannot change while they are connected. */
const schema = z.object({
  configPath: z.string().startsWith('/'),
  size: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER),
  readOnly: z.boolean(),
});

/** A device of an earlier service. */
export interface NbdRecord extends z.output<typeof schema> {
  readonly id: string;
}

/** Writes a device's record, whole or not at all. @throws IoError */
export async function writeNbdRecord(directory: string, { id, ...record }: NbdRecord): Promise<void> {
  const path = join(directory, id + SUFFIX);
  try {
    await writeFile(`${path}.new`, JSON.stringify(record), { mode: 0o600 });
    await rename(`${path}.new`, path);
  } catch (error) {
    throw ioError(error, `write "${path}"`, path);
  }
}

/** Removes a device's record. Idempotent. */
export async function removeNbdRecord(directory: string, id: string): Promise<void> {
  await rm(join(directory, id + SUFFIX), { force: true });
}

/** Every record that can be used; what cannot is removed, with a warning. None if there is no directory. */
export async function readNbdRecords(directory: string, log: Logger): Promise<NbdRecord[]> {
  const records: NbdRecord[] = [];
  for (const name of (await readdir(directory).catch(() => [])).sort()) {
    if (name.endsWith('.new')) await rm(join(directory, name), { force: true });
    if (!name.endsWith(SUFFIX)) continue;
    const id = name.slice(0, -SUFFIX.length);
    try {
      if (!DEVICE_ID.test(id)) throw new TypeError(`"${id}" is no device id`);
      records.push({ id, ...schema.parse(JSON.parse(await readFile(join(directory, name), 'utf8'))) });
    } catch (error) {
      log.warn({ path: join(directory, name), err: error }, 'record of an NBD device cannot be used');
      await rm(join(directory, name), { force: true });
    }
  }
  return records;
}
