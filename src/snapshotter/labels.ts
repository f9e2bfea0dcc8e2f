/** Names of the labels that containerd, its clients and our converters put on snapshots. */
const OBD = 'containerd.io/snapshot/overlaybd';

/** What each says: specification of the labels, docs/snapshotter.md. */
export const Label = {
  /** A pull is under way; the value is the name that the layer will be committed by. */
  targetRef: 'containerd.io/snapshot.ref',
  imageRef: 'containerd.io/snapshot/image-ref',
  criImageRef: 'containerd.io/snapshot/cri.image-ref',
  blobDigest: `${OBD}/blob-digest`,
  blobSize: `${OBD}/blob-size`,
  /** `type[;mount options[;mkfs options]]`. */
  fsType: `${OBD}/blob-fs-type`,
  accelerationLayer: `${OBD}/acceleration-layer`,
  /** `yes`, on a container: what it reads of its image is recorded into the file that the second names. */
  recordTrace: `${OBD}/record-trace`,
  recordTracePath: `${OBD}/record-trace-path`,
  /** `download`: the blob is fetched by the client instead of lazily. */
  downloadBlob: `${OBD}/download-remote-blob`,
  turboDigest: `${OBD}/turbo-oci/target-digest`,
  turboMediaType: `${OBD}/turbo-oci/target-media-type`,
  /** What turbo-oci was called before. */
  fastociDigest: `${OBD}/fastoci/target-digest`,
  fastociMediaType: `${OBD}/fastoci/target-media-type`,
  /** Set by us on layers that were committed without being fetched. */
  remote: 'containerd.io/snapshot/remote',
  /** Set by us: where the blob of a layer that was unpacked lies. */
  localCommitPath: `${OBD}.localcommitpath`,
  /** `image`: not a container's. */
  type: 'containerd.io/snapshot/type',
  /** `dir` or `dev`; anything else is the overlay. */
  writable: `${OBD}.writable`,
  /** `block` or `nbd`: what a container in mode `dev` gets; "devTransport" for one. */
  transport: `${OBD}.transport`,
  /** GiB of a writable device that has no image below. */
  vsize: `${OBD}/vsize`,
  /** Directory for the files of a writable layer, instead of the snapshot's own. */
  activePath: 'containerd.io/snapshot/overlay.active.path',
  /** Most bytes that a container may write to its overlay; "rootfsQuota" for one. */
  diskQuota: 'containerd.io/snapshot/disk_quota',
} as const;
