import { createPrivateKey, randomUUID, sign, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { scriptedServer, type ScriptedServer, type SeenRequest } from './scripted-server.js';

/** Who may do what, and for how long. */
export interface TokenServerOptions {
  /** PEM of the certificate that the registry trusts, and its key. */
  readonly certFile: string;
  readonly keyFile: string;
  readonly lifetimeS: number;
  /** Without it everybody gets what they ask for; with it anonymous users get to pull only. */
  readonly user?: { readonly username: string; readonly password: string };
  /** Takes a refresh token instead of a password. */
  readonly identityToken?: string;
}

const base64url = (bytes: Uint8Array | string): string => Buffer.from(bytes).toString('base64url');

/** A token server in the distribution project's protocol: signs what `auth.token` of a registry believes. */
export async function tokenServer(options: TokenServerOptions): Promise<ScriptedServer> {
  const key = createPrivateKey(readFileSync(options.keyFile));
  const der = new X509Certificate(readFileSync(options.certFile)).raw.toString('base64');
  return scriptedServer((request, response) => {
    const query =
      request.method === 'POST'
        ? new URLSearchParams(request.body.toString())
        : new URL(request.url, 'http://x').searchParams;
    const known = identify(request, query, options);
    if (known === 'refused') {
      response
        .writeHead(401, { 'content-type': 'application/json' })
        .end('{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}');
      return;
    }
    const access = query
      .getAll('scope')
      .flatMap((scope) => scope.split(' '))
      .map((scope) => scope.split(':'))
      .map(([type, name, actions = '']) => ({
        type,
        name,
        actions: actions
          .split(',')
          .filter((action) => known === 'user' || options.user === undefined || action === 'pull'),
      }));
    const now = Math.floor(Date.now() / 1000);
    const claims = {
      iss: 'obd test',
      sub: known === 'user' ? (options.user?.username ?? 'token') : '',
      aud: query.get('service'),
      // Signed times are whole seconds; the registry allows a minute of leeway after the end.
      exp: now + Math.max(1, Math.round(options.lifetimeS)),
      nbf: now - 30,
      iat: now,
      jti: randomUUID(),
      access,
    };
    const head = base64url(JSON.stringify({ typ: 'JWT', alg: 'RS256', x5c: [der] }));
    const body = base64url(JSON.stringify(claims));
    const token = `${head}.${body}.${base64url(sign('sha256', Buffer.from(`${head}.${body}`), key))}`;
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(
      JSON.stringify({
        [request.method === 'POST' ? 'access_token' : 'token']: token,
        expires_in: options.lifetimeS,
      }),
    );
  });
}

function identify(
  request: SeenRequest,
  query: URLSearchParams,
  options: TokenServerOptions,
): 'user' | 'anonymous' | 'refused' {
  if (request.method === 'POST')
    return query.get('refresh_token') === options.identityToken ? 'user' : 'refused';
  const { authorization } = request.headers;
  if (authorization === undefined) return 'anonymous';
  const given = Buffer.from(authorization.replace('Basic ', ''), 'base64').toString();
  return given === `${options.user?.username ?? ''}:${options.user?.password ?? ''}` ? 'user' : 'refused';
}
