/**
 * Directories of devices that were attached by their image's reference: one each below the state directory, with the
 * configuration that was made for it. A device that outlives its service finds its directory again.
 */
import { readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ioError, makeDirectory } from '../blob/index.js';
import { readNbdRecords } from '../blockdev/index.js';
import type { ImageOpener } from '../image/index.js';
import type { Logger } from '../log/index.js';
import type { DeviceTable } from './device-table.js';

/** Writes the configuration of an image named by reference into `dir`; returns its path. */
export type ImageResolver = (
  image: string,
  dir: string,
  opener: ImageOpener,
  options: { readonly plainHttp: boolean },
) => Promise<string>;

/** What {@link DeviceDirs} is made of. */
export interface DeviceDirsOptions {
  readonly stateDir: string;
  /** Where NBD devices left their records. */
  readonly nbdDir: string;
  readonly resolveImage: ImageResolver;
  readonly opener: ImageOpener;
  readonly table: DeviceTable;
  readonly log: Logger;
}

/** In a device's directory: the reference it was attached by, for the service that adopts it. */
const IMAGE_FILE = 'image';

/** See the head of this file. */
export class DeviceDirs {
  readonly #options: DeviceDirsOptions;

  constructor(options: DeviceDirsOptions) {
    this.#options = options;
  }

  #deviceDir(id: string): string {
    return join(this.#options.stateDir, 'devices', id);
  }

  /** Removes a device's directory. */
  readonly remove = async (id: string): Promise<void> => {
    await rm(this.#deviceDir(id), { recursive: true, force: true });
  };

  /** Makes a device's directory and its image's configuration in it. @returns its path. @throws what `resolveImage` throws; IoError */
  async resolve(image: string, id: string, plainHttp: boolean): Promise<string> {
    const dir = this.#deviceDir(id);
    try {
      await rm(dir, { recursive: true, force: true });
      await makeDirectory(dir, 0o700);
      await writeFile(join(dir, IMAGE_FILE), `${image}\n`, { mode: 0o600 });
    } catch (error) {
      throw ioError(error, `make "${dir}"`, dir);
    }
    return this.#options.resolveImage(image, dir, this.#options.opener, { plainHttp });
  }

  /** A device of an earlier service that the kernel kept: how it was named, and that plain HTTP was allowed for it. */
  async #rememberDevice(id: string, dir: string): Promise<void> {
    const image = await readFile(join(dir, IMAGE_FILE), 'utf8').catch(() => '');
    this.#options.table.remember(id, {
      config: '',
      image: image.trim() || undefined,
      release: this.remove,
    });
    try {
      const { repoBlobUrl } = JSON.parse(await readFile(join(dir, 'config.v1.json'), 'utf8')) as Record<
        string,
        unknown
      >;
      if (typeof repoBlobUrl === 'string' && repoBlobUrl.startsWith('http://'))
        this.#options.opener.client.allowPlainHttp(new URL(repoBlobUrl).host);
    } catch (error) {
      this.#options.log.warn(
        { dev: id, dir, err: error },
        'configuration of a device left behind is not readable',
      );
    }
  }

  /** Directories of devices that an earlier service was killed with; those that the kernel still has stay. */
  async removeLeftovers(): Promise<void> {
    const parent = join(this.#options.stateDir, 'devices');
    const names = await readdir(parent).catch(() => []);
    if (names.length === 0) return;
    const nbd = await readNbdRecords(this.#options.nbdDir, this.#options.log);
    const kept = [...(await kernelDeviceNames()), ...nbd.map(({ configPath }) => configPath)];
    for (const name of names) {
      const dir = join(parent, name);
      if (kept.some((text) => text.includes(`${dir}/`))) {
        await this.#rememberDevice(name, dir);
        continue;
      }
      await rm(dir, { recursive: true, force: true }).catch((error: unknown) => {
        this.#options.log.warn({ dir, err: error }, 'leftover is not removed');
      });
    }
  }
}

/** Names of all devices that the kernel has for user space; they hold the paths of their configurations. */
async function kernelDeviceNames(): Promise<string[]> {
  const uio = '/sys/class/uio';
  const entries = await readdir(uio).catch(() => []);
  return Promise.all(entries.map((entry) => readFile(join(uio, entry, 'name'), 'utf8').catch(() => '')));
}
