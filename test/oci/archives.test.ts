import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { describe } from 'node:test';
import { gzipSync } from 'node:zlib';
import { compress } from 'zstd-napi';
import { MemoryBlob } from '../../src/blob/index.js';
import {
  digestOf,
  MediaType,
  openImageSource,
  openImageTarget,
  parseImageConfig,
  parseImageName,
  resolveManifest,
  type Descriptor,
  type ImageSource,
} from '../../src/oci/index.js';
import { unpackArchive } from '../../src/oci/unpack-archive.js';
import { RegistryClient } from '../../src/registryblob/index.js';
import { digest, memberBytes, tarOf, writeLayout } from '../convert/make-image.js';
import { tempDir } from '../support/unpack.js';

const client = new RegistryClient({});
const PLATFORM = { os: 'linux', architecture: 'amd64' };
const LAYERS = [tarOf([{ path: 'a', content: 'one' }]), tarOf([{ path: 'b', content: 'two' }])];
const CONFIG = Buffer.from(
  JSON.stringify({
    architecture: 'amd64',
    os: 'linux',
    rootfs: { type: 'layers', diff_ids: LAYERS.map(digest) },
  }),
);

async function readStream(source: ImageSource, descriptor: Descriptor): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of await source.streamBlob(descriptor))
    chunks.push(Buffer.from(chunk as Uint8Array));
  return Buffer.concat(chunks);
}

function tar(dir: string, ...args: string[]): void {
  const run = spawnSync('tar', ['-C', dir, ...args], { encoding: 'utf8' });
  assert.equal(run.status, 0, run.stderr);
}

/** Layers of an image, unpacked if they are not plain. */
async function contentOf(source: ImageSource): Promise<Buffer[]> {
  const { manifest } = await resolveManifest(source, PLATFORM);
  const config = parseImageConfig(await source.readBlob(manifest.config), source.name);
  assert.equal(config.rootfs.diff_ids.length, manifest.layers.length);
  return Promise.all(manifest.layers.map((layer) => readStream(source, layer)));
}

test('parseImageName() takes archives apart', () => {
  assert.deepEqual(parseImageName('oci-archive:/x/y.tar:v1'), {
    kind: 'oci-archive',
    path: '/x/y.tar',
    tag: 'v1',
  });
  assert.deepEqual(parseImageName('docker-archive:y.tar:host:5000/app:1'), {
    kind: 'docker-archive',
    path: 'y.tar',
    tag: 'host:5000/app:1',
  });
  for (const wrong of ['oci-archive:', 'docker-archive:x:', 'oci-archive::tag'])
    assert.throws(() => parseImageName(wrong), { code: 'OBD_CONFIG_VALUE', message: /expected .*FILE\[:/ });
});

describe('oci-archive:', () => {
  test('reads a layout that was packed with tar', async (t) => {
    const dir = tempDir(t);
    writeLayout(join(dir, 'layout'), LAYERS);
    tar(join(dir, 'layout'), '-cf', join(dir, 'image.tar'), '.');
    const source = openImageSource(`oci-archive:${dir}/image.tar:src`, client);
    t.after(() => source.close());
    const contents = await contentOf(source);
    assert.deepEqual(
      contents,
      LAYERS.map((layer) => gzipSync(layer)),
    );
    const { manifest } = await resolveManifest(source, PLATFORM);
    const [layer] = manifest.layers;
    assert.ok(layer);
    const blob = await source.openBlob(layer);
    const into = Buffer.alloc(10);
    await blob.read(5, into);
    assert.deepEqual(into, gzipSync(LAYERS[0] ?? '').subarray(5, 15));
    await blob.close();
    await assert.rejects(openImageSource(`oci-archive:${dir}/image.tar:other`, client).resolve(), {
      code: 'OBD_REGISTRY_NOT_FOUND',
      hint: /src/,
    });
  });

  test('that is damaged, packed, or no layout is refused with the reason', async (t) => {
    const dir = tempDir(t);
    writeLayout(join(dir, 'layout'), LAYERS);
    const blobs = join(dir, 'layout', 'blobs', 'sha256');
    tar(join(dir, 'layout'), '-cf', join(dir, 'good.tar'), '.');
    const good = readFileSync(join(dir, 'good.tar'));
    writeFileSync(join(dir, 'torn.tar.gz'), gzipSync(good).subarray(0, 400));
    writeFileSync(join(dir, 'packed.tar.xz'), Buffer.from('fd377a585a000004', 'hex'));
    writeFileSync(join(dir, 'torn.tar'), good.subarray(0, good.length / 2));
    writeFileSync(join(dir, 'empty.tar'), Buffer.alloc(1024));
    writeFileSync(join(dir, 'nothing.tar'), '');
    writeFileSync(join(dir, 'docker.tar'), tarOf([{ path: 'manifest.json', content: '[]' }]));
    const layerFile = join(blobs, digest(gzipSync(LAYERS[0] ?? '')).slice(7));
    const bytes = readFileSync(layerFile);
    bytes[20] = (bytes[20] ?? 0) ^ 1;
    writeFileSync(layerFile, bytes);
    tar(join(dir, 'layout'), '-cf', join(dir, 'flipped.tar'), '.');
    for (const [name, code, message] of [
      ['torn.tar.gz', 'OBD_CONVERT_BAD_TAR', /gzip stream: unexpected end/],
      ['packed.tar.xz', 'OBD_CONFIG_VALUE', /packed with xz/],
      ['torn.tar', 'OBD_CONVERT_BAD_TAR', /unexpected end/],
      ['empty.tar', 'OBD_CONFIG_NOT_FOUND', /no index.json/],
      ['nothing.tar', 'OBD_CONFIG_NOT_FOUND', /no index.json/],
      ['docker.tar', 'OBD_CONFIG_NOT_FOUND', /no index.json/],
      ['missing.tar', 'OBD_IO_NOT_FOUND', /missing.tar/],
      ['flipped.tar', 'OBD_REGISTRY_DIGEST', /its digest is/],
    ] as const) {
      const source = openImageSource(`oci-archive:${dir}/${name}`, client);
      await assert.rejects(contentOf(source), { code, message }, name);
      await source.close();
    }
  });

  test('that is packed as a whole is unpacked into the work directory, within bounds', async (t) => {
    const dir = tempDir(t);
    const work = tempDir(t);
    writeLayout(join(dir, 'layout'), LAYERS);
    tar(join(dir, 'layout'), '-cf', join(dir, 'image.tar'), '.');
    const plain = readFileSync(join(dir, 'image.tar'));
    writeFileSync(join(dir, 'image.tar.gz'), gzipSync(plain));
    writeFileSync(join(dir, 'image.tar.zst'), compress(plain));
    for (const packing of ['gz', 'zst']) {
      const source = openImageSource(`oci-archive:${dir}/image.tar.${packing}:src`, client, {
        workDir: work,
      });
      assert.deepEqual(
        await contentOf(source),
        LAYERS.map((layer) => gzipSync(layer)),
      );
      assert.deepEqual(readdirSync(work), [], 'its file has no name');
      await source.close();
    }
    await assert.rejects(unpackArchive(join(dir, 'image.tar.gz'), 'gzip', work, 1000), {
      code: 'OBD_CONVERT_BAD_TAR',
      message: /more than 1000 bytes/,
    });
    await assert.rejects(unpackArchive(join(dir, 'image.tar.gz'), 'gzip', join(dir, 'none')), {
      code: 'OBD_IO_NOT_FOUND',
    });
    assert.deepEqual(readdirSync(work), []);
  });

  test('has only its own members, whatever their names and links say', async (t) => {
    const dir = tempDir(t);
    const secret = join(dir, 'secret');
    writeFileSync(secret, '{"schemaVersion":2,"manifests":[]}');
    for (const members of [
      [{ path: 'index.json', type: '2', link: secret }],
      [{ path: 'index.json', type: '2', link: '../secret' }],
      [{ path: 'index.json', type: '1', link: secret }],
      [
        { path: 'index.json', type: '2', link: 'loop' },
        { path: 'loop', type: '2', link: 'index.json' },
      ],
    ]) {
      writeFileSync(join(dir, 'a.tar'), tarOf(members));
      await assert.rejects(openImageSource(`oci-archive:${dir}/a.tar`, client).resolve(), {
        code: 'OBD_CONFIG_NOT_FOUND',
      });
    }
  });

  test('with more members, or longer names, than any image has costs no memory', async (t) => {
    const dir = tempDir(t);
    const member = memberBytes({ path: 'x' });
    writeFileSync(join(dir, 'many.tar'), Buffer.concat(Array<Buffer>(100_001).fill(member)));
    await assert.rejects(openImageSource(`oci-archive:${dir}/many.tar`, client).resolve(), {
      code: 'OBD_REGISTRY_RESPONSE',
      message: /more than 100000 members/,
    });
    const long = memberBytes({ path: 'x', pax: { path: `${'./'.repeat(3000)}index.json` }, content: '{}' });
    writeFileSync(join(dir, 'long.tar'), long);
    await assert.rejects(openImageSource(`oci-archive:${dir}/long.tar`, client).resolve(), {
      code: 'OBD_CONFIG_NOT_FOUND',
    });
  });

  for (const kind of ['oci-archive', 'docker-archive'])
    test(`${kind}: written reads back, is the same each time, and is not written over`, async (t) => {
      const dir = tempDir(t);
      const write = async (path: string, force = false): Promise<void> => {
        const target = openImageTarget(
          `${kind}:${path}:app:v1`.replace(/app:(?=v1)/, kind === 'oci-archive' ? '' : 'app:'),
          client,
          { replace: force },
        );
        try {
          const put = (bytes: Buffer): Promise<string> =>
            target.pushBlob({ digest: digestOf(bytes), size: bytes.length }, new MemoryBlob(bytes));
          assert.equal(await put(LAYERS[0] ?? CONFIG), 'pushed');
          const wrong = { digest: digestOf(CONFIG), size: LAYERS[1]?.length ?? 0 };
          await assert.rejects(target.pushBlob(wrong, new MemoryBlob(LAYERS[1] ?? CONFIG)), {
            code: 'OBD_REGISTRY_DIGEST',
          });
          assert.deepEqual(await Promise.all([...LAYERS, CONFIG].map(put)), ['exists', 'pushed', 'pushed']);
          const manifest = {
            schemaVersion: 2,
            mediaType: MediaType.OCI_MANIFEST,
            config: { mediaType: MediaType.OCI_CONFIG, digest: digestOf(CONFIG), size: CONFIG.length },
            layers: LAYERS.map((bytes) => ({
              mediaType: MediaType.OCI_LAYER,
              digest: digestOf(bytes),
              size: bytes.length,
            })),
          };
          const bytes = Buffer.from(JSON.stringify(manifest));
          await target.tag(await target.pushManifest(bytes, MediaType.OCI_MANIFEST));
        } finally {
          await target.close();
        }
      };
      await write(join(dir, 'a.tar'));
      await write(join(dir, 'b.tar'));
      assert.deepEqual(readFileSync(join(dir, 'a.tar')), readFileSync(join(dir, 'b.tar')));
      for (const form of [
        'oci-archive:@:v1',
        'docker-archive:@:app:v1',
        'docker-archive:@:docker.io/library/app:v1',
        'docker-archive:@:@0',
        // It is a layout, too, with the name that containerd looks for.
        'oci-archive:@:docker.io/library/app:v1',
      ]) {
        if (kind === 'oci-archive' && form.includes('docker.io')) continue;
        if (
          !form.startsWith(kind) &&
          !(kind === 'docker-archive' && form.startsWith('oci') && form.includes('docker.io'))
        )
          continue;
        const source = openImageSource(form.replace('@', join(dir, 'a.tar')), client);
        assert.deepEqual(await contentOf(source), LAYERS);
        await source.close();
      }
      await assert.rejects(write(join(dir, 'a.tar')), { code: 'OBD_IO_EXISTS', hint: /--force/ });
      await write(join(dir, 'a.tar'), true);
      assert.deepEqual(readdirSync(dir).sort(), ['a.tar', 'b.tar']);
      // GNU tar finds nothing wrong.
      mkdirSync(join(dir, 'x'));
      tar(join(dir, 'x'), '-xf', join(dir, 'a.tar'));
    });

  test('that is not finished leaves nothing', async (t) => {
    const dir = tempDir(t);
    const target = openImageTarget(`oci-archive:${dir}/a.tar:v1`, client);
    await target.pushBlob({ digest: digestOf(CONFIG), size: CONFIG.length }, new MemoryBlob(CONFIG));
    assert.equal(readdirSync(dir).length, 1);
    await target.close();
    assert.deepEqual(readdirSync(dir), []);
  });

  test('whose place cannot be written says so before anything is done', async (t) => {
    const dir = tempDir(t);
    const check = (path: string): Promise<void> | undefined =>
      openImageTarget(`oci-archive:${path}`, client).check?.();
    await assert.rejects(Promise.resolve(check(join(dir, 'none', 'a.tar'))), { code: 'OBD_IO_NOT_FOUND' });
    writeFileSync(join(dir, 'a.tar'), '');
    await assert.rejects(Promise.resolve(check(join(dir, 'a.tar'))), { code: 'OBD_IO_EXISTS' });
    await check(join(dir, 'b.tar'));
  });

  test('tells of blobs of more than 8 GiB in a way that tar understands', async (t) => {
    const { tarMemberHead } = await import('../../src/tar/index.js');
    const dir = tempDir(t);
    writeFileSync(
      join(dir, 'a.tar'),
      Buffer.concat([
        memberBytes({ path: 'first', content: 'x' }),
        tarMemberHead(`long/${'n'.repeat(200)}`, 0),
        tarMemberHead('huge', 9 * 2 ** 30),
      ]),
    );
    const list = spawnSync('tar', ['-tvf', join(dir, 'a.tar')], { encoding: 'utf8' });
    assert.match(list.stdout, / 0 .* long\/n{200}\n/);
    assert.match(list.stdout, / 9663676416 .* huge\n/);
  });
});

describe('docker-archive:', () => {
  /** `docker save` as it was from 1.10 on: a directory per layer, equal layers as links. */
  const save = (dir: string, packed = false): string => {
    const path = join(dir, 'save.tar');
    const [one = CONFIG, two = CONFIG] = packed ? LAYERS.map((layer) => gzipSync(layer)) : LAYERS;
    const images = [
      {
        Config: 'cfg.json',
        RepoTags: ['app:1', 'host.example/app:2'],
        Layers: ['1/layer.tar', '2/layer.tar'],
      },
      { Config: 'cfg.json', RepoTags: null, Layers: ['1/layer.tar', '3/layer.tar'] },
    ];
    writeFileSync(
      path,
      tarOf([
        { path: '1/' },
        { path: '1/layer.tar', content: one },
        { path: '2/layer.tar', content: two },
        { path: '3/layer.tar', type: '2', link: '../2/layer.tar' },
        { path: 'cfg.json', content: CONFIG },
        { path: 'manifest.json', content: JSON.stringify(images) },
      ]),
    );
    return path;
  };

  test('reads what docker save writes', async (t) => {
    const path = save(tempDir(t));
    for (const reference of ['app:1', 'docker.io/library/app:1', 'host.example/app:2', '@0', '@1']) {
      const source = openImageSource(`docker-archive:${path}:${reference}`, client);
      assert.deepEqual(await contentOf(source), LAYERS, reference);
      assert.equal((await source.resolve()).descriptor.mediaType, MediaType.DOCKER_MANIFEST);
      await source.close();
    }
    await assert.rejects(openImageSource(`docker-archive:${path}`, client).resolve(), {
      code: 'OBD_CONFIG_VALUE',
      hint: /It has app:1, @1; write docker-archive:FILE:REFERENCE/,
    });
    for (const missing of ['app:3', '@2'])
      await assert.rejects(openImageSource(`docker-archive:${path}:${missing}`, client).resolve(), {
        code: 'OBD_REGISTRY_NOT_FOUND',
      });
  });

  test('reads packed layers', async (t) => {
    const path = save(tempDir(t), true);
    const source = openImageSource(`docker-archive:${path}:app:1`, client);
    t.after(() => source.close());
    assert.deepEqual(
      await contentOf(source),
      LAYERS.map((layer) => gzipSync(layer)),
    );
    const { manifest } = await resolveManifest(source);
    assert.equal(manifest.layers[0]?.mediaType, MediaType.DOCKER_LAYER_GZIP);
  });

  test('reads the format before Docker 1.10', async (t) => {
    const dir = tempDir(t);
    const id = (letter: string): string => letter.repeat(64);
    const json = (letter: string, parent?: string): object => ({
      path: `${id(letter)}/json`,
      content: JSON.stringify({
        id: id(letter),
        ...(parent && { parent: id(parent) }),
        created: '2015-01-01T00:00:00Z',
        os: 'linux',
        architecture: 'amd64',
        config: { Cmd: ['/bin/app'] },
        container_config: { Cmd: ['/bin/sh', '-c', letter] },
      }),
    });
    const legacy = (...more: object[]): string => {
      const path = join(dir, 'legacy.tar');
      const members = [
        { path: `${id('a')}/layer.tar`, content: LAYERS[0] },
        { path: `${id('b')}/layer.tar`, content: LAYERS[1] },
        { path: 'repositories', content: JSON.stringify({ app: { old: id('b') } }) },
        ...more,
      ];
      writeFileSync(path, tarOf(members as Parameters<typeof tarOf>[0]));
      return path;
    };
    const source = openImageSource(`docker-archive:${legacy(json('a'), json('b', 'a'))}:app:old`, client);
    assert.deepEqual(await contentOf(source), LAYERS);
    const { manifest } = await resolveManifest(source);
    const config = parseImageConfig(await source.readBlob(manifest.config), 'x');
    assert.deepEqual(config.config, { Cmd: ['/bin/app'] });
    assert.deepEqual(
      config.history?.map((step) => step['created_by']),
      ['/bin/sh -c a', '/bin/sh -c b'],
    );
    await source.close();
    await assert.rejects(
      openImageSource(`docker-archive:${legacy(json('a', 'b'), json('b', 'a'))}`, client).resolve(),
      { code: 'OBD_REGISTRY_RESPONSE', message: /do not end/ },
    );
  });

  test('that contradicts itself is refused', async (t) => {
    const dir = tempDir(t);
    const refused = async (members: Parameters<typeof tarOf>[0], code: string): Promise<void> => {
      writeFileSync(join(dir, 'a.tar'), tarOf(members));
      const source = openImageSource(`docker-archive:${dir}/a.tar`, client);
      await assert.rejects(contentOf(source), { code });
      await source.close();
    };
    const manifest = (value: unknown): { path: string; content: string } => ({
      path: 'manifest.json',
      content: JSON.stringify(value),
    });
    const config = { path: 'cfg', content: CONFIG };
    await refused([], 'OBD_CONFIG_NOT_FOUND');
    await refused([{ path: 'manifest.json', content: '{' }], 'OBD_REGISTRY_RESPONSE');
    await refused([manifest({})], 'OBD_REGISTRY_RESPONSE');
    await refused([manifest([{ Config: 'cfg', Layers: [] }])], 'OBD_REGISTRY_NOT_FOUND');
    await refused([manifest([{ Config: 'cfg', Layers: [] }]), config], 'OBD_REGISTRY_RESPONSE');
    await refused([manifest([{ Config: 'cfg', Layers: ['a', 'b'] }]), config], 'OBD_REGISTRY_NOT_FOUND');
    // Another content than the configuration says.
    const swapped = [
      { path: 'a', content: LAYERS[1] ?? '' },
      { path: 'b', content: LAYERS[0] ?? '' },
    ];
    await refused(
      [manifest([{ Config: 'cfg', Layers: ['a', 'b'] }]), config, ...swapped],
      'OBD_REGISTRY_DIGEST',
    );
  });

  test('holds single images only', async (t) => {
    const dir = tempDir(t);
    const target = openImageTarget(`docker-archive:${dir}/a.tar`, client);
    assert.equal(target.singleImage, true);
    const index = Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: [] }));
    const descriptor = await target.pushManifest(index, MediaType.OCI_INDEX);
    await assert.rejects(target.tag(descriptor), { code: 'OBD_CONFIG_VALUE' });
    await target.close();
    assert.deepEqual(readdirSync(dir), []);
  });
});
