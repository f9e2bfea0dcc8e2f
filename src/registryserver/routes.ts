/** The distribution API (OCI distribution specification 1.1): one function per end point. */
import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { Refusal } from './answers.js';
import type { RequestKind } from './faults.js';
import { isDigestName, isRepositoryName, isTagName } from './names.js';
import { manifestType, MAX_MANIFEST, type Store, type StoredBlob } from './store.js';
import type { Upload, Uploads } from './uploads.js';

/** What to send. */
export interface Answer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Buffer | StoredBlob;
}

/** What the end points need. */
export interface RouteContext {
  readonly store: Store;
  readonly uploads: Uploads;
  readonly readOnly: boolean;
  /** Whether to tell who refers to a manifest. */
  readonly referrers: boolean;
  /** Blobs are answered with a redirect to this base URL + the same path. */
  readonly redirectBlobs: string | undefined;
}

/** A request's target, taken apart. */
export interface Route {
  readonly kind: RequestKind;
  readonly name: string;
  readonly endpoint: 'base' | 'catalog' | 'tags' | 'manifest' | 'referrers' | 'blob' | 'uploads' | 'upload';
  /** Tag, digest or upload id. */
  readonly item: string;
}

/** Takes a path apart. @throws Refusal */
export function parseRoute(path: string): Route {
  if (path === '/v2' || path === '/v2/') return { kind: 'other', name: '', endpoint: 'base', item: '' };
  if (path === '/v2/_catalog') return { kind: 'other', name: '', endpoint: 'catalog', item: '' };
  const match =
    /^\/v2\/(.+)\/(?:(tags)\/list|(manifests)\/([^/]+)|blobs\/(uploads)\/?|blobs\/uploads\/([^/]+)|(blobs|referrers)\/([^/]+))$/.exec(
      path,
    );
  if (match === null) throw new Refusal(404, 'UNSUPPORTED', 'no such end point');
  const [, name = '', tags, manifests, reference = '', uploads, uploadId, digested, digest = ''] = match;
  if (!isRepositoryName(name)) throw new Refusal(400, 'NAME_INVALID', 'invalid repository name');
  if (tags !== undefined) return { kind: 'other', name, endpoint: 'tags', item: '' };
  if (manifests !== undefined) {
    if (!isTagName(reference) && !isDigestName(reference))
      throw new Refusal(400, 'MANIFEST_INVALID', 'neither tag nor digest');
    return { kind: 'manifests', name, endpoint: 'manifest', item: reference };
  }
  if (uploads !== undefined) return { kind: 'uploads', name, endpoint: 'uploads', item: '' };
  if (uploadId !== undefined) return { kind: 'uploads', name, endpoint: 'upload', item: uploadId };
  if (!isDigestName(digest)) throw new Refusal(400, 'DIGEST_INVALID', 'expected sha256:<64 hex digits>');
  if (digested === 'referrers') return { kind: 'other', name, endpoint: 'referrers', item: digest };
  return { kind: 'blobs', name, endpoint: 'blob', item: digest };
}

/** Answers a request. @throws Refusal */
export async function answer(
  context: RouteContext,
  route: Route,
  request: IncomingMessage,
  url: URL,
): Promise<Answer> {
  const method = request.method ?? 'GET';
  const reads = method === 'GET' || method === 'HEAD';
  if (!reads && context.readOnly) throw new Refusal(405, 'UNSUPPORTED', 'this registry is read-only');
  switch (route.endpoint) {
    case 'base':
      return reads ? json({}) : unsupported(method);
    case 'catalog':
      return reads
        ? page(await context.store.repositories(), url, (repositories) => ({ repositories }))
        : unsupported(method);
    case 'tags':
      return reads ? listTags(context, route, url) : unsupported(method);
    case 'manifest':
      if (reads) return getManifest(context, route);
      if (method === 'PUT') return putManifest(context, route, request);
      return method === 'DELETE' ? deleteManifest(context, route) : unsupported(method);
    case 'referrers':
      return reads ? listReferrers(context, route, url) : unsupported(method);
    case 'blob':
      if (reads) return getBlob(context, route);
      return method === 'DELETE' ? deleteBlob(context, route) : unsupported(method);
    case 'uploads':
      return method === 'POST' ? beginUpload(context, route, request, url) : unsupported(method);
    case 'upload':
      return changeUpload(context, route, request, url);
  }
}

function unsupported(method: string): never {
  throw new Refusal(405, 'UNSUPPORTED', `method ${method} is not supported here`);
}

function json(value: unknown, headers: Record<string, string> = {}): Answer {
  return {
    status: 200,
    headers: { 'content-type': 'application/json', ...headers },
    body: Buffer.from(JSON.stringify(value)),
  };
}

/** `n` and `last` of the specification, with a Link to the next page. */
function page(all: readonly string[], url: URL, wrap: (items: readonly string[]) => unknown): Answer {
  const last = url.searchParams.get('last') ?? '';
  const wanted = url.searchParams.get('n');
  const rest = all.filter((item) => item > last);
  if (wanted === null || !/^\d{1,6}$/.test(wanted) || Number(wanted) >= rest.length) return json(wrap(rest));
  const items = rest.slice(0, Number(wanted));
  const next = items.at(-1);
  const query = new URLSearchParams({ n: wanted, ...(next === undefined ? {} : { last: next }) });
  return json(
    wrap(items),
    items.length === 0 ? {} : { link: `<${url.pathname}?${query.toString()}>; rel="next"` },
  );
}

async function listTags({ store }: RouteContext, { name }: Route, url: URL): Promise<Answer> {
  const tags = await store.tags(name);
  if (tags === undefined) throw new Refusal(404, 'NAME_UNKNOWN', 'no such repository');
  return page(tags, url, (items) => ({ name, tags: items }));
}

async function getManifest({ store }: RouteContext, { name, item }: Route): Promise<Answer> {
  const manifest = await store.manifest(name, item);
  if (manifest === undefined) throw new Refusal(404, 'MANIFEST_UNKNOWN', `no manifest ${item} in ${name}`);
  return {
    status: 200,
    headers: {
      'content-type': manifest.mediaType,
      'docker-content-digest': manifest.digest,
      etag: `"${manifest.digest}"`,
    },
    body: manifest.bytes,
  };
}

/** An index of what refers to a digest; an empty one if nothing does. */
async function listReferrers(context: RouteContext, { name, item }: Route, url: URL): Promise<Answer> {
  if (!context.referrers) throw new Refusal(404, 'UNSUPPORTED', 'no such end point');
  const { store } = context;
  const wanted = url.searchParams.get('artifactType');
  const entries = (await store.referrers(name, item)).map(({ digest, mediaType, bytes }) => {
    const { artifactType, config, annotations } = JSON.parse(bytes.toString('utf8')) as {
      artifactType?: string;
      config?: { mediaType?: string } | null;
      annotations?: object | null;
    };
    const type = artifactType ?? config?.mediaType;
    return {
      mediaType,
      digest,
      size: bytes.byteLength,
      ...(type !== undefined && { artifactType: type }),
      ...(annotations && { annotations }),
    };
  });
  const answered = json(
    {
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.index.v1+json',
      manifests: wanted === null ? entries : entries.filter((entry) => entry.artifactType === wanted),
    },
    wanted === null ? {} : { 'oci-filters-applied': 'artifactType' },
  );
  return {
    ...answered,
    headers: { ...answered.headers, 'content-type': 'application/vnd.oci.image.index.v1+json' },
  };
}

async function putManifest(
  { store, referrers }: RouteContext,
  { name, item }: Route,
  request: IncomingMessage,
): Promise<Answer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.byteLength;
    if (size > MAX_MANIFEST)
      throw new Refusal(413, 'MANIFEST_INVALID', `manifest is larger than ${MAX_MANIFEST} bytes`);
    chunks.push(chunk);
  }
  const bytes = Buffer.concat(chunks);
  const type = manifestType(bytes);
  const said = request.headers['content-type']?.split(';')[0]?.trim();
  const mediaType = said ?? type;
  if (mediaType === undefined || type === undefined)
    throw new Refusal(400, 'MANIFEST_INVALID', 'neither a manifest nor an index');
  if (said !== undefined && type.includes('index') !== said.includes('index') && said !== type)
    throw new Refusal(400, 'MANIFEST_INVALID', `Content-Type is ${said}, the document says ${type}`);
  const algorithm = item.startsWith('sha512:') ? 'sha512' : 'sha256';
  const digest = `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`;
  if (isDigestName(item) && item !== digest)
    throw new Refusal(400, 'DIGEST_INVALID', `content is ${digest}, not ${item}`);
  await checkReferences(store, name, bytes);
  await store.putManifest(name, { digest, mediaType, bytes }, isDigestName(item) ? undefined : item);
  const { subject } = JSON.parse(bytes.toString('utf8')) as { subject?: { digest?: unknown } | null };
  return {
    status: 201,
    headers: {
      location: `/v2/${name}/manifests/${digest}`,
      'docker-content-digest': digest,
      ...(referrers && typeof subject?.digest === 'string' ? { 'oci-subject': subject.digest } : {}),
    },
  };
}

/** Everything a manifest names must be there, except what it says is elsewhere. @throws Refusal */
async function checkReferences(store: Store, name: string, bytes: Buffer): Promise<void> {
  const { config, layers, manifests } = JSON.parse(bytes.toString('utf8')) as Record<string, unknown>;
  const check = async (entry: unknown, kind: 'blob' | 'manifest'): Promise<void> => {
    const { digest, urls } = (entry ?? {}) as Record<string, unknown>;
    if (typeof digest !== 'string' || !isDigestName(digest))
      throw new Refusal(400, 'MANIFEST_INVALID', 'an entry has no usable digest');
    if (Array.isArray(urls) && urls.length > 0) return;
    const found = kind === 'blob' ? await store.blob(name, digest) : await store.manifest(name, digest);
    if (found === undefined)
      throw new Refusal(404, 'MANIFEST_BLOB_UNKNOWN', `${kind} ${digest} is not in ${name}`);
  };
  if (config !== undefined) await check(config, 'blob');
  for (const layer of Array.isArray(layers) ? (layers as unknown[]) : []) await check(layer, 'blob');
  for (const manifest of Array.isArray(manifests) ? (manifests as unknown[]) : [])
    await check(manifest, 'manifest');
}

async function deleteManifest({ store }: RouteContext, { name, item }: Route): Promise<Answer> {
  if (!(await store.deleteManifest(name, item)))
    throw new Refusal(404, 'MANIFEST_UNKNOWN', `no manifest ${item} in ${name}`);
  return { status: 202 };
}

async function deleteBlob({ store }: RouteContext, { name, item }: Route): Promise<Answer> {
  if (!(await store.deleteBlob(name, item)))
    throw new Refusal(404, 'BLOB_UNKNOWN', `no blob ${item} in ${name}`);
  return { status: 202 };
}

async function getBlob({ store, redirectBlobs }: RouteContext, { name, item }: Route): Promise<Answer> {
  const blob = await store.blob(name, item);
  if (blob === undefined) throw new Refusal(404, 'BLOB_UNKNOWN', `no blob ${item} in ${name}`);
  if (redirectBlobs !== undefined)
    return { status: 307, headers: { location: `${redirectBlobs}/v2/${name}/blobs/${item}` } };
  return {
    status: 200,
    headers: {
      'content-type': 'application/octet-stream',
      'docker-content-digest': item,
      etag: `"${item}"`,
      'cache-control': 'max-age=31536000',
    },
    body: blob,
  };
}

async function beginUpload(
  { store, uploads }: RouteContext,
  { name }: Route,
  request: IncomingMessage,
  url: URL,
): Promise<Answer> {
  const mount = url.searchParams.get('mount');
  const from = url.searchParams.get('from');
  if (
    mount !== null &&
    from !== null &&
    isDigestName(mount) &&
    isRepositoryName(from) &&
    (await store.mount(name, from, mount))
  )
    return created(name, mount);
  const upload = await uploads.begin(name);
  const digest = url.searchParams.get('digest');
  if (digest === null) return progress(upload, 202);
  await uploads.append(upload, request);
  return finish(uploads, upload, digest);
}

async function changeUpload(
  { uploads }: RouteContext,
  { name, item }: Route,
  request: IncomingMessage,
  url: URL,
): Promise<Answer> {
  const upload = uploads.get(name, item);
  switch (request.method) {
    case 'GET':
    case 'HEAD':
      return progress(upload, 204);
    case 'PATCH':
      checkStart(upload, request);
      await uploads.append(upload, request);
      return progress(upload, 202);
    case 'PUT': {
      const digest = url.searchParams.get('digest');
      if (digest === null) throw new Refusal(400, 'DIGEST_INVALID', 'a finished upload needs ?digest=');
      checkStart(upload, request);
      await uploads.append(upload, request);
      return finish(uploads, upload, digest);
    }
    case 'DELETE':
      await uploads.cancel(upload);
      return { status: 204 };
    default:
      return unsupported(request.method ?? '');
  }
}

/** A chunk must start where the last one ended. @throws Refusal 416 */
function checkStart(upload: Upload, request: IncomingMessage): void {
  const range = request.headers['content-range'];
  if (range === undefined) return;
  const match = /^(?:bytes[ =])?(\d{1,15})-(\d{1,15})(?:\/(?:\d+|\*))?$/.exec(range);
  if (match === null)
    throw new Refusal(400, 'BLOB_UPLOAD_INVALID', `Content-Range "${range}" is not FIRST-LAST`);
  if (Number(match[1]) !== upload.size)
    throw new Refusal(
      416,
      'BLOB_UPLOAD_INVALID',
      `the upload has ${upload.size} bytes`,
      progress(upload, 416).headers,
    );
}

function progress(upload: Upload, status: number): Answer {
  return {
    status,
    headers: {
      location: `/v2/${upload.repository}/blobs/uploads/${upload.id}`,
      range: `0-${Math.max(0, upload.size - 1)}`,
      'docker-upload-uuid': upload.id,
      'content-length': '0',
    },
  };
}

async function finish(uploads: Uploads, upload: Upload, digest: string): Promise<Answer> {
  if (!isDigestName(digest)) {
    await uploads.cancel(upload);
    throw new Refusal(400, 'DIGEST_INVALID', 'expected sha256:<64 hex digits>');
  }
  await uploads.finish(upload, digest);
  return created(upload.repository, digest);
}

function created(name: string, digest: string): Answer {
  return {
    status: 201,
    headers: {
      location: `/v2/${name}/blobs/${digest}`,
      'docker-content-digest': digest,
      'content-length': '0',
    },
  };
}
