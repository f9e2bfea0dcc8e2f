import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ConfigError, FormatError, ioError, makeDirectory } from '../blob/index.js';
import { parseImageName, verifyBytes } from '../oci/index.js';
import { MAX_TRACE_LAYER, TRACE_NAME, unpackTraceLayer } from '../prefetch/index.js';
import { blobUrl, parseReference } from '../registryblob/index.js';
import type { ImageResolver } from '../service/index.js';
import { findArtifacts, type LayerArtifact } from './artifacts.js';

/**
 * Writes `config.v1.json` for an image named by reference: layers of a registry are fetched when they are read, each
 * with a directory for its downloaded copy; those of an OCI layout are read where they lie.
 * @throws FormatError OBD_FORMAT_UNSUPPORTED if the image is not an overlaybd image.
 */
export const resolveImage: ImageResolver = async (image, dir, opener, { plainHttp }) => {
  const name = parseImageName(image);
  if (name.kind !== 'docker' && name.kind !== 'oci')
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot attach "${image}": a device reads layers from a registry or an OCI layout`,
      {
        source: image,
        hint:
          name.kind === 'containerd'
            ? 'The snapshotter makes devices of images that containerd has: ctr run'
            : 'Copy it to a layout first: skopeo copy ARCHIVE oci:DIRECTORY:TAG',
      },
    );
  const host = name.kind === 'docker' ? parseReference(name.reference).host : undefined;
  if (plainHttp && host !== undefined) opener.client.allowPlainHttp(host);
  const { layers } = await findArtifacts(image, opener.client, undefined);
  const trace = layers.at(-1)?.kind === 'trace';
  for (const [i, layer] of layers.entries())
    if (layer.kind !== 'overlaybd' && !(trace && i === layers.length - 1)) throw refusal(image, i, layer);
  const config = {
    repoBlobUrl: '',
    lowers: layers.map((layer, i) => lowerOf(layer, join(dir, 'layers', String(i)))),
    ...(trace ? { accelerationLayer: true } : {}),
    resultFile: join(dir, 'result'),
  };
  const traceDir = join(dir, 'layers', String(layers.length - 1));
  if (name.kind === 'oci') {
    const blobs = join(name.directory, 'blobs');
    config.lowers = layers.map(({ digest = '' }, i) =>
      trace && i === layers.length - 1 ? { dir: traceDir } : { file: join(blobs, ...digest.split(':')) },
    );
  } else {
    const { host: api, repository } = parseReference(name.reference);
    config.repoBlobUrl = blobUrl(opener.client.schemeOf(api), api, repository, '').replace(/\/$/, '');
  }
  const last = layers.at(-1);
  if (trace && last !== undefined)
    await keepTrace(last, traceDir).catch((error: unknown) => {
      opener.log.warn({ image, layer: last.name, err: error }, 'trace of the image is not used');
    });
  const path = join(dir, 'config.v1.json');
  try {
    const file = await open(path, 'wx', 0o600);
    try {
      await file.writeFile(JSON.stringify(config, undefined, 2));
    } finally {
      await file.close();
    }
  } catch (error) {
    throw ioError(error, `write "${path}"`, path);
  }
  return path;
};

/** Puts the trace that a layer carries where the device looks for it. */
async function keepTrace(layer: LayerArtifact, dir: string): Promise<void> {
  const { name, descriptor, size = 0 } = layer;
  if (size > MAX_TRACE_LAYER)
    throw new FormatError(
      'OBD_FORMAT_LIMIT',
      `Cannot use trace layer "${name}": it has ${size} bytes, expected at most ${MAX_TRACE_LAYER}`,
      { source: name, expected: MAX_TRACE_LAYER, actual: size },
    );
  const bytes = new Uint8Array(size);
  const blob = await layer.open();
  try {
    await blob.read(0, bytes);
  } finally {
    await blob.close();
  }
  if (descriptor !== undefined) verifyBytes(bytes, descriptor, name);
  const trace = await unpackTraceLayer(bytes, name);
  await makeDirectory(dir, 0o700);
  await writeFile(join(dir, TRACE_NAME), trace, { mode: 0o600 });
}

function lowerOf(layer: LayerArtifact, dir: string): Record<string, unknown> {
  return { digest: layer.digest, size: layer.size, dir };
}

function refusal(image: string, number: number, layer: LayerArtifact): FormatError {
  if (layer.kind === 'turbo')
    return new FormatError(
      'OBD_FORMAT_UNSUPPORTED',
      `Cannot attach "${image}": layer ${number} is a TurboOCI layer, which needs files that a snapshotter unpacks`,
      { source: image, hint: "Attach the snapshotter's config.v1.json instead" },
    );
  return new FormatError(
    'OBD_FORMAT_UNSUPPORTED',
    `Cannot attach "${image}": layer ${number} is an ordinary layer, expected an overlaybd image`,
    {
      source: image,
      expected: 'overlaybd',
      actual: layer.descriptor?.mediaType ?? layer.kind,
      hint: `Convert it first: obdconv ${image} ${image}_obd`,
    },
  );
}
