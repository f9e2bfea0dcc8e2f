/**
 * What went wrong, in one place: HTTP statuses and transport errors become {@link RegistryError}s with a code, a URL
 * without query, and what to do; and one table says which codes are worth another try.
 */
import {
  abortedError,
  isSystemError,
  OverlaybdError,
  RegistryError,
  type CodeOf,
  type ErrorFields,
} from '../blob/index.js';
import { redactUrl } from '../log/index.js';

type RegistryCode = CodeOf<'REGISTRY'>;

/** Which failures another try can heal. Exhaustive: a new code does not compile until it is here. */
export const RETRYABLE: Readonly<Record<RegistryCode, boolean>> = {
  OBD_REGISTRY_AUTH: false,
  OBD_REGISTRY_NOT_FOUND: false,
  OBD_REGISTRY_THROTTLED: true,
  OBD_REGISTRY_SERVER: true,
  OBD_REGISTRY_RESPONSE: false,
  OBD_REGISTRY_CONNECTION: true,
  OBD_REGISTRY_TIMEOUT: true,
  OBD_REGISTRY_TLS: false,
  OBD_REGISTRY_DIGEST: false,
};

/** An answer with a status that was not asked for. */
export class HttpStatusError extends RegistryError {
  override name = 'HttpStatusError';
  readonly status: number;
  /** From Retry-After, if the answer had a usable one. */
  readonly retryAfterMs: number | undefined;

  constructor(
    code: RegistryCode,
    message: string,
    answer: { readonly status: number; readonly retryAfterMs: number | undefined },
    fields: ErrorFields,
  ) {
    super(code, message, { ...fields, actual: answer.status });
    this.status = answer.status;
    this.retryAfterMs = answer.retryAfterMs;
  }
}

function codeOfStatus(status: number): RegistryCode {
  if (status === 401 || status === 403 || status === 407) return 'OBD_REGISTRY_AUTH';
  if (status === 404 || status === 410) return 'OBD_REGISTRY_NOT_FOUND';
  if (status === 408) return 'OBD_REGISTRY_TIMEOUT';
  if (status === 429) return 'OBD_REGISTRY_THROTTLED';
  if (status >= 500) return 'OBD_REGISTRY_SERVER';
  return 'OBD_REGISTRY_RESPONSE';
}

const MEANING: Readonly<Record<number, string>> = {
  401: 'the registry wants other credentials',
  403: 'the registry refuses access',
  404: 'not found',
  416: 'the range lies outside the content',
  429: 'too many requests',
  500: 'the server failed',
  502: 'bad gateway',
  503: 'the server is overloaded or down',
  504: 'gateway timeout',
};

/** Milliseconds from a Retry-After value: seconds or a date. Undefined if it is neither. */
export function parseRetryAfter(value: string | undefined, nowMs: number): number | undefined {
  if (value === undefined) return undefined;
  if (/^\s*\d{1,9}\s*$/.test(value)) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, date - nowMs);
}

/** What the body of an error answer says, if it is in the registries' form; one bounded line of plain text. */
export function registryMessage(body: Buffer): string | undefined {
  try {
    const { errors } = JSON.parse(body.toString('utf8')) as { errors?: unknown };
    const first: unknown = Array.isArray(errors) ? errors[0] : undefined;
    if (typeof first !== 'object' || first === null) return undefined;
    const { code, message } = first as { code?: unknown; message?: unknown };
    const text = [code, message].filter((part) => typeof part === 'string' && part !== '').join(': ');
    return text === '' ? undefined : text.replace(/[^\x20-\x7e]+/g, ' ').slice(0, 200);
  } catch {
    return undefined;
  }
}

/** The error of an answer with the wrong status. */
export function statusError(
  action: string,
  url: string,
  answer: {
    readonly status: number;
    readonly retryAfter: string | undefined;
    readonly body: Buffer | undefined;
  },
): HttpStatusError {
  const { status } = answer;
  const source = redactUrl(url);
  const said = answer.body === undefined ? undefined : registryMessage(answer.body);
  const meaning = MEANING[status];
  const why = [
    `HTTP status ${status}`,
    meaning === undefined ? '' : ` (${meaning})`,
    said === undefined ? '' : `: ${said}`,
  ];
  const code = codeOfStatus(status);
  const hint =
    code === 'OBD_REGISTRY_AUTH'
      ? 'Check the credentials of this host and repository: cred.json, docker login, or the credential service'
      : status === 416
        ? 'The size in the image configuration is not that of the blob in the registry'
        : undefined;
  return new HttpStatusError(
    code,
    `Cannot ${action} from "${source}": ${why.join('')}`,
    { status, retryAfterMs: parseRetryAfter(answer.retryAfter, Date.now()) },
    { source, ...(hint === undefined ? {} : { hint }) },
  );
}

const TIMEOUTS = new Set([
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_BODY_TIMEOUT',
  'ETIMEDOUT',
]);

/** Codes of OpenSSL's verification and of the TLS handshake. */
function isTlsCode(code: string): boolean {
  return /^(ERR_TLS_|ERR_SSL_|ERR_OSSL_|CERT_|UNABLE_TO_|DEPTH_ZERO_|SELF_SIGNED_|HOSTNAME_MISMATCH|INVALID_CA|INVALID_PURPOSE|PATH_LENGTH_EXCEEDED|CRL_|EPROTO)/.test(
    code,
  );
}

function tlsHint(code: string, message: string): string {
  if (
    /WRONG_VERSION_NUMBER|packet length too long|wrong version number|http request/i.test(
      `${code} ${message}`,
    )
  )
    return 'The server does not speak TLS; if that is intended, name the host as insecure (--plain-http, or registryConfig.plainHttpHosts)';
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return 'The certificate is for another host name';
  if (code === 'CERT_HAS_EXPIRED' || code === 'CERT_NOT_YET_VALID')
    return 'Check the certificate and the clock of this machine';
  if (/CERTIFICATE_REQUIRED|BAD_CERTIFICATE|HANDSHAKE_FAILURE/.test(code))
    return 'The server wants a client certificate (certConfig)';
  return 'Give the authority that signed the certificate (--tls-ca), or put it into the system store';
}

/**
 * Turns what undici, TLS or a socket threw into an error of ours. Ours pass unchanged.
 * @param signal the caller's: if it fired, the error says so whatever the transport made of it.
 * @param timeoutMs the limit that our own deadline had.
 */
export function transportError(
  error: unknown,
  action: string,
  url: string,
  options: { readonly signal?: AbortSignal | undefined; readonly timeoutMs?: number | undefined } = {},
): OverlaybdError {
  if (error instanceof OverlaybdError) return error;
  const source = redactUrl(url);
  if (options.signal?.aborted === true) return abortedError(`${action} from "${source}"`, options.signal);
  const inner = innermost(error);
  const code = isSystemError(inner) ? inner.code : '';
  const reason = inner instanceof Error && inner.message !== '' ? inner.message : code || String(error);
  const fail = (kind: RegistryCode, why: string, hint?: string): RegistryError =>
    new RegistryError(kind, `Cannot ${action} from "${source}": ${why}`, {
      source,
      cause: error,
      ...(hint === undefined ? {} : { hint }),
    });
  if (inner instanceof DeadlineError || TIMEOUTS.has(code))
    return fail(
      'OBD_REGISTRY_TIMEOUT',
      inner instanceof DeadlineError ? `no answer within ${inner.timeoutMs} ms` : reason,
    );
  if (isTlsCode(code)) return fail('OBD_REGISTRY_TLS', reason, tlsHint(code, reason));
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN')
    return fail('OBD_REGISTRY_CONNECTION', `the host name does not resolve (${code})`);
  if (code.startsWith('HPE_'))
    return fail(
      'OBD_REGISTRY_RESPONSE',
      `the answer is not HTTP: ${reason}`,
      'Check scheme and port of the host',
    );
  // Under TLS 1.3 a server that misses a client certificate closes the connection after the handshake.
  const silent = code === 'UND_ERR_SOCKET' && url.startsWith('https:');
  return fail(
    'OBD_REGISTRY_CONNECTION',
    reason,
    silent ? 'If the server demands a client certificate, name it (certConfig, --tls-cert)' : undefined,
  );
}

/** The reason our own deadlines abort with. */
export class DeadlineError extends Error {
  override name = 'DeadlineError';
  readonly timeoutMs: number;
  constructor(timeoutMs: number) {
    super(`no answer within ${timeoutMs} ms`);
    this.timeoutMs = timeoutMs;
  }
}

/** The error that has the code: undici and happy eyeballs wrap it. */
function innermost(error: unknown): unknown {
  let inner = error;
  for (let depth = 0; depth < 5; depth++) {
    if (inner instanceof AggregateError && inner.errors.length > 0) inner = inner.errors.at(-1);
    else if (inner instanceof Error && !isSystemError(inner) && inner.cause !== undefined)
      inner = inner.cause;
    else if (isSystemError(inner) && inner.code === 'UND_ERR_ABORTED' && inner.cause !== undefined)
      inner = inner.cause;
    else break;
  }
  return inner;
}

/** True if another try may succeed. */
export function isRetryable(error: unknown): boolean {
  if (!(error instanceof RegistryError)) return false;
  return error instanceof HttpStatusError && error.status === 501 ? false : RETRYABLE[error.code];
}
