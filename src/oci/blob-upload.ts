/**
 * Sends a blob to a registry.
 *
 *   POST uploads/?mount=&from= ── 201 ──► mounted
 *          │ 202, Location
 *          ├─ small: PUT Location&digest= with the body
 *          └─ large: PATCH chunk, PATCH chunk, .. ──► PUT Location&digest=
 *                      └─ broken: GET Location says how far it got; go on from there
 *
 * A registry that cannot take chunks gets the large blob in one PUT as well. Everything is tried a bounded number of
 * times; bytes that arrived are progress, and start the count again.
 */
import { abortedError, RegistryError, type ReadableBlob } from '../blob/index.js';
import {
  discardBody,
  HttpStatusError,
  isRetryable,
  pause,
  type HttpResponse,
  type RegistryClient,
  type RegistryRequest,
} from '../registryblob/index.js';
import type { PushBlobOptions, PushOutcome } from './image-store.js';
import type { Descriptor } from './manifest.js';

/** Blobs up to this size go in one request: repeating it costs less than asking how far it got. */
const SINGLE_MAX = 64 * 1024 * 1024;
/** Above what any registry demands as the least (5 MiB), small enough to be sent again. */
const CHUNK = 32 * 1024 * 1024;
/** Bytes read from the content at once. */
const BLOCK = 512 * 1024;
/** A registry may move the whole blob to its storage before it answers. */
const ANSWER_MS = 300_000;

/** Which blob of which repository. */
export interface UploadPlace {
  /** `https://host/v2/repository`. */
  readonly base: string;
  readonly repository: string;
  readonly descriptor: Pick<Descriptor, 'digest' | 'size'>;
  readonly signal?: AbortSignal;
}

/** What is sent where. */
export interface Upload extends UploadPlace, PushBlobOptions {
  readonly content: ReadableBlob;
}

/** Sends the blob. @throws RegistryError by what the registry says. */
export async function uploadBlob(client: RegistryClient, upload: Upload): Promise<PushOutcome> {
  const { attempts } = client.retry;
  let single = upload.descriptor.size <= SINGLE_MAX;
  for (let attempt = 1; ; attempt++) {
    const location = await begin(client, upload);
    if (location === undefined) return 'mounted';
    try {
      await (single ? sendWhole(client, upload, location) : sendChunks(client, upload, location));
      return 'pushed';
    } catch (error) {
      await cancel(client, upload, location);
      if (upload.signal?.aborted === true)
        throw abortedError(`push blob "${upload.descriptor.digest}"`, upload.signal);
      const refusedChunks =
        !single && error instanceof HttpStatusError && [400, 404, 405, 415, 416, 501].includes(error.status);
      if (refusedChunks) single = true;
      else if (!isRetryable(error) || attempt >= attempts) throw error;
      client.log.debug(
        { digest: upload.descriptor.digest, attempt, err: error },
        'blob upload is tried again',
      );
      await pause(client.retry.baseMs * 2 ** attempt, 'push blob', upload.signal);
    }
  }
}

function request(
  upload: UploadPlace,
  rest: Pick<RegistryRequest, 'method' | 'url' | 'headers' | 'body' | 'timeoutMs' | 'extraScopes'>,
): RegistryRequest {
  return {
    ...rest,
    repository: upload.repository,
    actions: 'pull,push',
    action: 'push blob',
    signal: upload.signal,
    answerMs: ANSWER_MS,
  };
}

/** Starts an upload. @returns where to send it, or undefined if the blob was mounted instead. */
async function begin(client: RegistryClient, upload: Upload): Promise<string | undefined> {
  const { base, mountFrom } = upload;
  const url = `${base}/blobs/uploads/`;
  if (mountFrom !== undefined && mountFrom !== upload.repository) {
    const answer = await tryMount(client, upload, mountFrom);
    if (answer === 'mounted') return undefined;
    if (answer !== 'refused') return answer.location;
  }
  const response = await client.request(request(upload, { method: 'POST', url }), [202]);
  await discardBody(response);
  return locationOf(response, url);
}

/** Asks for a mount; a registry that does not mount may begin an upload instead. */
async function tryMount(
  client: RegistryClient,
  upload: UploadPlace,
  from: string,
): Promise<'mounted' | 'refused' | { readonly location: string }> {
  const url = `${upload.base}/blobs/uploads/`;
  const query = new URLSearchParams({ mount: upload.descriptor.digest, from });
  try {
    const extraScopes = [`repository:${from}:pull`];
    const response = await client.request(
      request(upload, { method: 'POST', url: `${url}?${query.toString()}`, extraScopes }),
      [201, 202],
    );
    await discardBody(response);
    return response.status === 201 ? 'mounted' : { location: locationOf(response, url) };
  } catch (error) {
    // A registry that knows no mounts, or refuses this one, still takes the blob itself.
    if (
      error instanceof HttpStatusError ||
      (error instanceof RegistryError && error.code === 'OBD_REGISTRY_AUTH')
    )
      return 'refused';
    throw error;
  }
}

/** Mounts a blob of another repository. @returns false if the registry does not. */
export async function mountBlob(client: RegistryClient, upload: UploadPlace, from: string): Promise<boolean> {
  const answer = await tryMount(client, upload, from);
  if (typeof answer === 'object') await cancel(client, upload, answer.location);
  return answer === 'mounted';
}

function locationOf(response: HttpResponse, base: string): string {
  const place = response.header('location');
  if (place === undefined || !URL.canParse(place, base))
    throw new RegistryError(
      'OBD_REGISTRY_RESPONSE',
      `Cannot push blob to "${base}": status ${response.status} without a usable Location`,
    );
  return new URL(place, base).href;
}

function finishUrl(location: string, digest: string): string {
  const url = new URL(location);
  url.searchParams.append('digest', digest);
  return url.href;
}

/** The content's bytes [from, to) in blocks, counted as they go out. */
async function* bytesOf(
  upload: Upload,
  from: number,
  to: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  for (let at = from; at < to; at += BLOCK) {
    // A new buffer each time: the socket still holds the last one.
    const block = new Uint8Array(Math.min(BLOCK, to - at));
    await upload.content.read(at, block, upload.signal === undefined ? {} : { signal: upload.signal });
    yield block;
  }
}

async function sendWhole(client: RegistryClient, upload: Upload, location: string): Promise<void> {
  const { size, digest } = upload.descriptor;
  const response = await client.send(
    request(upload, {
      method: 'PUT',
      url: finishUrl(location, digest),
      headers: { 'content-type': 'application/octet-stream', 'content-length': String(size) },
      body: size === 0 ? new Uint8Array(0) : () => bytesOf(upload, 0, size),
      timeoutMs: 0,
    }),
  );
  await expect(client, response, [201, 204]);
  upload.onProgress?.(size);
}

async function sendChunks(client: RegistryClient, upload: Upload, first: string): Promise<void> {
  const { size } = upload.descriptor;
  let location = first;
  let at = 0;
  for (let failures = 0; at < size;) {
    const end = Math.min(at + CHUNK, size);
    const start = at;
    try {
      const response = await client.send(
        request(upload, {
          method: 'PATCH',
          url: location,
          headers: {
            'content-type': 'application/octet-stream',
            'content-length': String(end - start),
            'content-range': `${start}-${end - 1}`,
          },
          body: () => bytesOf(upload, start, end),
          timeoutMs: 0,
        }),
      );
      await expect(client, response, [202, 204]);
      location = locationOf(response, location);
      at = end;
      failures = 0;
    } catch (error) {
      if (!isRetryable(error) || upload.signal?.aborted === true || ++failures >= client.retry.attempts)
        throw error;
      await pause(client.retry.baseMs * 2 ** failures, 'push blob', upload.signal);
      const status = await client.request(request(upload, { method: 'GET', url: location }), [200, 202, 204]);
      await discardBody(status);
      location = locationOf(status, location);
      const range = /^(?:bytes=)?0-(\d{1,15})$/.exec(status.header('range') ?? '');
      const arrived = range === null ? 0 : Number(range[1]) + 1;
      // "0-0" is also how an upload without bytes is described.
      at = arrived <= 1 ? 0 : arrived;
      if (at > size) throw error;
      if (at > start) failures = 0;
    }
    if (at > start) upload.onProgress?.(at - start);
  }
  await finish(client, upload, location);
}

/** Ends a chunked upload. If the answer got lost, the blob may be there all the same. */
async function finish(client: RegistryClient, upload: Upload, location: string): Promise<void> {
  const { digest } = upload.descriptor;
  const headers = { 'content-length': '0' };
  for (let attempt = 1; ; attempt++) {
    try {
      const url = finishUrl(location, digest);
      await expect(
        client,
        await client.send(request(upload, { method: 'PUT', url, headers, timeoutMs: ANSWER_MS })),
        [201, 204],
      );
      return;
    } catch (error) {
      if (!isRetryable(error) || upload.signal?.aborted === true || attempt >= client.retry.attempts)
        throw error;
      await pause(client.retry.baseMs * 2 ** attempt, 'push blob', upload.signal);
      const blob = await client.request(
        request(upload, { method: 'HEAD', url: `${upload.base}/blobs/${digest}` }),
        [200, 404],
      );
      await discardBody(blob);
      if (blob.status === 200) return;
    }
  }
}

async function expect(
  client: RegistryClient,
  response: HttpResponse,
  expected: readonly number[],
): Promise<void> {
  if (!expected.includes(response.status)) throw await client.unexpected(response, 'push blob');
  await discardBody(response);
}

/** Tells the registry that an upload will not go on; it would expire anyway. */
async function cancel(client: RegistryClient, upload: UploadPlace, location: string): Promise<void> {
  try {
    // Without the caller's signal: it may be what ended the upload.
    const quiet: RegistryRequest = {
      ...request(upload, { method: 'DELETE', url: location, timeoutMs: 5000 }),
      signal: undefined,
    };
    await discardBody(await client.send(quiet));
  } catch {
    // It expires.
  }
}
