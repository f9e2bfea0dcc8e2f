/**
 * Names of images and of blobs.
 *
 *   reference   [host[:port]/]path[/path..][:tag][@digest]      debian:12, localhost:5000/a/b@sha256:..
 *   blob URL    https://host[:port]/v2/path[/path..]/blobs/digest
 *
 * The grammar is that of the distribution project (and so of docker, skopeo and containerd); a reference without host
 * means Docker Hub, where a single path component means `library/`.
 */
import { ConfigError } from '../blob/index.js';

/** Docker Hub's name in references, and the host that answers its API. */
const HUB = 'docker.io';
const HUB_API = 'registry-1.docker.io';

/** Longest `host/path` that registries take. */
const MAX_NAME = 255;

const COMPONENT = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const DIGEST = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;
const DOMAIN_LABELS =
  /^[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*$/;
const IPV6 = /^\[[0-9A-Fa-f:.]+\]$/;

/** A parsed image name. At least one of `tag` and `digest` is set; where both are, the digest decides. */
export interface ImageReference {
  /** As in the name, normalised: `docker.io`, `localhost:5000`, `[::1]:5000`. Keys of credentials use this. */
  readonly registry: string;
  /** Host[:port] that serves the API. Differs from `registry` for Docker Hub only. */
  readonly host: string;
  readonly repository: string;
  readonly tag: string | undefined;
  readonly digest: string | undefined;
}

/** A parsed blob URL. */
export interface BlobLocation {
  readonly scheme: 'http' | 'https';
  /** Host[:port] as in the URL, lower case. */
  readonly host: string;
  readonly repository: string;
  readonly digest: string;
  /** The URL in one spelling, so that it can key a cache. */
  readonly url: string;
}

function refuse(text: string, why: string, hint?: string): never {
  throw new ConfigError('OBD_CONFIG_VALUE', `Cannot parse image reference "${text.slice(0, 300)}": ${why}`, {
    source: text.slice(0, 300),
    ...(hint === undefined ? {} : { hint }),
  });
}

/** True for `host`, `host:port`, `[v6]`, `[v6]:port`. */
export function isHost(text: string): boolean {
  const match = /^(.*?)(?::(\d{1,5}))?$/s.exec(text);
  const [, name = '', port] = match ?? [];
  if (port !== undefined && (Number(port) === 0 || Number(port) > 65535)) return false;
  return DOMAIN_LABELS.test(name) || (IPV6.test(name) && URL.canParse(`http://${name}/`));
}

/** True if the first path component of a reference names a host rather than a directory of Docker Hub. */
function looksLikeHost(component: string): boolean {
  return (
    component === 'localhost' ||
    component.includes('.') ||
    component.includes(':') ||
    component.startsWith('[') ||
    component !== component.toLowerCase()
  );
}

/** True for a repository path that every registry takes. */
export function isRepository(text: string): boolean {
  return text.length <= MAX_NAME && text.split('/').every((part) => COMPONENT.test(part));
}

/** True for a tag. */
export function isTag(text: string): boolean {
  return TAG.test(text);
}

/** True for a digest of an algorithm that we can check. */
export function isBlobDigest(text: string): boolean {
  return DIGEST.test(text);
}

/**
 * Parses an image reference. Without tag and digest the tag is `latest`.
 * @throws ConfigError OBD_CONFIG_VALUE that says which part is wrong.
 */
export function parseReference(text: string): ImageReference {
  if (text.length > 600) refuse(text, `${text.length} characters are too many`);
  let rest = text;
  let digest: string | undefined;
  const at = rest.indexOf('@');
  if (at >= 0) {
    digest = rest.slice(at + 1);
    rest = rest.slice(0, at);
    if (!DIGEST.test(digest)) refuse(text, `"${digest}" is no digest, expected sha256:<64 hex digits>`);
  }
  let tag: string | undefined;
  const colon = rest.lastIndexOf(':');
  if (colon > rest.lastIndexOf('/') && !rest.endsWith(']')) {
    tag = rest.slice(colon + 1);
    rest = rest.slice(0, colon);
    if (!TAG.test(tag))
      refuse(
        text,
        `"${tag}" is no tag, expected up to 128 of A-Z a-z 0-9 _ . - that start with a letter or digit`,
      );
  }
  if (rest === '')
    refuse(
      text,
      'it has no repository',
      'Write host/repository:tag, for example docker.io/library/debian:12',
    );
  if (rest.includes('://')) refuse(text, 'a reference has no scheme', 'Leave out http:// or https://');
  const slash = rest.indexOf('/');
  const first = slash < 0 ? rest : rest.slice(0, slash);
  let registry = HUB;
  let repository = rest;
  if (slash >= 0 && looksLikeHost(first)) {
    registry = first.toLowerCase();
    repository = rest.slice(slash + 1);
    if (!isHost(registry)) refuse(text, `"${first}" is no host[:port]`);
  }
  if (registry === 'index.docker.io' || registry === HUB_API) registry = HUB;
  if (registry === HUB && !repository.includes('/')) repository = `library/${repository}`;
  if (registry.length + 1 + repository.length > MAX_NAME)
    refuse(text, `host and repository have more than ${MAX_NAME} characters`);
  const wrong = repository.split('/').find((part) => !COMPONENT.test(part));
  if (wrong !== undefined)
    refuse(
      text,
      repository === repository.toLowerCase()
        ? `"${wrong}" is no repository component`
        : `repository "${repository}" must be lower case`,
    );
  if (tag === undefined && digest === undefined) tag = 'latest';
  return { registry, host: registry === HUB ? HUB_API : registry, repository, tag, digest };
}

/** The reference as one writes it, always with host. Parses back to the same. */
export function formatReference(reference: ImageReference): string {
  const { registry, repository, tag, digest } = reference;
  return `${registry}/${repository}${tag === undefined ? '' : `:${tag}`}${digest === undefined ? '' : `@${digest}`}`;
}

/**
 * Parses the URL of a blob: an image configuration's `repoBlobUrl` + `/` + digest.
 * @throws ConfigError OBD_CONFIG_VALUE. User information in the URL is refused: it would end up in logs.
 */
export function parseBlobUrl(text: string): BlobLocation {
  const bad = (why: string): never => {
    const shown =
      text
        .replace(/\/\/[^/@]*@/, '//')
        .split(/[?#]/)[0]
        ?.slice(0, 600) ?? '';
    throw new ConfigError('OBD_CONFIG_VALUE', `Cannot use blob URL "${shown}": ${why}`, {
      source: shown,
      hint: 'Expected https://host[:port]/v2/repository/blobs/sha256:<64 hex digits>',
    });
  };
  if (text.length > 2000 || !URL.canParse(text)) return bad('it is no URL');
  const url = new URL(text);
  if (url.protocol !== 'https:' && url.protocol !== 'http:')
    return bad(`scheme "${url.protocol}" is not https or http`);
  if (url.username !== '' || url.password !== '') return bad('it carries a user name or password');
  if (url.search !== '' || url.hash !== '') return bad('it has a query or fragment');
  // Doubled slashes occur where a repoBlobUrl was written with one at its end.
  const parts = url.pathname.split('/').filter((part) => part !== '');
  // The only character of a digest that some encode.
  const digest = (parts.at(-1) ?? '').replace(/%3a/gi, ':');
  if (parts[0] !== 'v2' || parts.at(-2) !== 'blobs' || parts.length < 4)
    return bad('its path is not /v2/repository/blobs/digest');
  const repository = parts.slice(1, -2).join('/');
  if (!isRepository(repository)) return bad(`"${repository}" is no repository`);
  if (!DIGEST.test(digest)) return bad(`"${digest}" is no digest`);
  const scheme = url.protocol === 'https:' ? 'https' : 'http';
  return {
    scheme,
    host: url.host,
    repository,
    digest,
    url: `${scheme}://${url.host}/v2/${repository}/blobs/${digest}`,
  };
}

/** URL of a blob. */
export function blobUrl(scheme: 'http' | 'https', host: string, repository: string, digest: string): string {
  return `${scheme}://${host}/v2/${repository}/blobs/${digest}`;
}
