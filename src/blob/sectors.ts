/** Bytes in a sector, always. */
export const SECTOR = 512;

declare const lbaBrand: unique symbol;
/** An address in sectors. */
export type Lba = number & { readonly [lbaBrand]: true };

/** Names a number of sectors an address. The caller has checked its range. */
export function lba(sectors: number): Lba {
  return sectors as Lba;
}

/** `value` rounded up to a multiple of `unit`; both safe integers, `unit` > 0. */
export function roundUp(value: number, unit: number): number {
  const rest = value % unit;
  return rest === 0 ? value : value + (unit - rest);
}

/** `value` rounded down to a multiple of `unit`. */
export function roundDown(value: number, unit: number): number {
  return value - (value % unit);
}
