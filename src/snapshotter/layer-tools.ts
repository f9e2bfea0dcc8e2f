/** The files of a writable layer: data, and the index that an append layer needs. */
export interface WritablePair {
  readonly data: string;
  readonly index: string;
}

/** How the snapshotter makes the files of writable layers; wired where the program starts. Calls may overlap. */
export interface LayerTools {
  /** Makes an empty layer; neither file may exist, and after a failure neither does. */
  create(pair: WritablePair, options: NewWritableLayer): Promise<void>;
  /** Makes a read-only layer of the data file where it lies; the index file stays as it is. */
  seal(pair: WritablePair): Promise<void>;
  /** Takes back {@link seal}; nothing happens to a layer that is not sealed. */
  unseal(pair: WritablePair): Promise<void>;
  /** Writes the content of a writable layer, which a device may have open, as a read-only one to a new file. */
  commit(pair: WritablePair, path: string): Promise<void>;
}

/** What a new writable layer is like. */
export interface NewWritableLayer {
  /** Bytes; 0 takes the size of the image below. */
  readonly virtualSize: number;
  readonly sparse: boolean;
  /** Put an empty ext4 into it. */
  readonly ext4: boolean;
}

/** Without tools there are no writable layers. */
export const noLayerTools: LayerTools = {
  create: () => Promise.reject(new Error('this snapshotter was started without tools for layers')),
  seal: () => Promise.reject(new Error('this snapshotter was started without tools for layers')),
  unseal: () => Promise.reject(new Error('this snapshotter was started without tools for layers')),
  commit: () => Promise.reject(new Error('this snapshotter was started without tools for layers')),
};
