import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ReadableBlob } from '../../src/blob/index.js';
import { CoalescingBlob, RegistryClient } from '../../src/registryblob/index.js';
import {
  parseFault,
  startRegistryServer,
  type RegistryServerOptions,
} from '../../src/registryserver/index.js';
import { testReadableBlob } from '../conformance/readable-blob.js';

/** A blob of a registry that serves an OCI layout with that blob in it. */
async function open(
  content: Uint8Array,
  onCleanup: (undo: () => Promise<void>) => void,
  options: Partial<RegistryServerOptions>,
): Promise<ReadableBlob> {
  const directory = await mkdtemp(join(tmpdir(), 'obd-conformance-'));
  onCleanup(() => rm(directory, { recursive: true }));
  const hex = createHash('sha256').update(content).digest('hex');
  await mkdir(join(directory, 'app', 'blobs', 'sha256'), { recursive: true });
  await writeFile(join(directory, 'app', 'oci-layout'), '{}');
  await writeFile(join(directory, 'app', 'index.json'), '{"manifests":[]}');
  await writeFile(join(directory, 'app', 'blobs', 'sha256', hex), content);
  const server = await startRegistryServer({ directory, readOnly: true, ...options });
  onCleanup(() => server.close());
  const client = new RegistryClient({
    plainHttpHosts: [server.host],
    retry: { attempts: 30, baseMs: 1, maxPauseMs: 2 },
  });
  onCleanup(() => client.close());
  return client.openBlob(`${server.url}/v2/app/blobs/sha256:${hex}`);
}

testReadableBlob({
  name: 'RegistryBlob',
  factory: (content, onCleanup) => open(content, onCleanup, {}),
  supports: { rejectsAfterClose: true },
});

testReadableBlob({
  name: 'RegistryBlob of a registry that fails',
  factory: (content, onCleanup) =>
    open(content, onCleanup, {
      faults: ['status=503,every=4', 'truncate,every=5', 'reset,every=7'].map(parseFault),
    }),
  supports: { rejectsAfterClose: true },
});

testReadableBlob({
  name: 'CoalescingBlob',
  factory: async (content, onCleanup) =>
    new CoalescingBlob(await open(content, onCleanup, {}), {
      unitSize: 10_000,
      maxFetchSize: 35_000,
      maxFetches: 3,
    }),
  supports: { rejectsAfterClose: true },
});
