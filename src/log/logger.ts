import { RotatingFile, type Rotation } from './rotating-file.js';
import { pino, type Logger as PinoLogger } from 'pino';

/** What rooms log to: JSON lines with a fixed message and variables in fields. Injected, never global. */
export type Logger = Pick<PinoLogger, 'trace' | 'debug' | 'info' | 'warn' | 'error'> & {
  child(fields: Record<string, unknown>): Logger;
};

/** Levels from most to least. `silent` is for tests. */
export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'silent';

const SECRET_KEYS = ['authorization', 'password', 'secret', 'token', 'identitytoken', 'auth', 'cookie'];

/** The URL without user information, query and fragment: those may hold credentials or signatures. */
export function redactUrl(url: string): string {
  try {
    const parsed = new URL(url);
    return `${parsed.protocol}//${parsed.host}${parsed.pathname}`;
  } catch {
    return '[unparsable URL]';
  }
}

/** As overlaybd: 10 MB, three old files. */
const DEFAULT_ROTATION: Rotation = { maxBytes: 10 << 20, keep: 3 };

/**
 * Makes the process's logger.
 * @param destination a file, or the path of one to append to, or undefined for stderr.
 * @param rotation bounds of the file that is opened.
 */
export function makeLogger(
  level: LogLevel,
  destination?: string | RotatingFile,
  rotation: Rotation = DEFAULT_ROTATION,
): Logger {
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: SECRET_KEYS.flatMap((key) => [key, `*.${key}`, `*.*.${key}`]), censor: '[redacted]' },
      serializers: {
        url: (url: unknown) => (typeof url === 'string' ? redactUrl(url) : url),
        err: pino.stdSerializers.errWithCause,
      },
    },
    destination === undefined
      ? pino.destination({ dest: 2, sync: true })
      : typeof destination === 'string'
        ? new RotatingFile(destination, rotation)
        : destination,
  );
}

/** A logger that says nothing, for tests and defaults. */
export const silentLogger: Logger = pino({ level: 'silent' });
