/** Errors as the distribution specification words them. */

/** Codes of the distribution specification. */
export type DistributionCode =
  | 'BLOB_UNKNOWN'
  | 'BLOB_UPLOAD_INVALID'
  | 'BLOB_UPLOAD_UNKNOWN'
  | 'DIGEST_INVALID'
  | 'MANIFEST_BLOB_UNKNOWN'
  | 'MANIFEST_INVALID'
  | 'MANIFEST_UNKNOWN'
  | 'NAME_INVALID'
  | 'NAME_UNKNOWN'
  | 'SIZE_INVALID'
  | 'UNAUTHORIZED'
  | 'DENIED'
  | 'UNSUPPORTED'
  | 'TOOMANYREQUESTS';

/** Thrown inside the server, answered as JSON. */
export class Refusal extends Error {
  override name = 'Refusal';
  readonly status: number;
  readonly code: DistributionCode;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    status: number,
    code: DistributionCode,
    message: string,
    headers: Readonly<Record<string, string>> = {},
  ) {
    super(message);
    this.status = status;
    this.code = code;
    this.headers = headers;
  }

  body(): Buffer {
    return Buffer.from(
      JSON.stringify({ errors: [{ code: this.code, message: this.message, detail: {} }] }) + '\n',
    );
  }
}
