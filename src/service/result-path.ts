import { readFile } from 'node:fs/promises';

/** Far above any real configuration: 256 lowers of a few hundred bytes. */
const MAX_CONFIG = 4 * 1024 * 1024;

/**
 * The `resultFile` of an image configuration, read leniently: a configuration that is refused must still be able to say
 * where to report it. Empty if there is none, or the file is not JSON at all.
 */
export async function resultPathOf(configPath: string): Promise<string> {
  try {
    const text = await readFile(configPath, 'utf8');
    if (text.length > MAX_CONFIG) return '';
    const json: unknown = JSON.parse(text);
    if (typeof json !== 'object' || json === null || !('resultFile' in json)) return '';
    return typeof json.resultFile === 'string' ? json.resultFile : '';
  } catch {
    return '';
  }
}
