/** Labels by which containerd's garbage collector finds what content refers to. */
import type { ImageDocument } from '../oci/index.js';
import type { Labels } from './messages.js';

const CONTENT = 'containerd.io/gc.ref.content';

/** Of a manifest: its configuration and layers; of an index: its manifests. Those that are not there do no harm. */
export function childLabels(document: ImageDocument): Labels {
  if (document.kind === 'index')
    return Object.fromEntries(document.index.manifests.map(({ digest }, i) => [`${CONTENT}.m.${i}`, digest]));
  const { config, layers } = document.manifest;
  return {
    [`${CONTENT}.config`]: config.digest,
    ...Object.fromEntries(layers.map(({ digest }, i) => [`${CONTENT}.l.${i}`, digest])),
  };
}

/** Of a configuration: the snapshot that its layers were unpacked to. */
export function snapshotLabels(snapshotter: string, topSnapshot: string): Labels {
  return { [`containerd.io/gc.ref.snapshot.${snapshotter}`]: topSnapshot };
}

/** Where content came from: whoever pushes it to the same host can have it mounted instead of sent. */
export function sourceLabels(registry: string, repository: string): Labels {
  return { [`containerd.io/distribution.source.${registry}`]: repository };
}
