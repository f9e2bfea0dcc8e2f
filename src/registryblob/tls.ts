/** Certificates: whom we believe, and who we are. Read once, when the client is made. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { createSecureContext, rootCertificates, type SecureContext } from 'node:tls';
import { ConfigError } from '../blob/index.js';

/** Files in PEM. */
export interface TlsFiles {
  /** Authorities to believe besides the system's: files, or directories of `.crt` and `.pem` files. */
  readonly ca?: readonly string[];
  /** Client certificate, with its chain. */
  readonly certFile?: string;
  /** Its key; absent or empty: in `certFile` too. */
  readonly keyFile?: string;
}

/** Where distributions keep the bundle of the authorities they believe. */
const SYSTEM_BUNDLES = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/certs/ca-bundle.crt',
  '/etc/ssl/cert.pem',
];

function read(path: string, what: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new ConfigError('OBD_CONFIG_NOT_FOUND', `Cannot read ${what} "${path}"`, {
      source: path,
      cause: error,
    });
  }
}

function authorities(paths: readonly string[]): Buffer[] {
  return paths.flatMap((path) => {
    if (existsSync(path) && statSync(path).isDirectory())
      return readdirSync(path)
        .filter((name) => /\.(crt|pem)$/.test(name))
        .sort()
        .map((name) => read(join(path, name), 'certificate authority'));
    return [read(path, 'certificate authority')];
  });
}

function systemAuthorities(): (string | Buffer)[] {
  const bundle = [process.env['SSL_CERT_FILE'], ...SYSTEM_BUNDLES].find(
    (path) => path !== undefined && existsSync(path),
  );
  return bundle === undefined ? [...rootCertificates] : [readFileSync(bundle)];
}

/**
 * One TLS context for all connections: parsing the system's bundle costs some 10 ms, so not per connection.
 * @throws ConfigError if a file is missing or not PEM.
 */
export function loadTls(files: TlsFiles): SecureContext {
  const ca = [...systemAuthorities(), ...authorities(files.ca ?? [])];
  if (!files.certFile) return makeContext({ ca }, files);
  const cert = read(files.certFile, 'client certificate');
  const key = files.keyFile ? read(files.keyFile, 'key of the client certificate') : cert;
  return makeContext({ ca, cert, key }, files);
}

function makeContext(options: Parameters<typeof createSecureContext>[0], files: TlsFiles): SecureContext {
  try {
    return createSecureContext(options);
  } catch (error) {
    const names = [...(files.ca ?? []), files.certFile, files.keyFile].filter(Boolean).join(', ');
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot use TLS files ${names}: not PEM, or key and certificate do not match`,
      {
        cause: error,
      },
    );
  }
}
