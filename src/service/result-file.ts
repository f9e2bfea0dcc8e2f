/**
 * The result file: how the reference's clients learn why a device did not open. One line, `success` or
 * `failed:<reason>`; they show it as it is and look for known phrases in it. Ours begin with the reference's phrases and
 * then say what really happened.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { OverlaybdError, type ErrorCode } from '../blob/index.js';

const MAX_CONFIG = 4 * 1024 * 1024;
/** Clients put the line into an error message of their own. */
const MAX_REASON = 2048;

/** The reference's word for a kind of failure; undefined where it has none. */
function referenceKind(code: ErrorCode): string | undefined {
  switch (code) {
    case 'OBD_REGISTRY_AUTH':
      return 'Authentication failed';
    case 'OBD_REGISTRY_CONNECTION':
    case 'OBD_REGISTRY_TLS':
      return 'Connection failed';
    case 'OBD_REGISTRY_TIMEOUT':
      return 'Get meta timedout';
    case 'OBD_REGISTRY_NOT_FOUND':
    case 'OBD_IO_NOT_FOUND':
      return 'No such file or directory';
    case 'OBD_REGISTRY_THROTTLED':
      return 'Too many requests';
    case 'OBD_REGISTRY_SERVER':
    case 'OBD_REGISTRY_RESPONSE':
    case 'OBD_REGISTRY_DIGEST':
      return 'Unexpected response';
    default:
      return undefined;
  }
}

/** The innermost error of ours: it knows the file or URL. */
function rootOf(error: unknown): OverlaybdError | undefined {
  let root: OverlaybdError | undefined;
  for (let e: unknown = error, depth = 0; e instanceof Error && depth < 16; e = e.cause, depth++)
    if (e instanceof OverlaybdError) root = e;
  return root;
}

/** The line for a failed open, without the newline. */
export function failureLine(error: unknown): string {
  const root = rootOf(error);
  const message = error instanceof Error ? error.message : String(error);
  const kind = root === undefined ? undefined : referenceKind(root.code);
  let text = 'failed to create overlaybd device';
  if (root?.source !== undefined && root.code.startsWith('OBD_REGISTRY_'))
    text = `failed to open remote file ${root.source}`;
  else if (root?.source !== undefined && root.code.startsWith('OBD_IO_'))
    text = `failed to open local file ${root.source}`;
  if (kind !== undefined) text += `: ${kind}`;
  const detail = root !== undefined && root.message !== message ? `${message}: ${root.message}` : message;
  return `failed:${text}: ${detail}`.replace(/\s*\n\s*/g, ' ').slice(0, MAX_REASON);
}

/**
 * The `resultFile` of an image configuration, read leniently: a configuration that is refused later must still be able
 * to say where to report. Undefined if there is none, or the file is not JSON at all.
 */
export async function resultFileOf(configPath: string): Promise<string | undefined> {
  try {
    const text = await readFile(configPath, 'utf8');
    if (text.length > MAX_CONFIG) return undefined;
    const json: unknown = JSON.parse(text);
    if (typeof json !== 'object' || json === null || !('resultFile' in json)) return undefined;
    return typeof json.resultFile === 'string' && json.resultFile !== '' ? json.resultFile : undefined;
  } catch {
    return undefined;
  }
}

/** Replaces the file's content: `success` without an error, else {@link failureLine}. @throws a system error. */
export async function writeResult(path: string, error?: unknown): Promise<void> {
  await writeFile(path, error === undefined ? 'success' : failureLine(error), { mode: 0o644 });
}
