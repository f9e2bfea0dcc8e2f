/**
 * `--upload URL`: the layer also goes to a registry, where nothing but the blob is stored yet. What speaks to registries
 * is loaded when it is wanted: most commits upload nothing, and should not wait for it.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { Option, type Command } from 'commander';
import { ConfigError, FileBlob } from '../../blob/index.js';

/** What {@link addUploadOptions} parses. */
export interface UploadFlags {
  readonly upload?: string;
  readonly cred_file_path?: string;
  readonly tls_key_path?: string;
  readonly tls_cert_path?: string;
  readonly t?: boolean;
}

/** Adds `--upload` and what belongs to it. */
export function addUploadOptions(command: Command): Command {
  return command
    .option('--upload <url>', 'upload too: https://HOST/v2/REPOSITORY/blobs/uploads/')
    .option('--cred_file_path <file>', 'credentials for the upload ({"auths": ...})')
    .option('--tls_key_path <file>', 'client key for the upload (PEM)')
    .option('--tls_cert_path <file>', 'client certificate for the upload (PEM)')
    .addOption(new Option('--upload_bs <KiB>', 'has no effect'));
}

interface UploadPlace {
  readonly scheme: 'http' | 'https';
  readonly host: string;
  readonly repository: string;
}

async function parseUploadUrl(url: string): Promise<UploadPlace> {
  const { isHost, isRepository } = await import('../../registryblob/index.js');
  const match = /^(https?):\/\/([^/]+)\/v2\/(.+)\/blobs\/uploads\/?$/.exec(url);
  const [, scheme = '', host = '', repository = ''] = match ?? [];
  if (!isHost(host) || !isRepository(repository))
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot upload to "${withoutUser(url)}": expected https://HOST/v2/REPOSITORY/blobs/uploads/`,
    );
  return { scheme: scheme === 'http' ? 'http' : 'https', host, repository };
}

/** A URL for a message. */
function withoutUser(url: string): string {
  return url.replace(/^([a-z]+:\/\/)[^/@]*@/, '$1').replace(/\?.*$/, '');
}

/**
 * What to do with a layer that is written and not yet named; undefined if nothing is to be uploaded. The digest goes to
 * stderr.
 * @throws ConfigError
 */
export async function uploadOf(
  flags: UploadFlags,
  signal: AbortSignal,
): Promise<((path: string) => Promise<void>) | undefined> {
  if (flags.upload === undefined || flags.upload === '') return undefined;
  if (flags.t === true)
    throw new ConfigError('OBD_CONFIG_VALUE', 'Options -t and --upload exclude each other');
  const { scheme, host, repository } = await parseUploadUrl(flags.upload);
  const { cred_file_path: credentials, tls_cert_path: certFile, tls_key_path: keyFile } = flags;
  const [{ RegistryImage }, { FileCredentials, RegistryClient }] = await Promise.all([
    import('../../oci/index.js'),
    import('../../registryblob/index.js'),
  ]);
  return async (path) => {
    const client = new RegistryClient({
      credentials: credentials === undefined || credentials === '' ? [] : [new FileCredentials(credentials)],
      plainHttpHosts: scheme === 'http' ? [host] : [],
      tls: {
        ...(certFile === undefined || certFile === '' ? {} : { certFile }),
        ...(keyFile === undefined || keyFile === '' ? {} : { keyFile }),
      },
    });
    const blob = await FileBlob.open(path);
    try {
      const digest = await digestOfFile(path);
      const image = new RegistryImage(client, {
        registry: host,
        host,
        repository,
        tag: undefined,
        digest: undefined,
      });
      await image.pushBlob({ digest, size: blob.size }, blob, { signal });
      process.stderr.write(`${digest}\n`);
    } finally {
      await blob.close();
      await client.close();
    }
  };
}

async function digestOfFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }))
    hash.update(chunk as Uint8Array);
  return `sha256:${hash.digest('hex')}`;
}
