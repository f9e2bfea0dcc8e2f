import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

/** One member of a tar made for a test. Texts are UTF-8, or byte strings where `pax` is not used. */
export interface Member {
  readonly path: string;
  /** Type flag; default `5` for paths that end in a slash, otherwise `0`. */
  readonly type?: string;
  readonly content?: string | Uint8Array;
  readonly link?: string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: number;
  readonly major?: number;
  readonly minor?: number;
  /** Records of a PAX header in front. */
  readonly pax?: Readonly<Record<string, string | Uint8Array>>;
}

function octal(value: number, width: number): string {
  return value.toString(8).padStart(width - 1, '0') + '\0';
}

function padded(bytes: Uint8Array): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((512 - (bytes.byteLength % 512)) % 512)]);
}

function header(member: Member, size: number): Buffer {
  const block = Buffer.alloc(512);
  const type = member.type ?? (member.path.endsWith('/') ? '5' : '0');
  block.write(member.path, 0, 100, 'latin1');
  block.write(octal(member.mode ?? (type === '5' ? 0o755 : 0o644), 8), 100, 'latin1');
  block.write(octal(member.uid ?? 0, 8), 108, 'latin1');
  block.write(octal(member.gid ?? 0, 8), 116, 'latin1');
  block.write(octal(size, 12), 124, 'latin1');
  block.write(octal(member.mtime ?? 1_700_000_000, 12), 136, 'latin1');
  block.write(type, 156, 'latin1');
  block.write(member.link ?? '', 157, 100, 'latin1');
  block.write('ustar\x0000', 257, 'latin1');
  block.write(octal(member.major ?? 0, 8), 329, 'latin1');
  block.write(octal(member.minor ?? 0, 8), 337, 'latin1');
  return sealed(block);
}

/** Writes the checksum of a header block. */
export function sealed(block: Buffer): Buffer {
  block.fill(0x20, 148, 156);
  block.write(
    octal(
      block.reduce((sum, byte) => sum + byte, 0),
      7,
    ) + ' ',
    148,
    'latin1',
  );
  return block;
}

function paxBody(records: Readonly<Record<string, string | Uint8Array>>): Buffer {
  return Buffer.concat(
    Object.entries(records).map(([key, value]) => {
      const rest = Buffer.concat([Buffer.from(` ${key}=`), Buffer.from(value), Buffer.from('\n')]);
      let length = rest.length + 1;
      while (String(length).length + rest.length !== length) length++;
      return Buffer.concat([Buffer.from(String(length)), rest]);
    }),
  );
}

/** One member with its header. */
export function memberBytes(member: Member): Buffer {
  const content = Buffer.from(member.content ?? '');
  const parts = [header(member, content.length), padded(content)];
  if (member.pax !== undefined) {
    const body = paxBody(member.pax);
    parts.unshift(header({ path: 'PaxHeaders/x', type: 'x' }, body.length), padded(body));
  }
  return Buffer.concat(parts);
}

/** A tar with its end. */
export function tarOf(members: readonly Member[]): Buffer {
  return Buffer.concat([...members.map(memberBytes), Buffer.alloc(1024)]);
}

/** sha256 digest as images write it. */
export function digest(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** What may be out of the ordinary about an image made by {@link writeLayout}. */
export interface LayoutOptions {
  readonly docker?: boolean;
  readonly config?: Readonly<Record<string, unknown>>;
  readonly diffIds?: readonly string[];
  readonly layerType?: string;
  readonly layerAnnotations?: Readonly<Record<string, string>>;
  readonly manifestAnnotations?: Readonly<Record<string, string>>;
}

/** Makes an OCI layout of one image from plain layer tars, tag `src`; returns its name. */
export function writeLayout(dir: string, tars: readonly Buffer[], options: LayoutOptions = {}): string {
  const blobs = join(dir, 'blobs', 'sha256');
  mkdirSync(blobs, { recursive: true });
  const put = (bytes: Uint8Array, mediaType: string): object => {
    writeFileSync(join(blobs, digest(bytes).slice(7)), bytes);
    return { mediaType, digest: digest(bytes), size: bytes.byteLength };
  };
  const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
  const docker = options.docker === true;
  const layerType =
    options.layerType ??
    (docker
      ? 'application/vnd.docker.image.rootfs.diff.tar.gzip'
      : 'application/vnd.oci.image.layer.v1.tar+gzip');
  const config = put(
    json({
      architecture: 'amd64',
      os: 'linux',
      config: { Env: ['A=b'], Cmd: ['/x'] },
      ...options.config,
      rootfs: { type: 'layers', diff_ids: options.diffIds ?? tars.map(digest) },
      history: [{ created_by: 'test' }],
    }),
    docker ? 'application/vnd.docker.container.image.v1+json' : 'application/vnd.oci.image.config.v1+json',
  );
  const mediaType = docker
    ? 'application/vnd.docker.distribution.manifest.v2+json'
    : 'application/vnd.oci.image.manifest.v1+json';
  const manifest = put(
    json({
      schemaVersion: 2,
      mediaType,
      config,
      layers: tars.map((tar) => ({
        ...put(gzipSync(tar), layerType),
        ...(options.layerAnnotations && { annotations: options.layerAnnotations }),
      })),
      ...(options.manifestAnnotations && { annotations: options.manifestAnnotations }),
    }),
    mediaType,
  );
  writeFileSync(join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(
    join(dir, 'index.json'),
    json({
      schemaVersion: 2,
      manifests: [
        {
          ...manifest,
          platform: { os: 'linux', architecture: 'amd64' },
          annotations: { 'org.opencontainers.image.ref.name': 'src' },
        },
      ],
    }),
  );
  return `oci:${dir}:src`;
}

/** An image of an index made by {@link writeIndexLayout}. */
export interface IndexMember {
  /** `os/arch`. */
  readonly platform: string;
  readonly tars: readonly Buffer[];
  /** Make an attestation of it, as BuildKit does. */
  readonly attested?: boolean;
}

/** Makes an OCI layout of an index, tag `src`; returns its name. */
export function writeIndexLayout(dir: string, members: readonly IndexMember[], more: object[] = []): string {
  const blobs = join(dir, 'blobs', 'sha256');
  mkdirSync(blobs, { recursive: true });
  const put = (bytes: Uint8Array, mediaType: string): { mediaType: string; digest: string; size: number } => {
    writeFileSync(join(blobs, digest(bytes).slice(7)), bytes);
    return { mediaType, digest: digest(bytes), size: bytes.byteLength };
  };
  const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
  const manifestType = 'application/vnd.oci.image.manifest.v1+json';
  const manifestOf = (config: object, layers: object[]): ReturnType<typeof put> =>
    put(
      json({
        schemaVersion: 2,
        mediaType: manifestType,
        config: put(json(config), 'application/vnd.oci.image.config.v1+json'),
        layers,
      }),
      manifestType,
    );
  const images: object[] = [];
  const attestations: object[] = [];
  for (const { platform, tars, attested } of members) {
    const [os, architecture] = platform.split('/');
    const manifest = manifestOf(
      { architecture, os, rootfs: { type: 'layers', diff_ids: tars.map(digest) } },
      tars.map((tar) => put(gzipSync(tar), 'application/vnd.oci.image.layer.v1.tar+gzip')),
    );
    images.push({ ...manifest, platform: { os, architecture } });
    if (attested !== true) continue;
    const statement = json({ _type: 'https://in-toto.io/Statement/v0.1', subject: platform });
    const attestation = manifestOf(
      { architecture: 'unknown', os: 'unknown', rootfs: { type: 'layers', diff_ids: [digest(statement)] } },
      [put(statement, 'application/vnd.in-toto+json')],
    );
    attestations.push({
      ...attestation,
      platform: { os: 'unknown', architecture: 'unknown' },
      annotations: {
        'vnd.docker.reference.digest': manifest.digest,
        'vnd.docker.reference.type': 'attestation-manifest',
      },
    });
  }
  const indexType = 'application/vnd.oci.image.index.v1+json';
  const manifests = [...images, ...attestations, ...more];
  const index = put(
    json({ schemaVersion: 2, mediaType: indexType, manifests, annotations: { made: 'for a test' } }),
    indexType,
  );
  writeFileSync(join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(
    join(dir, 'index.json'),
    json({
      schemaVersion: 2,
      manifests: [{ ...index, annotations: { 'org.opencontainers.image.ref.name': 'src' } }],
    }),
  );
  return `oci:${dir}:src`;
}
