/**
 * Images saved by Docker before 1.10: a chain of directories, top first, each with a layer and half a configuration.
 *
 *   repositories    {"app": {"1": "<id>"}}
 *   <id>/json       {"parent": "<id>", "config": {..}, "os": "linux", ..}
 *   <id>/layer.tar
 */
import { z } from 'zod';
import { RegistryError } from '../blob/index.js';
import type { ArchiveFile } from './archive-file.js';
import { digestOfBlob, parseJson, type SavedImage } from './docker-archive.js';
import { MAX_CONFIG_SIZE, MAX_MANIFEST_SIZE } from './manifest.js';

/** More layers cannot be stacked by anyone. */
const MAX_CHAIN = 4096;

const ID = /^[0-9a-f]{1,64}$/;
const repositoriesSchema = z.record(z.string(), z.record(z.string(), z.string().regex(ID)));
const layerSchema = z.looseObject({
  parent: z.string().optional(),
  created: z.string().optional(),
  author: z.string().optional(),
  architecture: z.string().optional(),
  os: z.string().optional(),
  config: z.unknown(),
  container_config: z.looseObject({ Cmd: z.array(z.string()).nullish() }).nullish(),
});

type LayerJson = z.infer<typeof layerSchema>;

function bad(archive: ArchiveFile, problem: string): RegistryError {
  return new RegistryError('OBD_REGISTRY_RESPONSE', `Cannot read "${archive.path}": ${problem}`, {
    source: archive.path,
  });
}

/** The images that `repositories` names. @throws RegistryError for what is missing or makes no sense. */
export async function legacyImages(archive: ArchiveFile): Promise<SavedImage[]> {
  const bytes = await archive.read('repositories', MAX_MANIFEST_SIZE);
  const parsed = repositoriesSchema.safeParse(parseJson(bytes, `${archive.path}(repositories)`));
  if (!parsed.success) throw bad(archive, `its "repositories" is none: ${z.prettifyError(parsed.error)}`);
  const tagsById = new Map<string, string[]>();
  for (const [repository, tags] of Object.entries(parsed.data))
    for (const [tag, id] of Object.entries(tags))
      tagsById.set(id, [...(tagsById.get(id) ?? []), `${repository}:${tag}`]);
  const images: SavedImage[] = [];
  for (const [id, tags] of tagsById) {
    const chain = await readChain(archive, id);
    const layers = chain.map((layer) => `${layer.id}/layer.tar`);
    images.push({ tags, layers, config: () => makeConfig(archive, chain, layers) });
  }
  return images;
}

interface Link {
  readonly id: string;
  readonly json: LayerJson;
}

/** Bottom first. */
async function readChain(archive: ArchiveFile, top: string): Promise<Link[]> {
  const chain: Link[] = [];
  const seen = new Set<string>();
  for (let id: string | undefined = top; id !== undefined && id !== '';) {
    if (!ID.test(id)) throw bad(archive, `"${id.slice(0, 100)}" is no layer's name`);
    if (seen.has(id) || chain.length >= MAX_CHAIN) throw bad(archive, `the parents of "${top}" do not end`);
    seen.add(id);
    const name: string = `${id}/json`;
    const bytes = await archive.read(name, MAX_CONFIG_SIZE);
    const parsed: z.ZodSafeParseResult<LayerJson> = layerSchema.safeParse(parseJson(bytes, name));
    if (!parsed.success) throw bad(archive, `"${name}": ${z.prettifyError(parsed.error)}`);
    chain.unshift({ id, json: parsed.data });
    id = parsed.data.parent;
  }
  return chain;
}

async function makeConfig(
  archive: ArchiveFile,
  chain: readonly Link[],
  layers: readonly string[],
): Promise<Uint8Array> {
  const top = chain.at(-1)?.json;
  const diffIds: string[] = [];
  for (const layer of layers) diffIds.push(await digestOfBlob(archive.member(layer)));
  return Buffer.from(
    JSON.stringify({
      architecture: top?.architecture ?? 'amd64',
      os: top?.os ?? 'linux',
      ...(top?.created !== undefined && { created: top.created }),
      ...(top?.author !== undefined && { author: top.author }),
      config: top?.config ?? {},
      rootfs: { type: 'layers', diff_ids: diffIds },
      history: chain.map(({ json }) => ({
        ...(json.created !== undefined && { created: json.created }),
        created_by: json.container_config?.Cmd?.join(' ') ?? '',
      })),
    }),
  );
}
