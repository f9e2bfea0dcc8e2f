/** What `obd verify --against` found, for people and for programs. */
import type { Difference } from '../verify/index.js';
import type { AgainstResult } from './verify-against.js';
import { formatDuration, formatSize } from './units.js';

/** Differences listed for a person. */
const LISTED = 50;

/** The differences as lines, and a last line that says what they come to. */
export function printDifferences(name: string, result: AgainstResult, milliseconds: number): string {
  const lines = result.differences.slice(0, LISTED).map((difference) => {
    const { path, kind, expected, found, layer } = difference;
    const said = layer === undefined ? '' : `  (layer ${layer})`;
    return `${printable(path)}: ${kind}: expected ${printable(expected)}, found ${printable(found)}${said}`;
  });
  const unlisted = result.count - lines.length;
  if (unlisted > 0) lines.push(`and ${unlisted} more`);
  const what = `${result.names} names, ${formatSize(result.bytes)} of content`;
  const verdict =
    result.count === 0
      ? `as its ${result.layers.length === 1 ? 'layer says' : `${result.layers.length} layers say`}: ${what}`
      : `${result.count} ${result.count === 1 ? 'difference' : 'differences'} in ${what}`;
  lines.push(`${name}: ${verdict}, in ${formatDuration(milliseconds)}`);
  return `${lines.join('\n')}\n`;
}

/** The same as JSON. Paths that are not UTF-8 are there as bytes, too. */
export function differencesJson(
  source: string,
  name: string,
  result: AgainstResult,
  milliseconds: number,
): string {
  const { layers, entries, names, bytes, count, differences } = result;
  const one = ({ path, layer, kind, expected, found }: Difference): object => {
    const raw = Buffer.from(path, 'latin1');
    const text = raw.toString('utf8');
    return {
      path: text,
      ...(Buffer.from(text, 'utf8').equals(raw) ? {} : { pathBase64: raw.toString('base64') }),
      kind,
      expected: utf8(expected),
      found: utf8(found),
      ...(layer === undefined ? {} : { layer, layerDigest: layers[layer]?.digest }),
    };
  };
  const json = {
    source,
    name,
    ok: count === 0,
    entries,
    names,
    bytes,
    milliseconds,
    count,
    differences: differences.map(one),
  };
  return `${JSON.stringify(json, undefined, 2)}\n`;
}

function utf8(bytes: string): string {
  return Buffer.from(bytes, 'latin1').toString('utf8');
}

function printable(bytes: string): string {
  const text = utf8(bytes);
  const short = text.length > 300 ? `${text.slice(0, 300)}...` : text;
  return short.replace(/\p{Cc}/gu, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
