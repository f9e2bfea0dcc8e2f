/** Names of layers with all that is below them. */
export { chainIds } from '../oci/index.js';

/** A layer's uuid as the reference makes it: the first 32 digits of the chain ID, upper case, 8-4-4-4-12. */
export function layerUuid(chainId: string): string {
  const hex = chainId.slice(chainId.indexOf(':') + 1, chainId.indexOf(':') + 33).toUpperCase();
  return [0, 8, 12, 16, 20].map((at, i) => hex.slice(at, [8, 12, 16, 20, 32][i])).join('-');
}
