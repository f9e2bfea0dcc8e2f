/** Files of the snapshotter's writable layers, made by the offline tools. Loaded when the first is wanted. */
import type { LayerTools } from '../snapshotter/index.js';

const tools = (): Promise<typeof import('../tools/index.js')> => import('../tools/index.js');

/** {@link LayerTools} over src/tools. */
export const layerTools: LayerTools = {
  create: async (pair, { virtualSize, sparse, ext4 }) =>
    (await tools()).createLayer({ ...pair, virtualSize, sparse, mkfs: ext4, bare: true }),
  seal: async (pair) => (await tools()).sealInPlace(pair),
  unseal: async ({ data }) => {
    await (await tools()).unsealInPlace(data);
  },
  commit: async (upper, path) => {
    await (await tools()).commitToFile({ upper }, path, { unlocked: true });
  },
};
