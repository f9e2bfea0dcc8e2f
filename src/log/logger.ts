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

/**
 * Makes the process's logger.
 * @param destination path of a file to append to, or undefined for stderr.
 */
export function makeLogger(level: LogLevel, destination?: string): Logger {
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
    pino.destination(
      destination === undefined
        ? { dest: 2, sync: true }
        : { dest: destination, mkdir: true, sync: true, mode: 0o640 },
    ),
  );
}

/** A logger that says nothing, for tests and defaults. */
export const silentLogger: Logger = pino({ level: 'silent' });
