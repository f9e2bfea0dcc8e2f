import { ConfigError } from '../blob/index.js';

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** Bytes for a person: `4.2 MiB`. Whole bytes stay whole. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${UNITS[unit] ?? ''}`;
}

/** A duration for a person: `320 ms`, `4.2 s`, `3 min 20 s`. */
export function formatDuration(milliseconds: number): string {
  if (milliseconds < 1000) return `${milliseconds.toFixed(0)} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** A share for a person: `3.1 %`; `-` of nothing. */
export function formatShare(part: number, whole: number): string {
  return whole > 0 ? `${((100 * part) / whole).toFixed(1)} %` : '-';
}

/** Pads the columns of a table of text; numbers-like cells are right-aligned. No trailing spaces. */
export function formatTable(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows)
    row.forEach((cell, i) => {
      widths[i] = Math.max(widths[i] ?? 0, cell.length);
    });
  return rows
    .map((row) =>
      row
        .map((cell, i) =>
          /^[\d.]+( |$)/.test(cell) ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0),
        )
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
    .concat('\n');
}

/**
 * Parses a size such as `64`, `4k`, `25MiB`, `1G` (powers of 1024) into bytes.
 * @throws ConfigError naming `what`.
 */
export function parseSize(text: string, what: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?$/i.exec(text.trim());
  const factor = match ? 1024 ** ' kmgtp'.indexOf(match[2]?.toLowerCase() || ' ') : NaN;
  const bytes = match ? Number(match[1]) * factor : NaN;
  if (!Number.isSafeInteger(bytes))
    throw new ConfigError('OBD_CONFIG_VALUE', `${what} is "${text}", expected a size such as 512M or 4GiB`, {
      actual: text,
    });
  return bytes;
}
