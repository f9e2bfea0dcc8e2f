import assert from 'node:assert/strict';
import test from 'node:test';
import { layerLabels, looksLazy } from '../../src/containerd/layer-labels.js';
import { MediaType } from '../../src/oci/index.js';

const OBD = 'containerd.io/snapshot/overlaybd/';
const digest = `sha256:${'a'.repeat(64)}`;
const blob = { [`${OBD}blob-digest`]: digest, [`${OBD}blob-size`]: '42' };
const layer = (annotations?: Record<string, string>): Parameters<typeof looksLazy>[0] => ({
  mediaType: MediaType.OCI_LAYER,
  digest,
  size: 42,
  ...(annotations && { annotations }),
});
const more = { target: 'sha256:chain', imageRef: 'h/r:t', downloadBlobs: false };
const BASE = { 'containerd.io/snapshot.ref': 'sha256:chain', 'containerd.io/snapshot/image-ref': 'h/r:t' };

test('a snapshotter is told what describes a layer, and the user’s wishes only by the user', () => {
  assert.deepEqual(layerLabels(layer(), more), BASE);
  const said = { ...blob, [`${OBD}blob-fs-type`]: 'ext4', [`${OBD}version`]: '0.1.0' };
  const unsaid = {
    'containerd.io/snapshot/overlaybd.writable': 'dev',
    'containerd.io/snapshot/image-ref': 'evil.example/x:1',
    'containerd.io/snapshot/overlay.active.path': '/etc',
    [`${OBD}record-trace-path`]: '/etc/passwd',
    [`${OBD}download-remote-blob`]: 'download',
    'org.example/unrelated': 'x',
  };
  assert.deepEqual(layerLabels(layer({ ...said, ...unsaid }), more), { ...BASE, ...said });
  assert.deepEqual(layerLabels(layer(blob), { ...more, downloadBlobs: true }), {
    ...BASE,
    ...blob,
    [`${OBD}download-remote-blob`]: 'download',
  });
  const long = layerLabels(layer({ ...blob, [`${OBD}blob-fs-type`]: 'x'.repeat(4096) }), more);
  assert.deepEqual(long, { ...BASE, ...blob });
});

test('only whole overlaybd layers are expected to be lazy', () => {
  assert.equal(looksLazy(layer(blob)), true);
  assert.equal(looksLazy(layer()), false);
  assert.equal(looksLazy(layer({ ...blob, [`${OBD}turbo-oci/target-digest`]: digest })), false);
  assert.equal(looksLazy(layer({ ...blob, [`${OBD}acceleration-layer`]: 'yes' })), false);
});

test('annotations that name another blob than the layer are refused', () => {
  for (const wrong of [{ [`${OBD}blob-digest`]: `sha256:${'b'.repeat(64)}` }, { [`${OBD}blob-size`]: '43' }])
    assert.throws(() => layerLabels(layer({ ...blob, ...wrong }), more), { code: 'OBD_REGISTRY_RESPONSE' });
});
