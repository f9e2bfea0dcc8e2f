/** Reading what `containerd config dump` prints, as far as comparing two of them needs. */
import type { SnippetParts } from './containerd-snippet.js';

interface DumpLine {
  /** Names of the tables around it, without quotes. */
  readonly table: string;
  readonly line: string;
}

const PROXY = /^proxy_plugins\.overlaybd(\.|$)/;
const TRANSFER = /^plugins\.io\.containerd\.transfer\.v1\.local\.unpack_config$/;
const CRI = /^plugins\.io\.containerd\.(cri\.v1\.images|grpc\.v1\.cri\.containerd)$/;
const CRI_KEY = /^(snapshotter|disable_snapshot_annotations) = /;

function isOurs({ table, line }: DumpLine): boolean {
  return (
    PROXY.test(table) ||
    TRANSFER.test(table) ||
    (table === '' && line.startsWith('imports = ')) ||
    (CRI.test(table) && CRI_KEY.test(line))
  );
}

function parseDump(dump: string): DumpLine[] {
  const lines: DumpLine[] = [];
  let table = '';
  for (const raw of dump.split('\n')) {
    const line = raw.trim();
    const header = /^\[\[?(.*?)\]?\]$/.exec(line);
    if (header !== null && !line.includes(' = ')) table = (header[1] ?? '').replace(/["']/g, '');
    else if (line !== '' && !line.startsWith('#')) lines.push({ table, line: line.replaceAll("'", '"') });
  }
  return lines;
}

/** The snapshotter sockets that a dump names: `[proxy_plugins.NAME]` of type snapshot, by name. */
export function proxySnapshotters(dump: string): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  const lines = parseDump(dump);
  for (const { table, line } of lines) {
    const name = /^proxy_plugins\.([^.]+)$/.exec(table)?.[1];
    const address = /^address = "(.*)"$/.exec(line)?.[1];
    if (name === undefined || address === undefined) continue;
    if (lines.some((other) => other.table === table && other.line === 'type = "snapshot"'))
      found.set(name, address);
  }
  return found;
}

/**
 * What went wrong between two dumps: a setting that was lost or changed and is not ours, or one of ours that is not there.
 * Undefined if nothing did.
 */
export function lossOf(
  before: string,
  after: string,
  wanted: SnippetParts & { readonly address: string },
): string | undefined {
  const [old, now] = [parseDump(before), parseDump(after)];
  const key = ({ table, line }: DumpLine): string => `${table === '' ? '' : `[${table}] `}${line}`;
  const keys = (lines: readonly DumpLine[]): Set<string> =>
    new Set(lines.filter((line) => !isOurs(line)).map(key));
  const [oldKeys, newKeys] = [keys(old), keys(now)];
  for (const line of oldKeys) if (!newKeys.has(line)) return `it would lose "${line}"`;
  for (const line of newKeys) if (!oldKeys.has(line)) return `it would get "${line}"`;
  if (proxySnapshotters(after).get('overlaybd') !== wanted.address)
    return 'the proxy plugin is not in the result';
  const has = (table: RegExp, line: string): boolean =>
    now.some((entry) => table.test(entry.table) && entry.line === line);
  if (wanted.cri)
    for (const line of ['snapshotter = "overlaybd"', 'disable_snapshot_annotations = false'])
      if (!has(CRI, line)) return `"${line}" is not in the result`;
  if (wanted.transfer) {
    if (!has(TRANSFER, 'snapshotter = "overlaybd"')) return 'its "unpack_config" is not in the result';
    for (const { table, line } of old)
      if (TRANSFER.test(table) && !has(TRANSFER, line)) return `it would lose "${line}" of "unpack_config"`;
  }
  return undefined;
}
