import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** PEM files of a private authority and what it signed. */
export interface Certificates {
  readonly ca: string;
  readonly serverCert: string;
  readonly serverKey: string;
  /** A client's certificate, its intermediate authority's, and its key, in one file. */
  readonly clientPem: string;
}

/** Makes a private authority with openssl: a server certificate for 127.0.0.1, a client's through an intermediate. */
export function makeCertificates(directory: string): Certificates {
  const at = (name: string): string => join(directory, name);
  const openssl = (...args: string[]): void => {
    execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  };
  const authority = 'basicConstraints=critical,CA:TRUE';
  const make = (name: string, signer: string | undefined, extension: string): void => {
    openssl(
      'req',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-keyout',
      at(`${name}.key`),
      '-out',
      at(`${name}.csr`),
      '-subj',
      `/CN=obd test ${name}`,
    );
    writeFileSync(at(`${name}.ext`), extension);
    const sign =
      signer === undefined
        ? ['-signkey', at(`${name}.key`)]
        : ['-CA', at(`${signer}.crt`), '-CAkey', at(`${signer}.key`), '-CAcreateserial'];
    openssl(
      'x509',
      '-req',
      '-in',
      at(`${name}.csr`),
      ...sign,
      '-days',
      '2',
      '-extfile',
      at(`${name}.ext`),
      '-out',
      at(`${name}.crt`),
    );
  };
  make('ca', undefined, authority);
  make('server', 'ca', 'subjectAltName=IP:127.0.0.1');
  make('intermediate', 'ca', authority);
  make('client', 'intermediate', 'extendedKeyUsage=clientAuth');
  const client = ['client.crt', 'intermediate.crt', 'client.key'].map((name) =>
    readFileSync(at(name), 'utf8'),
  );
  writeFileSync(at('client.pem'), client.join(''));
  return {
    ca: at('ca.crt'),
    serverCert: at('server.crt'),
    serverKey: at('server.key'),
    clientPem: at('client.pem'),
  };
}
